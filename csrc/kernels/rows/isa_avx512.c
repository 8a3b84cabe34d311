/* AVX-512 F, BW, DQ, VL: sixteen float32 lanes. */
#include "qn_kernels.h"

#if defined(__x86_64__)
#ifdef QN_AVX512_HEADER /* the tests compile this file against an emulation */
#include QN_AVX512_HEADER
#else
#include <immintrin.h>
#endif
#include <float.h>
#include <math.h>
#include <string.h>

QN_TARGET_BEGIN(QN_TARGET_avx512)

#define QN_ROW qn_row_avx512
#define V_LANES 16
#define V_FUSED_INVERSE 1
#define V_LOST_SHOWS 1
#define V_HALF 1
#define V_INLINE static inline __attribute__((always_inline))

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;
typedef struct {
    __m512i z, lo, hi;     /* int32 lanes */
    __m512i z16, lo8, hi8; /* int16 and int8 lanes, for the four-vector store of 8-bit codes */
    bool whole;            /* every 8-bit code is in range, so that saturating packs suffice */
} v_narrow;

V_INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
V_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
V_INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
V_INLINE void vf_stream(float *p, vf v) { _mm512_stream_ps(p, v); }
V_INLINE void v_fence(void) { _mm_sfence(); }
V_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
V_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
V_INLINE vm vm_none(void) { return 0; }
V_INLINE vm vm_or_unordered(vm m, vf a, vf b) { return m | _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
V_INLINE bool vm_any(vm m) { return m != 0; }
V_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* Lanes i and i + distance become their sum and their difference. The product with 1 or -1 is exact. */
V_INLINE vf vf_sum_difference(vf v, const int distance) {
    const __mmask16 second = distance == 8 ? 0xFF00 : distance == 4 ? 0xF0F0 : distance == 2 ? 0xCCCC : 0xAAAA;
    const vf one = _mm512_set1_ps(1), signs = _mm512_mask_sub_ps(one, second, _mm512_setzero_ps(), one);
    if (distance == 8) return _mm512_fmadd_ps(v, signs, _mm512_shuffle_f32x4(v, v, 0x4E));
    if (distance == 4) return _mm512_fmadd_ps(v, signs, _mm512_shuffle_f32x4(v, v, 0xB1));
    if (distance == 2) return _mm512_fmadd_ps(v, signs, _mm512_permute_ps(v, 0x4E));
    return _mm512_fmadd_ps(v, signs, _mm512_permute_ps(v, 0xB1));
}
V_INLINE vf vf_clamp_abs(vf x, vf bound) { return _mm512_range_ps(x, bound, 2); } /* smaller magnitude, sign of x */
V_INLINE vf vf_hold_abs(vf x, vf bound) { return _mm512_range_ps(x, bound, 10); } /* smaller magnitude, no sign */
V_INLINE vf vf_copysign(vf magnitude, vf from) {
    return _mm512_or_ps(magnitude, _mm512_and_ps(from, _mm512_set1_ps(-0.0f)));
}
V_INLINE vi vi_round(vf x) { return _mm512_cvtps_epi32(x); }
V_INLINE vi vi_zero_nan(vi code, vf x) { return _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), code); }
V_INLINE vi vi_truncate(vf x) { return _mm512_cvttps_epi32(x); }
V_INLINE vf vf_from_vi(vi x) { return _mm512_cvtepi32_ps(x); }
V_INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
V_INLINE vi vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
V_INLINE void vi_store(int32_t *p, vi v) { _mm512_storeu_si512(p, v); }
V_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
V_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
V_INLINE vi vi_dot2(vi sum, vi a, vi b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
V_INLINE void vi_zip(vi *even, vi *odd) { /* interleaves the lanes: the first halves, the last halves */
    const vi first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    vi low = _mm512_permutex2var_epi32(*even, first, *odd);
    *odd = _mm512_permutex2var_epi32(*even, vi_add(first, _mm512_set1_epi32(8)), *odd), *even = low;
}
V_INLINE vi vi_min(vi a, vi b) { return _mm512_min_epi32(a, b); }
V_INLINE vi vi_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
V_INLINE vi vi_max_unsigned(vi a, vi b) { return _mm512_max_epu32(a, b); }
V_INLINE vi vi_min_unsigned(vi a, vi b) { return _mm512_min_epu32(a, b); }
V_INLINE bool vi_any_lost(vi a, vi b, vi c, vi d) {
    vi half = _mm512_set1_epi32(1 << 30);
    vi ab = _mm512_or_si512(vi_add(a, half), vi_add(b, half)), cd = _mm512_or_si512(vi_add(c, half), vi_add(d, half));
    return _mm512_movepi32_mask(_mm512_or_si512(ab, cd)) != 0;
}
V_INLINE vi vi_from_bits(vf x) { return _mm512_castps_si512(x); }
V_INLINE vf vf_from_bits(vi bits) { return _mm512_castsi512_ps(bits); }
V_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
V_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
V_INLINE vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
V_INLINE vi vi_shl(vi a, int bits) { return _mm512_slli_epi32(a, (unsigned)bits); }
V_INLINE vi vi_shr(vi a, int bits) { return _mm512_srli_epi32(a, (unsigned)bits); }
V_INLINE vi vi_sra(vi a, int bits) { return _mm512_srai_epi32(a, (unsigned)bits); }
V_INLINE vi vi_if_less(vi a, vi b, vi yes, vi no) {
    return _mm512_mask_mov_epi32(no, _mm512_cmpgt_epi32_mask(b, a), yes);
}
V_INLINE void v_multiply(vi a, uint32_t by, vi *high, vi *low) { /* all 64 bits of an unsigned product */
    __m512i m = _mm512_set1_epi32((int)by), even = _mm512_mul_epu32(a, m);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
    *high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd);
    *low = _mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32));
}
V_INLINE vi vi_load_i8(const int8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vi vi_load_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
V_INLINE vi vi_load_i16(const int16_t *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)p)); }
V_INLINE vi vi_load_u16(const uint16_t *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)); }
/* QN_REACH codes less Z, ANDed with `keep`. */
V_INLINE void v_wide_codes(int16_t *to, const uint8_t *x, int32_t zero_point, const int16_t *keep, bool is_signed) {
    __m128i codes = _mm_loadu_si128((const __m128i *)x);
    __m256i words = is_signed ? _mm256_cvtepi8_epi16(codes) : _mm256_cvtepu8_epi16(codes);
    words = _mm256_sub_epi16(words, _mm256_set1_epi16((int16_t)zero_point));
    _mm256_storeu_si256((__m256i *)to, _mm256_and_si256(words, _mm256_loadu_si256((const __m256i *)keep)));
}
V_INLINE vi vi_low_signed(vi a, int bits) {
    return _mm512_srai_epi32(_mm512_slli_epi32(a, (unsigned)(32 - bits)), (unsigned)(32 - bits));
}
V_INLINE vi vi_low_unsigned(vi a, int bits) { return _mm512_and_si512(a, _mm512_set1_epi32((int)((1u << bits) - 1))); }
V_INLINE void vi_store_i8(int8_t *p, vi v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v)); }
V_INLINE void vi_store_u8(uint8_t *p, vi v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v)); }
V_INLINE void vi_store_i16(int16_t *p, vi v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(v)); }
V_INLINE void vi_store_u16(uint16_t *p, vi v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(v)); }

V_INLINE v_narrow v_narrow_set(int32_t z, int32_t lo, int32_t hi) {
    return (v_narrow){
        _mm512_set1_epi32(z),       _mm512_set1_epi32(lo),      _mm512_set1_epi32(hi), _mm512_set1_epi16((int16_t)z),
        _mm512_set1_epi8((char)lo), _mm512_set1_epi8((char)hi), hi - lo == 255,
    };
}

/* As in isa_avx2.c: saturating packs in 128-bit lanes, Z added in int16, one permutation at the end. */
V_INLINE __m512i pair16(vi a, vi b, const v_narrow *n) { return _mm512_adds_epi16(_mm512_packs_epi32(a, b), n->z16); }
V_INLINE __m512i in_order(__m512i v) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}
V_INLINE void put(void *p, __m512i v, bool stream) {
    if (stream) _mm512_stream_si512(p, v);
    else _mm512_storeu_si512(p, v);
}
V_INLINE void vi_store4_i8(int8_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    __m512i v = in_order(_mm512_packs_epi16(pair16(a, b, n), pair16(c, d, n)));
    put(p, n->whole ? v : _mm512_min_epi8(_mm512_max_epi8(v, n->lo8), n->hi8), stream);
}
V_INLINE void vi_store4_u8(uint8_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    __m512i v = in_order(_mm512_packus_epi16(pair16(a, b, n), pair16(c, d, n)));
    put(p, n->whole ? v : _mm512_min_epu8(_mm512_max_epu8(v, n->lo8), n->hi8), stream);
}
V_INLINE vi narrow1(vi c, const v_narrow *n) { return vi_min(vi_max(vi_add(c, n->z), n->lo), n->hi); }
V_INLINE __m512i pair_i16(vi a, vi b) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packs_epi32(a, b));
}
V_INLINE __m512i pair_u16(vi a, vi b) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi32(a, b));
}
/* The low or the high halves of a, then of b. */
V_INLINE __m512i halves_of(vi a, vi b, bool high) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i first = _mm512_set1_epi32(high ? 0x00030001 : 0x00020000);
    __m512i index = _mm512_add_epi32(first, _mm512_mullo_epi32(lane, _mm512_set1_epi32(0x00040004)));
    return _mm512_permutex2var_epi16(a, index, b);
}
/* Stores c, which are bytes, with the sign bits of x shifted right by `down`. */
V_INLINE void vi_put4_signed(uint8_t *p, const vi c[4], const vi x[4], int down, bool no_minus_zero, bool stream) {
    __m512i codes = _mm512_packus_epi16(halves_of(c[0], c[1], false), halves_of(c[2], c[3], false));
    __m512i signs = _mm512_packs_epi16(halves_of(x[0], x[1], true), halves_of(x[2], x[3], true));
    if (down) signs = _mm512_srl_epi16(signs, _mm_cvtsi32_si128(down));
    signs = _mm512_and_si512(signs, _mm512_set1_epi8((char)(0x80 >> down)));
    if (no_minus_zero) signs = _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(codes, codes), signs);
    __m512i quarters = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    put(p, _mm512_permutexvar_epi64(quarters, _mm512_or_si512(codes, signs)), stream);
}
V_INLINE void vi_put4_high(uint16_t *p, const vi c[4], bool stream) {
    put(p, halves_of(c[0], c[1], true), stream), put(p + 32, halves_of(c[2], c[3], true), stream);
}
V_INLINE void vi_put4_u8(uint8_t *p, vi a, vi b, vi c, vi d, bool stream) {
    put(p, in_order(_mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d))), stream);
}
#define V_MARKS 1
V_INLINE void v_put4_same(uint8_t *p, const vi a[4], const vi b[4], const vf x[4]) {
    __mmask64 same = 0;
    for (int k = 0; k < 4; k++) {
        __mmask16 equal = _mm512_mask_cmp_ps_mask(_mm512_cmpeq_epi32_mask(a[k], b[k]), x[k], x[k], _CMP_ORD_Q);
        same |= (__mmask64)equal << 16 * k;
    }
    _mm512_storeu_si512(p, _mm512_maskz_set1_epi8(same, 1));
}
V_INLINE void vi_put4_u16(uint16_t *p, vi a, vi b, vi c, vi d, bool stream) {
    put(p, pair_u16(a, b), stream), put(p + 32, pair_u16(c, d), stream);
}
V_INLINE void vi_store4_i16(int16_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    put(p, pair_i16(narrow1(a, n), narrow1(b, n)), stream), put(p + 32, pair_i16(narrow1(c, n), narrow1(d, n)), stream);
}
V_INLINE void vi_store4_u16(uint16_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    put(p, pair_u16(narrow1(a, n), narrow1(b, n)), stream), put(p + 32, pair_u16(narrow1(c, n), narrow1(d, n)), stream);
}

V_INLINE vi vi_half(vf x) { return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
V_INLINE vf vf_half(vi code) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(code)); }

#include "words_avx2.h"

V_INLINE void vw_halves(vw v, vf *x) { x[0] = _mm512_cvtph_ps(v); } /* the float16 of every word */

/* Nibble i of every word, from the high one on, as the float16 of a float4_e2m1fn with a wrong bias: the number times
 * 2^-14. A permutation reads only the low 4 bits of an index. */
V_INLINE vf vf_lookup(const float *table, vi code) { return _mm512_permutexvar_ps(code, _mm512_loadu_ps(table)); }
V_INLINE vf vf_gather(const float *tables, vi code, int step) { /* lane i of table i */
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i first = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(step));
    return _mm512_i32gather_ps(_mm512_add_epi32(first, code), tables, 4);
}
#define V_TABLES
/* Levels of 8 codes of 16 columns, each from a table of 16. Columns j and j + 8 lie in the halves of a vector, which
 * two 8 x 8 transpositions turn into rows. */
V_INLINE void vf_tables(const float *tables, const uint8_t *unit, vf x[8][1]) {
    const __m512i down = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8);
    const __m512i low = _mm512_set1_epi32(15), codes = _mm512_loadu_si512(unit);
    vf a[8], c[8];
    for (int j = 0; j < 8; j++) {
        const __m512i own = _mm512_permutexvar_epi32(_mm512_add_epi32(half, _mm512_set1_epi32(j)), codes);
        const __m512i at = _mm512_and_si512(_mm512_srlv_epi32(own, down), low);
        c[j] =
            _mm512_permutex2var_ps(_mm512_loadu_ps(tables + 16 * j), _mm512_add_epi32(at, _mm512_add_epi32(half, half)),
                                   _mm512_loadu_ps(tables + 16 * (j + 8)));
    }
    for (int j = 0; j < 4; j++) {
        a[j] = _mm512_unpacklo_ps(c[2 * j], c[2 * j + 1]);
        a[j + 4] = _mm512_unpackhi_ps(c[2 * j], c[2 * j + 1]);
    }
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < 2; j++) { /* columns 4 j to 4 j + 3 of rows 2 h and 2 h + 1, in 128 bits each */
            c[4 * h + 2 * j] = _mm512_shuffle_ps(a[4 * h + 2 * j], a[4 * h + 2 * j + 1], 0x44);
            c[4 * h + 2 * j + 1] = _mm512_shuffle_ps(a[4 * h + 2 * j], a[4 * h + 2 * j + 1], 0xEE);
        }
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    for (int h = 0; h < 2; h++)
        for (int r = 0; r < 2; r++) {
            x[2 * h + r][0] = _mm512_permutex2var_ps(c[4 * h + r], first, c[4 * h + 2 + r]);
            x[2 * h + r + 4][0] = _mm512_permutex2var_ps(c[4 * h + r], second, c[4 * h + 2 + r]);
        }
}
#define V_NIBBLES
V_INLINE vf vf_nibble(vw v, const int i) {
    const float u = 0x1p-15f; /* the number 0.5 */
    const __m512 numbers = _mm512_setr_ps(0, u, 2 * u, 3 * u, 4 * u, 6 * u, 8 * u, 12 * u, -0.0f, -u, -2 * u, -3 * u,
                                          -4 * u, -6 * u, -8 * u, -12 * u);
    const __m512i word = _mm512_cvtepu16_epi32(v);
    return _mm512_permutexvar_ps(i == 3 ? word : _mm512_srli_epi32(word, (unsigned)(12 - 4 * i)), numbers);
}

#include "panel_avx512.h"

#ifndef QN_AVX512_HEADER /* an emulation has no assembly: it uses the tiles of AVX2 */
#define QN_WIDE_TILES
#endif
#include "matmul_avx2.h"
#ifdef QN_WIDE_TILES
#include "matmul_avx512.h"

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = true,
                     .panels = PANELS,
                     .kblock = 192,
                     .band_rows = 256,
                     .finish_rows = ROWS,
                     .macs_a_byte = 8,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 16,
                     .dots_rows = 16};
}

/* In each row the products come first, the sums last: Zen 4 assigns instructions to pipes in program order, and words
 * are a fifth faster in this one. Winograd's pairs are those of matmul_avx2.h: odd k in zmm24 and 26, even k in 25
 * and 27. */
#define ASM_SPLIT(at, odd, even)                                                                                       \
    "vmovdqa64 " at ", %%" even "\n\tvpsrlw $8, %%" even ", %%" odd "\n\t"                                             \
    "vpandd %[constants]%{1to16%}, %%" even ", %%" even "\n\t"
#define ASM_SPLIT1 ASM_SPLIT("(%[b])", "zmm24", "zmm25")
#define ASM_SPLIT2 ASM_SPLIT1 ASM_SPLIT("(%[b],%[panel])", "zmm26", "zmm27")
#define ASM_SUM1(s0) "vpaddd %%zmm30, %%" s0 ", %%" s0 "\n\t"
#define ASM_SUM2(s0, s1) ASM_SUM1(s0) "vpaddd %%zmm29, %%" s1 ", %%" s1 "\n\t"
#define ASM_PAIRS(at)                                                                                                  \
    "vpbroadcastd " at ", %%zmm28\n\tvpbroadcastd 4+" at ", %%zmm29\n\t"                                               \
    "vpaddw %%zmm24, %%zmm28, %%zmm30\n\tvpaddw %%zmm25, %%zmm29, %%zmm31\n\t"
#define ASM_PAIRS1(at, s0, s1) ASM_PAIRS(at) "vpmaddwd %%zmm30, %%zmm31, %%zmm30\n\t" ASM_SUM1(s0)
#define ASM_PAIRS2(at, s0, s1)                                                                                         \
    ASM_PAIRS(at)                                                                                                      \
    "vpaddw %%zmm26, %%zmm28, %%zmm28\n\tvpaddw %%zmm27, %%zmm29, %%zmm29\n\t"                                         \
    "vpmaddwd %%zmm30, %%zmm31, %%zmm30\n\tvpmaddwd %%zmm28, %%zmm29, %%zmm29\n\t" ASM_SUM2(s0, s1)

#define ASM_PRODUCTS1(multiply, at) "vpbroadcastd " at ", %%zmm28\n\t" multiply " %%zmm28, %%zmm24, %%zmm30\n\t"
#define ASM_PRODUCTS2(multiply, at) ASM_PRODUCTS1(multiply, at) multiply " %%zmm28, %%zmm25, %%zmm29\n\t"
#define ASM_NARROW1(at, s0, s1) ASM_PRODUCTS1("vpmaddubsw", at) "vpmaddwd %%zmm31, %%zmm30, %%zmm30\n\t" ASM_SUM1(s0)
#define ASM_NARROW2(at, s0, s1)                                                                                        \
    ASM_PRODUCTS2("vpmaddubsw", at)                                                                                    \
    "vpmaddwd %%zmm31, %%zmm30, %%zmm30\n\tvpmaddwd %%zmm31, %%zmm29, %%zmm29\n\t" ASM_SUM2(s0, s1)
#define ASM_WORDS1(at, s0, s1) ASM_PRODUCTS1("vpmaddwd", at) ASM_SUM1(s0)
#define ASM_WORDS2(at, s0, s1) ASM_PRODUCTS2("vpmaddwd", at) ASM_SUM2(s0, s1)

ASM_TILES(v_pairs, "8", ASM_SPLIT, ASM_PAIRS, "")
ASM_TILES(v_narrow_bytes, "4", ASM_LOAD_BYTES, ASM_NARROW, "vpbroadcastd 4+%[constants], %%zmm31\n\t")
ASM_TILES(v_words, "4", ASM_LOAD_BYTES, ASM_WORDS, "")

static void multiply_pairs(const qn_tile *t) { by_tiles(t, v_pairs, 8); }
static void multiply_u7(const qn_tile *t) { by_tiles(t, v_narrow_bytes, 4); }
static void multiply_words(const qn_tile *t) { by_tiles(t, v_words, 4); }
/* Widening a panel costs little in a tile of 12 rows, so widen_rows is INT64_MAX. */
static void multiply_pairs_wide(const qn_tile *t) { multiply_pairs(t); }
#else
#include "matmul_quads_avx2.h"
#endif

#include "pack_avx2.h"

#include "bodies.h"
QN_TARGET_END
#endif
