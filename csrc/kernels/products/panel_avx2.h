/* The primitives of panel_body.h in AVX2: 16 columns are two vectors.
 *
 * A pair of products is at most 2 * 15 * 128 = 3840, so vpmaddubsw never saturates here, and int16 holds eight of them:
 * the body widens after 32 neighbours in k; of 2-bit codes after 128, 32 * 2 * 3 * 128 = 24576. vpmaddwd can multiply
 * int32 lanes if both factors fit int16 and one of them is not negative, because then its upper half is 0.
 */

typedef struct {
    __m256i half[2]; /* 8 columns each, 4 neighbours in k of a column in a dword */
} vp_codes, vp_sums, vp_i32;
typedef struct {
    __m256 half[2];
} vp_f32;

enum { VP_ROWS = 4, VP_WHOLE = false };

/* Keeps the order of additions. GCC would build a tree of them and spill its leaves, which takes a sixth longer. */
#define VP_IN_ORDER(v) __asm__("" : "+x"((v).half[0]), "+x"((v).half[1]))

V_INLINE vp_codes vp_field(const uint8_t *p, const int bits, const int f) {
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    vp_codes u;
    for (int h = 0; h < 2; h++)
        u.half[h] =
            _mm256_and_si256(_mm256_srli_epi16(_mm256_loadu_si256((const __m256i *)(p + 32 * h)), f * bits), mask);
    return u;
}
V_INLINE vp_codes vp_plus(vp_codes a, vp_codes b) {
    for (int h = 0; h < 2; h++) a.half[h] = _mm256_add_epi8(a.half[h], b.half[h]);
    VP_IN_ORDER(a);
    return a;
}
V_INLINE vp_sums vp_begin(vp_i32 sum) {
    (void)sum;
    return (vp_sums){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
}
V_INLINE vp_sums vp_dot(vp_sums s, vp_codes u, const int8_t *a) {
    int32_t quartet;
    memcpy(&quartet, a, sizeof quartet);
    __m256i x = _mm256_set1_epi32(quartet);
    s.half[0] = _mm256_add_epi16(s.half[0], _mm256_maddubs_epi16(u.half[0], x));
    s.half[1] = _mm256_add_epi16(s.half[1], _mm256_maddubs_epi16(u.half[1], x));
    VP_IN_ORDER(s);
    return s;
}
V_INLINE vp_i32 vp_end(vp_i32 sum, vp_sums s) {
    const __m256i one = _mm256_set1_epi16(1);
    sum.half[0] = _mm256_add_epi32(sum.half[0], _mm256_madd_epi16(s.half[0], one));
    sum.half[1] = _mm256_add_epi32(sum.half[1], _mm256_madd_epi16(s.half[1], one));
    return sum;
}
V_INLINE vp_i32 vp_plus_16(vp_i32 sum, vp_i32 n) {
    for (int h = 0; h < 2; h++) sum.half[h] = _mm256_add_epi32(sum.half[h], _mm256_slli_epi32(n.half[h], 4));
    return sum;
}
V_INLINE vp_i32 vp_middle(const int32_t *minus_sum, const int bits) {
    __m256i s = _mm256_set1_epi32(*minus_sum * (1 << (bits - 1)));
    return (vp_i32){{s, s}};
}
V_INLINE vp_i32 vp_zeros(const int32_t *minus_sum, const uint8_t *zero) {
    __m256i s = _mm256_set1_epi32(*minus_sum);
    return (vp_i32){{_mm256_madd_epi16(s, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)zero))),
                     _mm256_madd_epi16(s, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(zero + 8))))}};
}
V_INLINE vp_i32 vp_times(vp_i32 sum, vp_i32 n, const int32_t *by) {
    __m256i factor = _mm256_set1_epi32(*by);
    for (int h = 0; h < 2; h++) sum.half[h] = _mm256_add_epi32(sum.half[h], _mm256_madd_epi16(n.half[h], factor));
    return sum;
}
V_INLINE vp_f32 vp_load(const float *y) { return (vp_f32){{_mm256_loadu_ps(y), _mm256_loadu_ps(y + 8)}}; }
V_INLINE void vp_store(float *y, vp_f32 v) { _mm256_storeu_ps(y, v.half[0]), _mm256_storeu_ps(y + 8, v.half[1]); }
V_INLINE vp_f32 vp_scales(const uint8_t *p, bool half) {
    if (half)
        return (vp_f32){{_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                         _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 16)))}};
    return (vp_f32){
        {_mm256_loadu_ps((const float *)(const void *)p), _mm256_loadu_ps((const float *)(const void *)(p + 32))}};
}
V_INLINE vp_f32 vp_add(vp_f32 y, vp_i32 sum, vp_f32 scale, float x_scale) {
    __m256 x = _mm256_set1_ps(x_scale);
    for (int h = 0; h < 2; h++)
        y.half[h] =
            _mm256_add_ps(y.half[h], _mm256_mul_ps(_mm256_cvtepi32_ps(sum.half[h]), _mm256_mul_ps(x, scale.half[h])));
    return y;
}
