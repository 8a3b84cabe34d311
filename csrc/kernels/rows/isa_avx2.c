/* AVX2 with FMA and F16C: eight float32 lanes. */
#include "qn_kernels.h"

#if defined(__x86_64__)
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

QN_TARGET_BEGIN(QN_TARGET_avx2)

#define QN_ROW qn_row_avx2
#define V_LANES 8
#define V_FUSED_INVERSE 1
#define V_LOST_SHOWS 1
#define V_HALF 1
#define V_INLINE static inline __attribute__((always_inline))

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;
typedef struct {
    __m256i z, lo, hi;     /* int32 lanes */
    __m256i z16, lo8, hi8; /* int16 and int8 lanes, for the four-vector store of 8-bit codes */
    bool whole;            /* every 8-bit code is in range, so that saturating packs suffice */
} v_narrow;

V_INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
V_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
V_INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
V_INLINE void vf_stream(float *p, vf v) { _mm256_stream_ps(p, v); }
V_INLINE void v_fence(void) { _mm_sfence(); }
V_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
V_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
V_INLINE vm vm_none(void) { return _mm256_setzero_ps(); }
V_INLINE vm vm_or_unordered(vm m, vf a, vf b) { return _mm256_or_ps(m, _mm256_cmp_ps(a, b, _CMP_UNORD_Q)); }
V_INLINE bool vm_any(vm m) { return _mm256_movemask_ps(m) != 0; }
V_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
V_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
V_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
V_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
V_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* Lanes i and i + distance become their sum and their difference. The product with 1 or -1 is exact. */
V_INLINE vf vf_sum_difference(vf v, const int distance) {
    const vf far = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), middle = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const vf near = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    if (distance == 4) return _mm256_fmadd_ps(v, far, _mm256_permute2f128_ps(v, v, 1));
    if (distance == 2) return _mm256_fmadd_ps(v, middle, _mm256_permute_ps(v, 0x4E));
    return _mm256_fmadd_ps(v, near, _mm256_permute_ps(v, 0xB1));
}
V_INLINE vf vf_clamp_abs(vf x, vf bound) {
    vf sign = _mm256_set1_ps(-0.0f);
    return _mm256_max_ps(_mm256_min_ps(x, bound), _mm256_xor_ps(bound, sign));
}
V_INLINE vf vf_hold_abs(vf x, vf bound) { return _mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), bound); }
V_INLINE vf vf_copysign(vf magnitude, vf from) {
    return _mm256_or_ps(magnitude, _mm256_and_ps(from, _mm256_set1_ps(-0.0f)));
}
V_INLINE vi vi_round(vf x) { return _mm256_cvtps_epi32(x); }
V_INLINE vi vi_zero_nan(vi code, vf x) {
    return _mm256_and_si256(code, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q)));
}
V_INLINE vi vi_truncate(vf x) { return _mm256_cvttps_epi32(x); }
V_INLINE vf vf_from_vi(vi x) { return _mm256_cvtepi32_ps(x); }
V_INLINE vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
V_INLINE vi vi_load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
V_INLINE void vi_store(int32_t *p, vi v) { _mm256_storeu_si256((__m256i *)p, v); }
V_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
V_INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
V_INLINE vi vi_dot2(vi sum, vi a, vi b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
V_INLINE void vi_zip(vi *even, vi *odd) { /* interleaves the lanes: the first halves, the last halves */
    vi low = _mm256_unpacklo_epi32(*even, *odd), high = _mm256_unpackhi_epi32(*even, *odd);
    *even = _mm256_permute2x128_si256(low, high, 0x20), *odd = _mm256_permute2x128_si256(low, high, 0x31);
}
V_INLINE vi vi_min(vi a, vi b) { return _mm256_min_epi32(a, b); }
V_INLINE vi vi_max(vi a, vi b) { return _mm256_max_epi32(a, b); }
V_INLINE vi vi_max_unsigned(vi a, vi b) { return _mm256_max_epu32(a, b); }
V_INLINE vi vi_min_unsigned(vi a, vi b) { return _mm256_min_epu32(a, b); }
V_INLINE bool vi_any_lost(vi a, vi b, vi c, vi d) {
    vi half = _mm256_set1_epi32(1 << 30);
    vi ab = _mm256_or_si256(vi_add(a, half), vi_add(b, half)), cd = _mm256_or_si256(vi_add(c, half), vi_add(d, half));
    return _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_or_si256(ab, cd))) != 0;
}
V_INLINE vi vi_from_bits(vf x) { return _mm256_castps_si256(x); }
V_INLINE vf vf_from_bits(vi bits) { return _mm256_castsi256_ps(bits); }
V_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
V_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
V_INLINE vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
V_INLINE vi vi_shl(vi a, int bits) { return _mm256_slli_epi32(a, bits); }
V_INLINE vi vi_shr(vi a, int bits) { return _mm256_srli_epi32(a, bits); }
V_INLINE vi vi_sra(vi a, int bits) { return _mm256_srai_epi32(a, bits); }
V_INLINE vi vi_if_less(vi a, vi b, vi yes, vi no) { return _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi32(b, a)); }
V_INLINE void v_multiply(vi a, uint32_t by, vi *high, vi *low) { /* all 64 bits of an unsigned product */
    __m256i m = _mm256_set1_epi32((int)by), even = _mm256_mul_epu32(a, m);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
V_INLINE vi vi_load_i8(const int8_t *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
V_INLINE vi vi_load_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
V_INLINE vi vi_load_i16(const int16_t *p) { return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vi vi_load_u16(const uint16_t *p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)); }
/* QN_REACH codes less Z, ANDed with `keep`. */
V_INLINE void v_wide_codes(int16_t *to, const uint8_t *x, int32_t zero_point, const int16_t *keep, bool is_signed) {
    __m128i codes = _mm_loadu_si128((const __m128i *)x);
    __m256i words = is_signed ? _mm256_cvtepi8_epi16(codes) : _mm256_cvtepu8_epi16(codes);
    words = _mm256_sub_epi16(words, _mm256_set1_epi16((int16_t)zero_point));
    _mm256_storeu_si256((__m256i *)to, _mm256_and_si256(words, _mm256_loadu_si256((const __m256i *)keep)));
}
V_INLINE vi vi_low_signed(vi a, int bits) { return _mm256_srai_epi32(_mm256_slli_epi32(a, 32 - bits), 32 - bits); }
V_INLINE vi vi_low_unsigned(vi a, int bits) { return _mm256_and_si256(a, _mm256_set1_epi32((int)((1u << bits) - 1))); }

V_INLINE __m128i halves_i16(vi v) { return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)); }
V_INLINE __m128i halves_u16(vi v) {
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
V_INLINE void vi_store_i8(int8_t *p, vi v) {
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(halves_i16(v), halves_i16(v)));
}
V_INLINE void vi_store_u8(uint8_t *p, vi v) {
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(halves_i16(v), halves_i16(v)));
}
V_INLINE void vi_store_i16(int16_t *p, vi v) { _mm_storeu_si128((__m128i *)p, halves_i16(v)); }
V_INLINE void vi_store_u16(uint16_t *p, vi v) { _mm_storeu_si128((__m128i *)p, halves_u16(v)); }

V_INLINE v_narrow v_narrow_set(int32_t z, int32_t lo, int32_t hi) {
    return (v_narrow){
        _mm256_set1_epi32(z),       _mm256_set1_epi32(lo),      _mm256_set1_epi32(hi), _mm256_set1_epi16((int16_t)z),
        _mm256_set1_epi8((char)lo), _mm256_set1_epi8((char)hi), hi - lo == 255,
    };
}

/* Packs two int32 vectors to int16 with saturation and adds Z with saturation, which is exact for 8-bit codes because
 * |Z| <= 255. The packs work in 128-bit lanes; one permutation at the end restores the order of the codes. */
V_INLINE __m256i pair16(vi a, vi b, const v_narrow *n) { return _mm256_adds_epi16(_mm256_packs_epi32(a, b), n->z16); }
V_INLINE __m256i in_order(__m256i v) {
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
V_INLINE void put(void *p, __m256i v, bool stream) {
    if (stream) _mm256_stream_si256(p, v);
    else _mm256_storeu_si256(p, v);
}
V_INLINE void vi_store4_i8(int8_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    __m256i v = in_order(_mm256_packs_epi16(pair16(a, b, n), pair16(c, d, n)));
    put(p, n->whole ? v : _mm256_min_epi8(_mm256_max_epi8(v, n->lo8), n->hi8), stream);
}
V_INLINE void vi_store4_u8(uint8_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    __m256i v = in_order(_mm256_packus_epi16(pair16(a, b, n), pair16(c, d, n)));
    put(p, n->whole ? v : _mm256_min_epu8(_mm256_max_epu8(v, n->lo8), n->hi8), stream);
}
V_INLINE void vi_put4_u8(uint8_t *p, vi a, vi b, vi c, vi d, bool stream) {
    put(p, in_order(_mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d))), stream);
}
#define V_MARKS 1
V_INLINE void v_put4_same(uint8_t *p, const vi a[4], const vi b[4], const vf x[4]) {
    __m256i same[4];
    for (int k = 0; k < 4; k++) same[k] = vi_zero_nan(_mm256_cmpeq_epi32(a[k], b[k]), x[k]);
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(same[0], same[1]), _mm256_packs_epi32(same[2], same[3]));
    _mm256_storeu_si256((__m256i *)p, _mm256_and_si256(in_order(bytes), _mm256_set1_epi8(1)));
}
V_INLINE void vi_put4_u16(uint16_t *p, vi a, vi b, vi c, vi d, bool stream) {
    put(p, _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8), stream);
    put(p + 16, _mm256_permute4x64_epi64(_mm256_packus_epi32(c, d), 0xD8), stream);
}
/* Stores c, which are bytes, with the sign bits of x shifted right by `down`. */
V_INLINE void vi_put4_signed(uint8_t *p, const vi c[4], const vi x[4], int down, bool no_minus_zero, bool stream) {
    __m256i low[4], byte = _mm256_set1_epi32(0xFF);
    for (int k = 0; k < 4; k++) low[k] = _mm256_and_si256(c[k], byte);
    __m256i codes = _mm256_packus_epi16(_mm256_packus_epi32(low[0], low[1]), _mm256_packus_epi32(low[2], low[3]));
    __m256i signs = _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
    if (down) signs = _mm256_srli_epi16(signs, down);
    signs = _mm256_and_si256(signs, _mm256_set1_epi8((char)(0x80 >> down)));
    if (no_minus_zero) signs = _mm256_andnot_si256(_mm256_cmpeq_epi8(codes, _mm256_setzero_si256()), signs);
    put(p, in_order(_mm256_or_si256(codes, signs)), stream);
}
V_INLINE void vi_put4_high(uint16_t *p, const vi c[4], bool stream) {
    vi_put4_u16(p, vi_shr(c[0], 16), vi_shr(c[1], 16), vi_shr(c[2], 16), vi_shr(c[3], 16), stream);
}
V_INLINE vi narrow1(vi c, const v_narrow *n) { return vi_min(vi_max(vi_add(c, n->z), n->lo), n->hi); }
V_INLINE void vi_store4_i16(int16_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    __m256i v = _mm256_packs_epi32(narrow1(a, n), narrow1(b, n)), w = _mm256_packs_epi32(narrow1(c, n), narrow1(d, n));
    put(p, _mm256_permute4x64_epi64(v, 0xD8), stream), put(p + 16, _mm256_permute4x64_epi64(w, 0xD8), stream);
}
V_INLINE void vi_store4_u16(uint16_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    __m256i v = _mm256_packus_epi32(narrow1(a, n), narrow1(b, n)),
            w = _mm256_packus_epi32(narrow1(c, n), narrow1(d, n));
    put(p, _mm256_permute4x64_epi64(v, 0xD8), stream), put(p + 16, _mm256_permute4x64_epi64(w, 0xD8), stream);
}

V_INLINE vi vi_half(vf x) { return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
V_INLINE vf vf_half(vi code) { return _mm256_cvtph_ps(halves_u16(code)); }
V_INLINE vf vf_lookup(const float *table, vi code) { /* a permutation reads 3 bits, a blend the sign */
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), code);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), code);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}
V_INLINE vf vf_gather(const float *tables, vi code, int step) { /* lane i of table i */
    const __m256i first = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(step));
    return _mm256_i32gather_ps(tables, _mm256_add_epi32(first, code), 4);
}
#define V_TABLES
V_INLINE void transpose8(vf c[8]) {
    vf a[8];
    for (int j = 0; j < 4; j++) {
        a[j] = _mm256_unpacklo_ps(c[2 * j], c[2 * j + 1]);
        a[j + 4] = _mm256_unpackhi_ps(c[2 * j], c[2 * j + 1]);
    }
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 2; j++) { /* columns 4 j to 4 j + 3 of rows 2 h and 2 h + 1, in 128 bits each */
            c[4 * h + 2 * j] = _mm256_shuffle_ps(a[4 * h + 2 * j], a[4 * h + 2 * j + 1], 0x44);
            c[4 * h + 2 * j + 1] = _mm256_shuffle_ps(a[4 * h + 2 * j], a[4 * h + 2 * j + 1], 0xEE);
        }
    for (int h = 0; h < 2; h++)
        for (int r = 0; r < 2; r++) {
            a[2 * h + r] = _mm256_permute2f128_ps(c[4 * h + r], c[4 * h + 2 + r], 0x20);
            a[2 * h + r + 4] = _mm256_permute2f128_ps(c[4 * h + r], c[4 * h + 2 + r], 0x31);
        }
    for (int j = 0; j < 8; j++) c[j] = a[j];
}
/* Levels of 8 codes of 16 columns, each from a table of 16. */
V_INLINE void vf_tables(const float *tables, const uint8_t *unit, vf x[8][2]) {
    const __m256i down = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    for (int v = 0; v < 2; v++) {
        vf c[8];
        for (int j = 0; j < 8; j++) {
            int32_t codes;
            memcpy(&codes, unit + 4 * (8 * v + j), 4);
            c[j] = vf_lookup(tables + 16 * (8 * v + j), _mm256_srlv_epi32(_mm256_set1_epi32(codes), down));
        }
        transpose8(c);
        for (int k = 0; k < 8; k++) x[k][v] = c[k];
    }
}

#include "words_avx2.h"

V_INLINE void vw_halves(vw v, vf *x) { /* the float16 of every word */
    x[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(v)), x[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
}

#include "panel_avx2.h"

#include "matmul_avx2.h"
#include "matmul_quads_avx2.h"

#include "pack_avx2.h"

#include "bodies.h"
QN_TARGET_END
#endif
