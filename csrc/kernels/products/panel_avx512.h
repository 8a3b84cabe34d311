/* The primitives of panel_body.h in AVX-512: 16 columns are one vector. With VNNI vpdpbusd adds four products
 * to an int32 at once; without it they work as in panel_avx2.h. */

typedef __m512i vp_codes, vp_sums, vp_i32;
typedef __m512 vp_f32;

enum { VP_ROWS = 8 };

V_INLINE vp_codes vp_field(const uint8_t *p, const int bits, const int f) {
    /* Compilers disagree on the type of the count of a 16-bit shift; in 32 bits a field is masked all the same. */
    const __m512i down = _mm512_srli_epi32(_mm512_loadu_si512(p), (unsigned)(f * bits));
    return bits == 8 ? down : _mm512_and_si512(down, _mm512_set1_epi8((char)((1 << bits) - 1)));
}
V_INLINE vp_codes vp_plus(vp_codes a, vp_codes b) { return _mm512_add_epi8(a, b); }
#ifdef VP_VNNI
enum { VP_WHOLE = true };
#define VP_IN_PLACE
V_INLINE vp_codes vp_masked(vp_codes v, const int mask) { return _mm512_and_si512(v, _mm512_set1_epi8((char)mask)); }
V_INLINE vp_i32 vp_plus_down(vp_i32 sum, vp_i32 n, const int bits) {
    return _mm512_add_epi32(sum, _mm512_srai_epi32(n, (unsigned)bits));
}
V_INLINE vp_sums vp_begin(vp_i32 sum) { return sum; }
V_INLINE vp_sums vp_dot(vp_sums s, vp_codes u, const int8_t *a) {
    int32_t quartet;
    memcpy(&quartet, a, sizeof quartet);
    return _mm512_dpbusd_epi32(s, u, _mm512_set1_epi32(quartet));
}
V_INLINE vp_i32 vp_end(vp_i32 sum, vp_sums s) { return (void)sum, s; }
V_INLINE vp_i32 vp_times(vp_i32 sum, vp_i32 n, const int32_t *by) {
    return _mm512_dpwssd_epi32(sum, n, _mm512_set1_epi32(*by));
}
#else
enum { VP_WHOLE = false };
V_INLINE vp_sums vp_begin(vp_i32 sum) { return (void)sum, _mm512_setzero_si512(); }
V_INLINE vp_sums vp_dot(vp_sums s, vp_codes u, const int8_t *a) {
    int32_t quartet;
    memcpy(&quartet, a, sizeof quartet);
    return _mm512_add_epi16(s, _mm512_maddubs_epi16(u, _mm512_set1_epi32(quartet)));
}
V_INLINE vp_i32 vp_end(vp_i32 sum, vp_sums s) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(s, _mm512_set1_epi16(1)));
}
V_INLINE vp_i32 vp_times(vp_i32 sum, vp_i32 n, const int32_t *by) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(n, _mm512_set1_epi32(*by)));
}
#endif
V_INLINE vp_i32 vp_plus_16(vp_i32 sum, vp_i32 n) { return _mm512_add_epi32(sum, _mm512_slli_epi32(n, 4)); }
V_INLINE vp_i32 vp_middle(const int32_t *minus_sum, const int bits) {
    return _mm512_set1_epi32(*minus_sum * (1 << (bits - 1)));
}
V_INLINE vp_i32 vp_zeros(const int32_t *minus_sum, const uint8_t *zero) {
    return _mm512_madd_epi16(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)zero)),
                             _mm512_set1_epi32(*minus_sum));
}
V_INLINE vp_f32 vp_load(const float *y) { return _mm512_loadu_ps(y); }
V_INLINE void vp_store(float *y, vp_f32 v) { _mm512_storeu_ps(y, v); }
V_INLINE vp_f32 vp_scales(const uint8_t *p, bool half) {
    return half ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)) : _mm512_loadu_ps(p);
}
V_INLINE vp_f32 vp_add(vp_f32 y, vp_i32 sum, vp_f32 scale, float x_scale) {
    return _mm512_add_ps(y, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_set1_ps(x_scale), scale)));
}
