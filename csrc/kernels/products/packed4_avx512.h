/* The primitives of packed4_body.h in AVX-512: 16 columns are one vector. With VNNI vpdpbusd adds four products to an
 * int32 at once; without it they work as in packed4_avx2.h. */

typedef __m512i v4_codes, v4_sums, v4_i32;
typedef __m512 v4_f32;

enum { V4_ROWS = 8 };

V_INLINE v4_codes v4_low(const uint8_t *p) { return _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(15)); }
V_INLINE v4_codes v4_high(const uint8_t *p) {
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(p), 4), _mm512_set1_epi8(15));
}
V_INLINE v4_codes v4_plus(v4_codes a, v4_codes b) { return _mm512_add_epi8(a, b); }
#ifdef V4_VNNI
V_INLINE v4_sums v4_begin(v4_i32 sum) { return sum; }
V_INLINE v4_sums v4_dot(v4_sums s, v4_codes u, const int8_t *a) {
    int32_t quartet;
    memcpy(&quartet, a, sizeof quartet);
    return _mm512_dpbusd_epi32(s, u, _mm512_set1_epi32(quartet));
}
V_INLINE v4_i32 v4_end(v4_i32 sum, v4_sums s) { return (void)sum, s; }
V_INLINE v4_i32 v4_times(v4_i32 sum, v4_i32 n, const int32_t *by) {
    return _mm512_dpwssd_epi32(sum, n, _mm512_set1_epi32(*by));
}
#else
V_INLINE v4_sums v4_begin(v4_i32 sum) { return (void)sum, _mm512_setzero_si512(); }
V_INLINE v4_sums v4_dot(v4_sums s, v4_codes u, const int8_t *a) {
    int32_t quartet;
    memcpy(&quartet, a, sizeof quartet);
    return _mm512_add_epi16(s, _mm512_maddubs_epi16(u, _mm512_set1_epi32(quartet)));
}
V_INLINE v4_i32 v4_end(v4_i32 sum, v4_sums s) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(s, _mm512_set1_epi16(1)));
}
V_INLINE v4_i32 v4_times(v4_i32 sum, v4_i32 n, const int32_t *by) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(n, _mm512_set1_epi32(*by)));
}
#endif
V_INLINE v4_i32 v4_eights(const int32_t *minus_sum) { return _mm512_slli_epi32(_mm512_set1_epi32(*minus_sum), 3); }
V_INLINE v4_i32 v4_zeros(const int32_t *minus_sum, const uint8_t *zero) {
    return _mm512_madd_epi16(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)zero)),
                             _mm512_set1_epi32(*minus_sum));
}
V_INLINE v4_f32 v4_load(const float *y) { return _mm512_loadu_ps(y); }
V_INLINE void v4_store(float *y, v4_f32 v) { _mm512_storeu_ps(y, v); }
V_INLINE v4_f32 v4_scales(const uint8_t *p, bool half) {
    return half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)) : _mm512_loadu_ps(p);
}
V_INLINE v4_f32 v4_add(v4_f32 y, v4_i32 sum, v4_f32 scale, float x_scale) {
    return _mm512_add_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_set1_ps(x_scale), scale)));
}
