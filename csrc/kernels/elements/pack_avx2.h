/* Packing with AVX2, for pack_body.h: each function processes whole vectors and returns how many codes that were. The
 * compiler's own loops take two to three times as long. */
#define V_PACKS 1

V_INLINE int64_t v_pack_4(const uint8_t *codes, uint8_t *bytes, int64_t n) {
    const __m256i low = _mm256_set1_epi8(15), places = _mm256_set1_epi16(0x1001);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m256i a = _mm256_and_si256(_mm256_loadu_si256((const void *)(codes + i)), low);
        __m256i b = _mm256_and_si256(_mm256_loadu_si256((const void *)(codes + i + 32)), low);
        __m256i packed = _mm256_packus_epi16(_mm256_maddubs_epi16(a, places), _mm256_maddubs_epi16(b, places));
        _mm256_storeu_si256((void *)(bytes + i / 2), _mm256_permute4x64_epi64(packed, 0xD8));
    }
    return i;
}

V_INLINE int64_t v_unpack_4(const uint8_t *bytes, uint8_t *codes, int64_t n) {
    const __m256i low = _mm256_set1_epi8(15);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m256i packed = _mm256_permute4x64_epi64(_mm256_loadu_si256((const void *)(bytes + i / 2)), 0xD8);
        __m256i even = _mm256_and_si256(packed, low), odd = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        _mm256_storeu_si256((void *)(codes + i), _mm256_unpacklo_epi8(even, odd));
        _mm256_storeu_si256((void *)(codes + i + 32), _mm256_unpackhi_epi8(even, odd));
    }
    return i;
}

V_INLINE int64_t v_pack_2(const uint8_t *codes, uint8_t *bytes, int64_t n) {
    const __m256i low = _mm256_set1_epi8(3), pairs = _mm256_set1_epi16(0x0401), fours = _mm256_set1_epi32(0x00100001);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int64_t i = 0;
    for (; i + 128 <= n; i += 128) {
        __m256i v[4];
        for (int k = 0; k < 4; k++) {
            __m256i c = _mm256_and_si256(_mm256_loadu_si256((const void *)(codes + i + 32 * k)), low);
            v[k] = _mm256_madd_epi16(_mm256_maddubs_epi16(c, pairs), fours);
        }
        __m256i packed = _mm256_packus_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
        _mm256_storeu_si256((void *)(bytes + i / 4), _mm256_permutevar8x32_epi32(packed, order));
    }
    return i;
}

V_INLINE int64_t v_unpack_2(const uint8_t *bytes, uint8_t *codes, int64_t n) {
    const __m256i low = _mm256_set1_epi8(3);
    int64_t i = 0;
    for (; i + 128 <= n; i += 128) {
        __m256i packed = _mm256_loadu_si256((const void *)(bytes + i / 4));
        __m256i c0 = _mm256_and_si256(packed, low), c1 = _mm256_and_si256(_mm256_srli_epi16(packed, 2), low);
        __m256i c2 = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        __m256i c3 = _mm256_and_si256(_mm256_srli_epi16(packed, 6), low);
        __m256i a = _mm256_unpacklo_epi8(c0, c1), b = _mm256_unpacklo_epi8(c2, c3);
        __m256i c = _mm256_unpackhi_epi8(c0, c1), d = _mm256_unpackhi_epi8(c2, c3);
        __m256i v0 = _mm256_unpacklo_epi16(a, b), v1 = _mm256_unpackhi_epi16(a, b);
        __m256i v2 = _mm256_unpacklo_epi16(c, d), v3 = _mm256_unpackhi_epi16(c, d);
        _mm256_storeu_si256((void *)(codes + i), _mm256_permute2x128_si256(v0, v1, 0x20));
        _mm256_storeu_si256((void *)(codes + i + 32), _mm256_permute2x128_si256(v2, v3, 0x20));
        _mm256_storeu_si256((void *)(codes + i + 64), _mm256_permute2x128_si256(v0, v1, 0x31));
        _mm256_storeu_si256((void *)(codes + i + 96), _mm256_permute2x128_si256(v2, v3, 0x31));
    }
    return i;
}

V_INLINE int64_t v_pack_1(const uint8_t *codes, uint8_t *bytes, int64_t n) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i sign = _mm256_slli_epi16(_mm256_loadu_si256((const void *)(codes + i)), 7);
        uint32_t bits = (uint32_t)_mm256_movemask_epi8(sign);
        memcpy(bytes + i / 8, &bits, sizeof bits);
    }
    return i;
}

V_INLINE int64_t v_unpack_1(const uint8_t *bytes, uint8_t *codes, int64_t n) {
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x((int64_t)0x8040201008040201), one = _mm256_set1_epi8(1);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        int32_t bits;
        memcpy(&bits, bytes + i / 8, sizeof bits);
        __m256i bit = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte_of), bit_of);
        _mm256_storeu_si256((void *)(codes + i), _mm256_min_epu8(bit, one));
    }
    return i;
}
