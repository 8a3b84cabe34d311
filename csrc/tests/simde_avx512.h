/* AVX-512 as plain AVX2 code, for tests on machines without it: SIMDe's emulation under Intel's own names, and here the
 * few intrinsics that isa_avx512.c uses and SIMDe 0.7 lacks, made of two AVX2 halves. isa_avx512.c includes this file
 * in place of <immintrin.h>; it is compiled with -mavx2 -mfma -mf16c. */
#ifndef QN_SIMDE_AVX512_H
#define QN_SIMDE_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#undef QN_TARGET_avx512
#define QN_TARGET_avx512 "avx2,fma,f16c"

/* r.half[k] = expression of k, for both halves */
#define QN_HALVES(result_type, half, expression)                                                                       \
    result_type##_private r;                                                                                           \
    for (int k = 0; k < 2; k++) r.half[k] = (expression);                                                              \
    return result_type##_from_private(r)

static inline simde__m512 qn_cvtepi32_ps(simde__m512i a) {
    simde__m512i_private v = simde__m512i_to_private(a);
    QN_HALVES(simde__m512, m256, _mm256_cvtepi32_ps(v.m256i[k]));
}
static inline simde__m512i qn_cvtps_epi32(simde__m512 a) {
    simde__m512_private v = simde__m512_to_private(a);
    QN_HALVES(simde__m512i, m256i, _mm256_cvtps_epi32(v.m256[k]));
}
static inline simde__m512i qn_cvttps_epi32(simde__m512 a) {
    simde__m512_private v = simde__m512_to_private(a);
    QN_HALVES(simde__m512i, m256i, _mm256_cvttps_epi32(v.m256[k]));
}
static inline simde__m512i qn_srai_epi32(simde__m512i a, unsigned count) {
    simde__m512i_private v = simde__m512i_to_private(a);
    QN_HALVES(simde__m512i, m256i, _mm256_srai_epi32(v.m256i[k], (int)count));
}
static inline simde__m512i qn_cvtepi8_epi32(__m128i a) {
    QN_HALVES(simde__m512i, m256i, _mm256_cvtepi8_epi32(k ? _mm_unpackhi_epi64(a, a) : a));
}
static inline simde__m512i qn_cvtepu8_epi32(__m128i a) {
    QN_HALVES(simde__m512i, m256i, _mm256_cvtepu8_epi32(k ? _mm_unpackhi_epi64(a, a) : a));
}
static inline __m128i qn_half(__m256i a, int k) {
    return k ? _mm256_extracti128_si256(a, 1) : _mm256_castsi256_si128(a);
}
static inline simde__m512i qn_cvtepi16_epi32(__m256i a) {
    QN_HALVES(simde__m512i, m256i, _mm256_cvtepi16_epi32(qn_half(a, k)));
}
static inline simde__m512i qn_cvtepu16_epi32(__m256i a) {
    QN_HALVES(simde__m512i, m256i, _mm256_cvtepu16_epi32(qn_half(a, k)));
}
static inline simde__m512 qn_cvtph_ps(__m256i a) { QN_HALVES(simde__m512, m256, _mm256_cvtph_ps(qn_half(a, k))); }
static inline __m256i qn_cvtps_ph(simde__m512 a) { /* half to even, the only rounding in use */
    simde__m512_private v = simde__m512_to_private(a);
    return _mm256_set_m128i(_mm256_cvtps_ph(v.m256[1], 0), _mm256_cvtps_ph(v.m256[0], 0));
}
/* Truncating to narrow lanes: the low bits of each. */
static inline __m256i qn_cvtepi32_epi16(simde__m512i a) {
    simde__m512i_private v = simde__m512i_to_private(a);
    int16_t out[16];
    for (int i = 0; i < 16; i++) out[i] = (int16_t)v.i32[i];
    return _mm256_loadu_si256((const __m256i *)out);
}
static inline __m128i qn_cvtepi32_epi8(simde__m512i a) {
    simde__m512i_private v = simde__m512i_to_private(a);
    int8_t out[16];
    for (int i = 0; i < 16; i++) out[i] = (int8_t)v.i32[i];
    return _mm_loadu_si128((const __m128i *)out);
}
static inline simde__m512 qn_permute_ps(simde__m512 a, int places) {
    simde__m512_private v = simde__m512_to_private(a), r;
    for (int i = 0; i < 16; i++) r.f32[i] = v.f32[(i & ~3) + (places >> 2 * (i & 3) & 3)];
    return simde__m512_from_private(r);
}
static inline simde__m512 qn_permute_quarters(simde__m512 a, int places) { /* shuffle_f32x4 of one vector */
    simde__m512_private v = simde__m512_to_private(a), r;
    for (int i = 0; i < 16; i++) r.f32[i] = v.f32[4 * (places >> 2 * (i / 4) & 3) + i % 4];
    return simde__m512_from_private(r);
}
static inline simde__m512 qn_gather_ps(simde__m512i places, const float *from) {
    simde__m512i_private at = simde__m512i_to_private(places);
    simde__m512_private r;
    for (int i = 0; i < 16; i++) r.f32[i] = from[at.i32[i]];
    return simde__m512_from_private(r);
}

#undef _mm512_madd_epi16 /* of four arguments in SIMDe 0.7 */
#define _mm512_mask_cmp_ps_mask(mask, a, b, relation) ((mask) & _mm512_cmp_ps_mask(a, b, relation))
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#define _mm512_cvtepi32_ps(a) qn_cvtepi32_ps(a)
#define _mm512_cvtps_epi32(a) qn_cvtps_epi32(a)
#define _mm512_cvttps_epi32(a) qn_cvttps_epi32(a)
#define _mm512_srai_epi32(a, count) qn_srai_epi32(a, count)
#define _mm512_cvtepi8_epi32(a) qn_cvtepi8_epi32(a)
#define _mm512_cvtepu8_epi32(a) qn_cvtepu8_epi32(a)
#define _mm512_cvtepi16_epi32(a) qn_cvtepi16_epi32(a)
#define _mm512_cvtepu16_epi32(a) qn_cvtepu16_epi32(a)
#define _mm512_cvtph_ps(a) qn_cvtph_ps(a)
#define _mm512_cvtps_ph(a, rounding) qn_cvtps_ph(a)
#define _mm512_cvtepi32_epi16(a) qn_cvtepi32_epi16(a)
#define _mm512_cvtepi32_epi8(a) qn_cvtepi32_epi8(a)
#define _mm512_permute_ps(a, places) qn_permute_ps(a, places)
#undef _mm512_i32gather_ps /* of floats, 4 bytes apart */
#define _mm512_i32gather_ps(places, from, scale) qn_gather_ps(places, from)
#undef _mm512_shuffle_f32x4
#define _mm512_shuffle_f32x4(a, b, places) qn_permute_quarters(a, places)
/* Plain stores write the same bytes as streaming ones. */
#define _mm512_stream_ps(p, v) simde_mm512_storeu_ps(p, v)
#define _mm512_stream_si512(p, v) simde_mm512_storeu_si512(p, v)

#endif
