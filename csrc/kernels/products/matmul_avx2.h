/* Tiles of 4 x 16 in AVX2, in assembly because GCC 12 spills them when they are written with intrinsics. ymm0-7 hold
 * the tile, 8-11 the panel, 12-15 are temporary.
 *
 * Full-range codes are multiplied by Winograd's pairs (1968), for each quartet:
 *   a0 b0 + a1 b1 + a2 b2 + a3 b3 = (a0 + b1)(a1 + b0) + (a2 + b3)(a3 + b2) - (a0 a1 + a2 a3) - (b0 b1 + b2 b3)
 * One vpmaddwd computes both products for 8 columns. Packing computes the last two terms; they are start values.
 */
#define QN_OWN_TILES
#define V_UNROLL QN_PRAGMA(GCC unroll 8)

#ifndef QN_WIDE_TILES /* AVX-512 has its own tiles and uses the packers and the thin products of this file */
static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = true,
                     .parts = true,
                     .quads = true,
                     .panels = 1,
                     .kblock = 128,
                     .band_rows = 256,
                     .finishes = true,
                     .macs_a_byte = 8,
                     .widen_rows = 49,
                     .sweep_rows = 16,
                     .dots_rows = 16};
}
#endif

/* ---- packing ---- */

/* 16 codes as int16 less the zero point; 0 past the end. */
V_INLINE __m256i v_left_words(const uint8_t *a, int64_t left, bool is_signed, int32_t zero) {
    __m128i bytes;
    if (left >= 16) {
        bytes = _mm_loadu_si128((const __m128i *)a);
    } else {
        uint8_t padded[16] = {0};
        memcpy(padded, a, (size_t)(left > 0 ? left : 0));
        bytes = _mm_loadu_si128((const __m128i *)padded);
    }
    __m256i w = is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
    w = _mm256_sub_epi16(w, _mm256_set1_epi16((int16_t)zero));
    if (left >= 16) return w;
    const __m256i at = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm256_and_si256(w, _mm256_cmpgt_epi16(_mm256_set1_epi16((int16_t)(left > 0 ? left : 0)), at));
}

V_INLINE int32_t v_sum_lanes(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

/* For each quartet and row int16 (a0, a2, a1, a3), each a - zero - 128. The 128 corrects the stored byte of B, which is
 * 128 too large. */
V_INLINE void v_left_pairs(const qn_left *l, bool is_signed) {
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6, 7,
                                           8, 9, 12, 13, 10, 11, 14, 15);
    const __m256i one = _mm256_set1_epi16(1), offset = _mm256_set1_epi16(128);
    const __m256i once = _mm256_set1_epi64x(0xFFFFFFFF); /* each pair is in the vector twice */
    for (int64_t i = 0; i < l->rows; i += QN_SLIVER) {
        const uint8_t *row[QN_SLIVER];
        int32_t zero[QN_SLIVER];
        __m256i pairs[QN_SLIVER], sum[QN_SLIVER];
        char *to = (char *)l->packed + i * l->quartets * 8;
        for (int r = 0; r < QN_SLIVER; r++) {
            int64_t at = i + r < l->rows ? i + r : l->rows - 1;
            row[r] = (const uint8_t *)l->a + at * l->stride, zero[r] = l->zero[at * l->zero_step];
            pairs[r] = sum[r] = _mm256_setzero_si256();
        }
        for (int64_t k = 0; k < l->quartets * 4; k += 16, to += 128) {
            __m256i w[QN_SLIVER];
            for (int r = 0; r < QN_SLIVER; r++) {
                w[r] = _mm256_shuffle_epi8(v_left_words(row[r] + k, l->k - k, is_signed, zero[r]), order);
                pairs[r] = _mm256_add_epi32(pairs[r], _mm256_madd_epi16(w[r], _mm256_shuffle_epi32(w[r], 0xB1)));
                sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(w[r], one));
                w[r] = _mm256_sub_epi16(w[r], offset);
            }
            __m256i a = _mm256_unpacklo_epi64(w[0], w[1]), b = _mm256_unpackhi_epi64(w[0], w[1]);
            __m256i c = _mm256_unpacklo_epi64(w[2], w[3]), d = _mm256_unpackhi_epi64(w[2], w[3]);
            _mm256_store_si256((__m256i *)to, _mm256_permute2x128_si256(a, c, 0x20));
            _mm256_store_si256((__m256i *)(to + 32), _mm256_permute2x128_si256(b, d, 0x20));
            if (k + 8 >= l->quartets * 4) break; /* quartets come in twos */
            _mm256_store_si256((__m256i *)(to + 64), _mm256_permute2x128_si256(a, c, 0x31));
            _mm256_store_si256((__m256i *)(to + 96), _mm256_permute2x128_si256(b, d, 0x31));
        }
        for (int r = 0; r < QN_SLIVER; r++) {
            l->start[i + r] = -v_sum_lanes(_mm256_and_si256(pairs[r], once));
            l->sum[i + r] = v_sum_lanes(sum[r]);
        }
    }
}

static void left_pairs(const qn_left *l) {
    if (l->is_signed) v_left_pairs(l, true);
    else v_left_pairs(l, false);
}

/* For each quartet and row four bytes: codes less `less`, which makes them int8, plus `plus`. */
V_INLINE void v_left_bytes(const qn_left *l, int less, int plus) {
    const __m128i down = _mm_set1_epi8((char)less), up = _mm_set1_epi8((char)plus);
    const __m128i one8 = _mm_set1_epi8(1), one = _mm_set1_epi16(1);
    for (int64_t i = 0; i < l->rows; i += QN_SLIVER) {
        const uint8_t *row[QN_SLIVER];
        __m128i sum[QN_SLIVER];
        char *to = (char *)l->packed + i * l->quartets * 4;
        for (int r = 0; r < QN_SLIVER; r++) {
            row[r] = (const uint8_t *)l->a + (i + r < l->rows ? i + r : l->rows - 1) * l->stride;
            sum[r] = _mm_setzero_si128();
        }
        for (int64_t k = 0; k < l->quartets * 4; k += 16, to += 64) {
            __m128i w[QN_SLIVER];
            int64_t left = l->k - k;
            for (int r = 0; r < QN_SLIVER; r++) {
                if (left >= 16) {
                    w[r] = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)(row[r] + k)), down);
                } else {
                    uint8_t padded[16];
                    memset(padded, less, sizeof padded);
                    if (left > 0) memcpy(padded, row[r] + k, (size_t)left);
                    w[r] = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)padded), down);
                }
                sum[r] = _mm_add_epi32(sum[r], _mm_madd_epi16(_mm_maddubs_epi16(one8, w[r]), one));
                w[r] = _mm_add_epi8(w[r], up);
            }
            __m128i a = _mm_unpacklo_epi32(w[0], w[1]), b = _mm_unpackhi_epi32(w[0], w[1]);
            __m128i c = _mm_unpacklo_epi32(w[2], w[3]), d = _mm_unpackhi_epi32(w[2], w[3]);
            _mm_store_si128((__m128i *)to, _mm_unpacklo_epi64(a, c));
            _mm_store_si128((__m128i *)(to + 16), _mm_unpackhi_epi64(a, c));
            if (k + 8 >= l->quartets * 4) break;
            _mm_store_si128((__m128i *)(to + 32), _mm_unpacklo_epi64(b, d));
            _mm_store_si128((__m128i *)(to + 48), _mm_unpackhi_epi64(b, d));
        }
        for (int r = 0; r < QN_SLIVER; r++) {
            int64_t at = i + r < l->rows ? i + r : l->rows - 1;
            int32_t zero = l->zero[at * l->zero_step] - less;
            l->start[i + r] = 0;
            l->sum[i + r] = v_sum_lanes(_mm256_zextsi128_si256(sum[r])) - (int32_t)l->k * zero;
        }
    }
}

/* As int8: an uint8 becomes itself less 128. */
static void left_bytes(const qn_left *l) { v_left_bytes(l, l->is_signed ? 0 : 128, 0); }

#ifndef QN_WIDE_TILES
#define QN_OWN_PARTS
/* One row: for each quartet its four bytes a in two parts h and l in -8..8, a = 16 h + l, instead of the four equal
 * rows of left_bytes. */
static void left_parts(const qn_left *l) {
    const __m256i eight = _mm256_set1_epi8(8), low = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    left_bytes(l);
    const __m256i *from = l->packed;
    __m128i *to = l->packed;
    for (int64_t g = 0; g < l->quartets; g += 2, from++, to++) {
        const __m256i a = _mm256_load_si256(from), up = _mm256_xor_si256(a, flip);
        const __m256i down = _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(up, 4), low), eight);
        const __m256i high = _mm256_add_epi8(down, _mm256_and_si256(_mm256_srli_epi16(a, 3), one));
        const __m256i rest = _mm256_sub_epi8(_mm256_and_si256(_mm256_add_epi8(a, eight), low), eight);
        const __m256i both = _mm256_permute4x64_epi64(_mm256_blend_epi32(high, rest, 0xAA), 0x08);
        _mm_store_si128(to, _mm256_castsi256_si128(both));
    }
}
#endif

/* Transposes four rows of 32 columns into eight vectors of four columns each. */
V_INLINE void v_interleave(const __m256i r[4], __m256i to[4]) {
    __m256i a = _mm256_unpacklo_epi8(r[0], r[1]), b = _mm256_unpackhi_epi8(r[0], r[1]);
    __m256i c = _mm256_unpacklo_epi8(r[2], r[3]), d = _mm256_unpackhi_epi8(r[2], r[3]);
    __m256i e = _mm256_unpacklo_epi16(a, c), f = _mm256_unpackhi_epi16(a, c);
    __m256i g = _mm256_unpacklo_epi16(b, d), h = _mm256_unpackhi_epi16(b, d);
    to[0] = _mm256_permute2x128_si256(e, f, 0x20), to[1] = _mm256_permute2x128_si256(g, h, 0x20);
    to[2] = _mm256_permute2x128_si256(e, f, 0x31), to[3] = _mm256_permute2x128_si256(g, h, 0x31);
}

/* Takes whole cache lines of B and prefetches the next rows; of an odd last panel only 16 columns. */
static void right_bytes(const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, int64_t panels,
                        uint8_t *packed, int64_t panel_step) {
    const __m256i x = _mm256_set1_epi8((char)flip);
    for (int64_t g = 0; g < quartets; g++, b += 4 * stride, packed += QN_QUARTET) {
        for (int k = 0; k < 4; k++) __builtin_prefetch(b + (32 + k) * stride);
        for (int64_t p = 0; p < panels; p += 2) {
            const uint8_t *from = b + p * QN_PANEL;
            uint8_t *to = packed + p * panel_step;
            bool two = p + 1 < panels;
            __m256i r[4], w[4];
            for (int k = 0; k < 4; k++) {
                const __m128i *row = (const __m128i *)(from + k * stride);
                r[k] = two ? _mm256_loadu_si256((const __m256i *)row) : _mm256_zextsi128_si256(_mm_loadu_si128(row));
                r[k] = _mm256_xor_si256(r[k], x);
            }
            v_interleave(r, w);
            _mm256_store_si256((__m256i *)to, w[0]), _mm256_store_si256((__m256i *)(to + 32), w[1]);
            if (!two) continue;
            _mm256_store_si256((__m256i *)(to + panel_step), w[2]);
            _mm256_store_si256((__m256i *)(to + panel_step + 32), w[3]);
        }
    }
}

/* Transposes 8 x 8 elements of 32 bits. */
V_INLINE void v_transpose8(__m256i r[8]) {
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2)
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]), u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]), u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++)
        r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20),
        r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
}

static void right_turned(const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, uint8_t *panel) {
    const __m256i x = _mm256_set1_epi8((char)flip);
    int64_t g = 0;
    for (; g + 8 <= quartets; g += 8)
        for (int half = 0; half < 2; half++) {
            __m256i r[8];
            for (int c = 0; c < 8; c++)
                r[c] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(b + (8 * half + c) * stride + g * 4)), x);
            v_transpose8(r);
            for (int k = 0; k < 8; k++) _mm256_store_si256((__m256i *)(panel + (g + k) * QN_QUARTET + 32 * half), r[k]);
        }
    for (; g < quartets; g++)
        for (int c = 0; c < QN_PANEL; c++)
            for (int k = 0; k < 4; k++) panel[g * QN_QUARTET + c * 4 + k] = b[c * stride + g * 4 + k] ^ flip;
}

static void right_sums(const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs) {
    const __m256i low = _mm256_set1_epi16(255), offset = _mm256_set1_epi16(128), one8 = _mm256_set1_epi8(1),
                  one = _mm256_set1_epi16(1);
    for (int half = 0; half < 2; half++) {
        __m256i *s = (__m256i *)(sum + 8 * half), *p = (__m256i *)(pairs + 8 * half);
        __m256i added = _mm256_loadu_si256(s), paired = _mm256_loadu_si256(p);
        for (int64_t g = 0; g < quartets; g++) {
            __m256i u = _mm256_load_si256((const __m256i *)(panel + g * QN_QUARTET + 32 * half));
            __m256i odd = _mm256_sub_epi16(_mm256_srli_epi16(u, 8), offset);
            __m256i even = _mm256_sub_epi16(_mm256_and_si256(u, low), offset);
            paired = _mm256_sub_epi32(paired, _mm256_madd_epi16(odd, even));
            added = _mm256_add_epi32(added, _mm256_madd_epi16(_mm256_maddubs_epi16(u, one8), one));
        }
        _mm256_storeu_si256(s, added), _mm256_storeu_si256(p, paired);
    }
}

/* For each quartet: odd k of columns 0-7, even k, then of columns 8-15. */
static void right_widen(const uint8_t *panel, int64_t quartets, uint16_t *wide) {
    const __m256i low = _mm256_set1_epi16(255);
    for (int64_t h = 0; h < 2 * quartets; h++) {
        __m256i u = _mm256_load_si256((const __m256i *)(panel + 32 * h));
        _mm256_store_si256((__m256i *)(wide + 32 * h), _mm256_srli_epi16(u, 8));
        _mm256_store_si256((__m256i *)(wide + 32 * h + 16), _mm256_and_si256(u, low));
    }
}

/* ---- tiles ---- */

#ifndef QN_WIDE_TILES
/* The output stage of four rows at most, in float32; the assembly reads it by offsets. */
typedef struct {
    const float *row_scale;
    int64_t row_scale_step; /* bytes */
    const float *column_scale, *bias;
    float *out;
    int64_t out_step;    /* bytes */
    const float *bounds; /* lo and hi, or NULL */
} v_stage;

/* At most four rows of one tile. It prefetches the old C on entry and adds it at the end: loading it first is 3 %
 * slower. */
typedef struct {
    const void *a, *b;
    int64_t quartets;
    int32_t *c;
    int64_t c_step; /* bytes */
    const int32_t *row_start, *column_start, *more;
    int64_t add;
    const v_stage *stage; /* NULL: store the sums in c */
} v_tile;
typedef void (*v_tile_function)(const v_tile *t);

#define ASM_START(r, at, c0, c1)                                                                                       \
    "vpbroadcastd 4*" #r "(%[rows]), %%" c1 "\n\t"                                                                     \
    "vpaddd (%[columns]), %%" c1 ", %%" c0 "\n\t"                                                                      \
    "vpaddd 32(%[columns]), %%" c1 ", %%" c1 "\n\t"
#define ASM_FETCH(r, at, c0, c1) "prefetcht0 " at "\n\t"
#define ASM_ADD(r, at, c0, c1) "vpaddd " at ", %%" c0 ", %%" c0 "\n\tvpaddd 32+" at ", %%" c1 ", %%" c1 "\n\t"
#define ASM_STORE(r, at, c0, c1) "vmovdqu %%" c0 ", " at "\n\tvmovdqu %%" c1 ", 32+" at "\n\t"
/* Conversion, scales, bias, bounds. NaN passes the bounds: if neither operand is greater, vmaxps and vminps return the
 * one that AT&T syntax names first. */
#define ASM_REAL(r, at, c0, c1)                                                                                        \
    "vbroadcastss (%[a]), %%ymm12\n\tadd %[n], %[a]\n\t"                                                               \
    "vmulps %%ymm8, %%ymm12, %%ymm13\n\tvmulps %%ymm9, %%ymm12, %%ymm12\n\t"                                           \
    "vcvtdq2ps %%" c0 ", %%" c0 "\n\tvcvtdq2ps %%" c1 ", %%" c1 "\n\t"                                                 \
    "vmulps %%ymm13, %%" c0 ", %%" c0 "\n\tvmulps %%ymm12, %%" c1 ", %%" c1 "\n\t"                                     \
    "vaddps %%ymm10, %%" c0 ", %%" c0 "\n\tvaddps %%ymm11, %%" c1 ", %%" c1 "\n\t"
#define ASM_BOUND(r, at, c0, c1)                                                                                       \
    "vmaxps %%" c0 ", %%ymm14, %%" c0 "\n\tvmaxps %%" c1 ", %%ymm14, %%" c1 "\n\t"                                     \
    "vminps %%" c0 ", %%ymm15, %%" c0 "\n\tvminps %%" c1 ", %%ymm15, %%" c1 "\n\t"
#define ASM_FINISH(R)                                                                                                  \
    "test %[stage], %[stage]\n\tjz 4f\n\tmov (%[stage]), %[a]\n\tmov 8(%[stage]), %[n]\n\t"                            \
    "mov 16(%[stage]), %[b]\n\tvmovups (%[b]), %%ymm8\n\tvmovups 32(%[b]), %%ymm9\n\t"                                 \
    "mov 24(%[stage]), %[b]\n\tvmovups (%[b]), %%ymm10\n\tvmovups 32(%[b]), %%ymm11\n\t" ASM_ROWS##R(                  \
        ASM_REAL) "mov 32(%[stage]), %[c]\n\tmov 40(%[stage]), %[step]\n\tlea (%[step],%[step],2), %[step3]\n\t"       \
                  "mov 48(%[stage]), %[b]\n\ttest %[b], %[b]\n\tjz 4f\n\t"                                             \
                  "vbroadcastss (%[b]), %%ymm14\n\tvbroadcastss 4(%[b]), %%ymm15\n\t" ASM_ROWS##R(ASM_BOUND) "4:\n\t"
#define ASM_ROWS1(F) F(0, "0(%[c])", "ymm0", "ymm1")
#define ASM_ROWS2(F) ASM_ROWS1(F) F(1, "0(%[c],%[step])", "ymm2", "ymm3")
#define ASM_ROWS3(F) ASM_ROWS2(F) F(2, "0(%[c],%[step],2)", "ymm4", "ymm5")
#define ASM_ROWS4(F) ASM_ROWS3(F) F(3, "0(%[c],%[step3])", "ymm6", "ymm7")

/* One row of a quartet: 4 additions, 2 products and 2 sums compute 64 products. `x`, ymm12 or 15, and ymm13 hold the
 * codes of the row. It loads those of the next row into `w`, the other of the two, and ymm13; so early a load makes the
 * loop 8 % faster on Zen 4. */
#define ASM_PAIRS(next, x, w, c0, c1)                                                                                  \
    "vpaddw %%ymm8, %%" x ", %%ymm14\n\t"                                                                              \
    "vpaddw %%ymm9, %%ymm13, %%" w "\n\t"                                                                              \
    "vpmaddwd %%ymm14, %%" w ", %%ymm14\n\t"                                                                           \
    "vpbroadcastd " next "(%[a]), %%" w "\n\t"                                                                         \
    "vpaddw %%ymm10, %%" x ", %%" x "\n\t"                                                                             \
    "vpaddw %%ymm11, %%ymm13, %%ymm13\n\t"                                                                             \
    "vpmaddwd %%" x ", %%ymm13, %%" x "\n\t"                                                                           \
    "vpaddd %%ymm14, %%" c0 ", %%" c0 "\n\t"                                                                           \
    "vpbroadcastd 4+" next "(%[a]), %%ymm13\n\t"                                                                       \
    "vpaddd %%" x ", %%" c1 ", %%" c1 "\n\t"
#define ASM_PAIRS1(at, x, w) ASM_PAIRS("32+" at, x, w, "ymm0", "ymm1")
#define ASM_PAIRS2(at, x, w) ASM_PAIRS("8+" at, x, w, "ymm0", "ymm1") ASM_PAIRS("32+" at, w, x, "ymm2", "ymm3")
#define ASM_PAIRS3(at, x, w)                                                                                           \
    ASM_PAIRS("8+" at, x, w, "ymm0", "ymm1")                                                                           \
    ASM_PAIRS("16+" at, w, x, "ymm2", "ymm3") ASM_PAIRS("32+" at, x, w, "ymm4", "ymm5")
#define ASM_PAIRS4(at, x, w)                                                                                           \
    ASM_PAIRS("8+" at, x, w, "ymm0", "ymm1")                                                                           \
    ASM_PAIRS("16+" at, w, x, "ymm2", "ymm3")                                                                          \
    ASM_PAIRS("24+" at, x, w, "ymm4", "ymm5") ASM_PAIRS("32+" at, w, x, "ymm6", "ymm7")
/* Loads a panel that right_widen widened, or widens it in the loop, with a prefetch of 16 KiB ahead. */
#define ASM_LOAD_WIDE(at)                                                                                              \
    "vmovdqa " at "(%[b]), %%ymm8\n\tvmovdqa 32+" at "(%[b]), %%ymm9\n\t"                                              \
    "vmovdqa 64+" at "(%[b]), %%ymm10\n\tvmovdqa 96+" at "(%[b]), %%ymm11\n\t"
#define ASM_LOAD(at)                                                                                                   \
    "prefetcht1 16384+" at "(%[b])\n\t"                                                                                \
    "vmovdqa " at "(%[b]), %%ymm9\n\tvmovdqa 32+" at "(%[b]), %%ymm11\n\t"                                             \
    "vpsrlw $8, %%ymm9, %%ymm8\n\tvpsrlw $8, %%ymm11, %%ymm10\n\t"                                                     \
    "vpand %[low], %%ymm9, %%ymm9\n\tvpand %[low], %%ymm11, %%ymm11\n\t"

/* Codes of B in 0..127: vpmaddubsw does not saturate, 2 * 127 * 128 < 32768. */
#define ASM_NARROW(at, c0, c1)                                                                                         \
    "vpbroadcastd " at "(%[a]), %%ymm12\n\t"                                                                           \
    "vpmaddubsw %%ymm12, %%ymm8, %%ymm13\n\tvpmaddubsw %%ymm12, %%ymm9, %%ymm14\n\t"                                   \
    "vpmaddwd %%ymm15, %%ymm13, %%ymm13\n\tvpmaddwd %%ymm15, %%ymm14, %%ymm14\n\t"                                     \
    "vpaddd %%ymm13, %%" c0 ", %%" c0 "\n\tvpaddd %%ymm14, %%" c1 ", %%" c1 "\n\t"
#define ASM_NARROW1(at) ASM_NARROW(at, "ymm0", "ymm1")
#define ASM_NARROW2(at) ASM_NARROW1(at) ASM_NARROW("4+" at, "ymm2", "ymm3")
#define ASM_NARROW3(at) ASM_NARROW2(at) ASM_NARROW("8+" at, "ymm4", "ymm5")
#define ASM_NARROW4(at) ASM_NARROW3(at) ASM_NARROW("12+" at, "ymm6", "ymm7")
#define ASM_LOAD_BYTES(at)                                                                                             \
    "prefetcht1 16384+" at "(%[b])\n\t"                                                                                \
    "vmovdqa " at "(%[b]), %%ymm8\n\tvmovdqa 32+" at "(%[b]), %%ymm9\n\t"

/* `turn` of the loop: `depth` quartets of a_quartet and b_quartet bytes. */
#define ASM_TILE(name, R, depth, turn, a_quartet, b_quartet, before, after)                                            \
    static void name##R(const v_tile *t) {                                                                             \
        const void *a = t->a, *b = t->b;                                                                               \
        int64_t n = t->quartets, step = t->c_step, step3 = 3 * step;                                                   \
        int32_t *c = t->c;                                                                                             \
        __asm__ volatile(ASM_ROWS##R(ASM_FETCH) ASM_ROWS##R(ASM_START) before                                          \
                         ".p2align 6\n1:\n\t" turn "add $" #depth "*" #a_quartet ", %[a]\n\tadd $" #depth              \
                         "*" #b_quartet ", %[b]\n\tsub $" #depth ", %[n]\n\tjnz 1b\n\t" after                          \
                         "test %[add], %[add]\n\tjz 2f\n\t" ASM_ROWS##R(ASM_ADD) "2:\n\t" ASM_FINISH(R)                \
                             ASM_ROWS##R(ASM_STORE)                                                                    \
                         : [a] "+r"(a), [b] "+r"(b), [n] "+r"(n), [c] "+r"(c), [step] "+r"(step), [step3] "+r"(step3)  \
                         : [rows] "r"(t->row_start), [columns] "r"(t->column_start), [more] "r"(t->more),              \
                           [add] "r"(t->add), [stage] "r"(t->stage), [low] "m"(v_words_255), [one] "m"(v_words_1)      \
                         : "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10",    \
                           "ymm11", "ymm12", "ymm13", "ymm14", "ymm15", "memory", "cc");                               \
    }
#define ASM_TABLE(name) static const v_tile_function name[QN_SLIVER] = {name##1, name##2, name##3, name##4};
#define ASM_CODES "vpbroadcastd (%[a]), %%ymm12\n\tvpbroadcastd 4(%[a]), %%ymm13\n\t"
#define ASM_ODD(R, LOAD, b_quartet)                                                                                    \
    LOAD("0") ASM_PAIRS##R("0", "ymm12", "ymm15") LOAD(#b_quartet) ASM_PAIRS##R("32", "ymm15", "ymm12")
#define ASM_EVEN(R, LOAD) LOAD("0") ASM_PAIRS##R("0", "ymm12", "ymm15")
#define ASM_PAIRS_TILES(name, LOAD, b_quartet)                                                                         \
    ASM_TILE(name, 1, 2, ASM_ODD(1, LOAD, b_quartet), 32, b_quartet, ASM_CODES, "")                                    \
    ASM_TILE(name, 2, 1, ASM_EVEN(2, LOAD), 32, b_quartet, ASM_CODES, "")                                              \
    ASM_TILE(name, 3, 2, ASM_ODD(3, LOAD, b_quartet), 32, b_quartet, ASM_CODES, "")                                    \
    ASM_TILE(name, 4, 1, ASM_EVEN(4, LOAD), 32, b_quartet, ASM_CODES, "")                                              \
    ASM_TABLE(name)
#define ASM_NARROW_TILE(R)                                                                                             \
    ASM_TILE(v_narrow_bytes, R, 2, ASM_LOAD_BYTES("0") ASM_NARROW##R("0") ASM_LOAD_BYTES("64") ASM_NARROW##R("16"),    \
             16, 64, "vmovdqa %[one], %%ymm15\n\t", "")

#define WORDS16(w) {w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w}
static const int16_t v_words_255[16] __attribute__((aligned(32))) = WORDS16(255);
static const int16_t v_words_1[16] __attribute__((aligned(32))) = WORDS16(1);
ASM_PAIRS_TILES(v_pairs, ASM_LOAD, 64)
ASM_PAIRS_TILES(v_pairs_wide, ASM_LOAD_WIDE, 128)
ASM_NARROW_TILE(1)
ASM_NARROW_TILE(2)
ASM_NARROW_TILE(3)
ASM_NARROW_TILE(4)
ASM_TABLE(v_narrow_bytes)

static const float v_no_bias[QN_PANEL] = {-0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f,
                                          -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f};

/* The stage for rows from r on and columns from `column` on; `bounds` is a copy of f's that outlives the tile. */
V_INLINE v_stage v_stage_of(const qn_finish *f, int64_t r, int64_t column, const float *bounds) {
    return (v_stage){
        .row_scale = f->row_scale + r * f->row_scale_step,
        .row_scale_step = f->row_scale_step * 4,
        .column_scale = f->column_scale + column,
        .bias = f->bias ? f->bias + column : v_no_bias,
        .out = (float *)f->out + r * f->out_step + column,
        .out_step = f->out_step * 4,
        .bounds = f->lo > -INFINITY || f->hi < INFINITY ? bounds : NULL,
    };
}

V_INLINE void v_by_slivers(const qn_tile *t, const v_tile_function *functions, int64_t left_bytes) {
    const qn_finish *f = t->finish;
    const float bounds[2] = {f ? f->lo : 0, f ? f->hi : 0};
    for (int p = 0; p < t->panels; p++)
        for (int64_t r = 0; r < t->rows; r += QN_SLIVER) {
            int64_t rows = t->rows - r < QN_SLIVER ? t->rows - r : QN_SLIVER;
            const v_stage stage = f ? v_stage_of(f, r, p * QN_PANEL, bounds) : (v_stage){0};
            const v_tile v = {
                .a = (const char *)t->left + r * t->quartets * left_bytes,
                .b = t->right + p * t->right_step,
                .quartets = t->quartets,
                .c = t->c + r * t->c_step + p * QN_PANEL,
                .c_step = t->c_step * 4,
                .row_start = t->row_start + r,
                .column_start = t->column_start + p * QN_PANEL,
                .more = t->more ? t->more + r * QN_PANEL : NULL,
                .add = t->add,
                .stage = f ? &stage : NULL,
            };
            for (int64_t i = 0; f && t->add && i < rows; i++) /* the tile prefetches C, not the output */
                __builtin_prefetch((const char *)stage.out + i * stage.out_step, 1);
            functions[rows - 1](&v);
        }
    _mm256_zeroupper(); /* the compiler does not track the upper halves that the assembly used */
}

/* One row, bound by memory. The fewer instructions a cache line takes, the further ahead out-of-order loads run: two
 * vpmaddubsw with the parts of A, which do not saturate, and sums in int16 over eight quartets, 8 * 2 * 255 * 8 <
 * 32768. ymm0-3 and ymm4-7 hold the sums of two panels, the second `step` bytes from the first. */
#define ASM_PART(at, high, low)                                                                                        \
    "vmovdqa " at ", %%ymm10\n\t"                                                                                      \
    "vpmaddubsw %%ymm8, %%ymm10, %%ymm11\n\tvpmaddubsw %%ymm9, %%ymm10, %%ymm10\n\t"                                   \
    "vpaddw %%ymm11, %%" high ", %%" high "\n\tvpaddw %%ymm10, %%" low ", %%" low "\n\t"
#define ASM_PARTS(a, b)                                                                                                \
    "vpbroadcastd " a "(%[a]), %%ymm8\n\tvpbroadcastd 4+" a "(%[a]), %%ymm9\n\t" ASM_PART(b "(%[b])", "ymm0", "ymm4")  \
        ASM_PART("32+" b "(%[b])", "ymm1", "ymm5") ASM_PART(b "(%[b],%[step])", "ymm2", "ymm6")                        \
            ASM_PART("32+" b "(%[b],%[step])", "ymm3", "ymm7")
#define ASM_PARTS_ZERO(high, low)                                                                                      \
    "vpxor %%" high ", %%" high ", %%" high "\n\tvpxor %%" low ", %%" low ", %%" low "\n\t"
#define ASM_PARTS_SUM(at, high, low)                                                                                   \
    "vpmaddwd %[sixteen], %%" high ", %%" high "\n\tvpmaddwd %[one], %%" low ", %%" low "\n\t"                         \
    "vpaddd %%" high ", %%" low ", %%" low "\n\tvpaddd " at "(%[sum]), %%" low ", %%" low "\n\t"                       \
    "vmovdqa %%" low ", " at "(%[sum])\n\t"
static const int16_t v_words_16[16] __attribute__((aligned(32))) = WORDS16(16);

V_INLINE void v_parts(const int32_t *a, const uint8_t *b, int64_t step, int64_t quartets, __m256i sum[4]) {
    int64_t n = quartets / 2;
    __asm__ volatile(ASM_PARTS_ZERO("ymm0", "ymm4") ASM_PARTS_ZERO("ymm1", "ymm5") ASM_PARTS_ZERO(
                         "ymm2", "ymm6") ASM_PARTS_ZERO("ymm3", "ymm7") "1:\n\t" ASM_PARTS("0", "0")
                         ASM_PARTS("8", "64") "add $16, %[a]\n\tadd $128, %[b]\n\tdec %[n]\n\tjnz 1b\n\t" ASM_PARTS_SUM(
                             "0", "ymm0", "ymm4") ASM_PARTS_SUM("32", "ymm1", "ymm5")
                             ASM_PARTS_SUM("64", "ymm2", "ymm6") ASM_PARTS_SUM("96", "ymm3", "ymm7")
                     : [a] "+r"(a), [b] "+r"(b), [n] "+r"(n)
                     : [step] "r"(step), [sum] "r"(sum), [one] "m"(v_words_1), [sixteen] "m"(v_words_16)
                     : "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11",
                       "memory", "cc");
}

/* Stores the sums of a row in C. */
V_INLINE void v_put_row_of(const qn_tile *t, const __m256i sum[2 * QN_PANELS]) {
    for (int i = 0; i < 2 * t->panels; i++) {
        __m256i *c = (__m256i *)(t->c + 8 * i);
        __m256i start = _mm256_loadu_si256((const __m256i *)(t->column_start + 8 * i));
        start = _mm256_add_epi32(start, _mm256_set1_epi32(*t->row_start));
        if (t->add) start = _mm256_add_epi32(start, _mm256_loadu_si256(c));
        _mm256_storeu_si256(c, _mm256_add_epi32(sum[i], start));
    }
}

/* An odd last panel is multiplied twice, and the second result is dropped. */
static void multiply_parts(const qn_tile *t) {
    enum { QUARTETS = 8 };
    __m256i sum[2 * QN_PANELS] = {0};
    for (int64_t g = 0; g < t->quartets; g += QUARTETS)
        for (int p = 0; p < t->panels; p += 2)
            v_parts((const int32_t *)t->left + 2 * g, t->right + p * t->right_step + g * QN_QUARTET,
                    p + 1 < t->panels ? t->right_step : 0, t->quartets - g < QUARTETS ? t->quartets - g : QUARTETS,
                    sum + 2 * p);
    v_put_row_of(t, sum);
}

static void multiply_pairs(const qn_tile *t) { v_by_slivers(t, v_pairs, 8); }
static void multiply_pairs_wide(const qn_tile *t) { v_by_slivers(t, v_pairs_wide, 8); }

/* One row times four narrow panels: the hardware prefetcher follows so many streams well. */
V_INLINE void v_narrow_row(const qn_tile *t) {
    const __m256i one = _mm256_set1_epi16(1);
    const int32_t *a = t->left;
    const uint8_t *b = t->right;
    __m256i sum[2 * QN_PANELS];
    V_UNROLL for (int i = 0; i < 2 * QN_PANELS; i++) sum[i] = _mm256_setzero_si256();
    for (int64_t g = 0; g < t->quartets; g++, a += 4, b += QN_QUARTET) {
        const __m256i quad = _mm256_set1_epi32(*a);
        V_UNROLL for (int i = 0; i < 2 * QN_PANELS; i++) {
            const __m256i u = _mm256_load_si256((const __m256i *)(b + i / 2 * t->right_step + i % 2 * 32));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(u, quad), one));
        }
    }
    v_put_row_of(t, sum);
}

static void multiply_u7(const qn_tile *t) {
    if (t->rows == 1 && t->panels == QN_PANELS) v_narrow_row(t);
    else v_by_slivers(t, v_narrow_bytes, 4);
}

/* Words: tiles of 4 x 16, two k to a vpmaddwd. */
V_INLINE void v_words_tile(const qn_tile *t, const int16_t *a, const uint8_t *b, int64_t r, int64_t column, int rows) {
    __m256i sum[QN_SLIVER][2];
    int32_t *c = t->c + r * t->c_step + column;
    for (int i = 0; i < rows; i++)
        for (int h = 0; h < 2; h++) {
            sum[i][h] = _mm256_loadu_si256((const __m256i *)(t->column_start + column + 8 * h));
            sum[i][h] = _mm256_add_epi32(sum[i][h], _mm256_set1_epi32(t->row_start[r + i]));
            if (!t->add) continue;
            sum[i][h] = _mm256_add_epi32(sum[i][h], _mm256_loadu_si256((const __m256i *)(c + i * t->c_step + 8 * h)));
        }
    for (int64_t g = 0; g < t->quartets; g++, a += 8, b += QN_QUARTET) {
        __m256i low = _mm256_load_si256((const __m256i *)b), high = _mm256_load_si256((const __m256i *)(b + 32));
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, a + 2 * i, 4);
            __m256i both = _mm256_set1_epi32(pair);
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(both, low));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(both, high));
        }
    }
    for (int i = 0; i < rows; i++)
        for (int h = 0; h < 2; h++) _mm256_storeu_si256((__m256i *)(c + i * t->c_step + 8 * h), sum[i][h]);
}

static void multiply_words(const qn_tile *t) {
    for (int p = 0; p < t->panels; p++)
        for (int64_t r = 0; r < t->rows; r += QN_SLIVER) {
            const int16_t *a = (const int16_t *)t->left + r * t->quartets * 2;
            const uint8_t *b = t->right + p * t->right_step;
            switch (t->rows - r) {
            case 1: v_words_tile(t, a, b, r, p * QN_PANEL, 1); break;
            case 2: v_words_tile(t, a, b, r, p * QN_PANEL, 2); break;
            case 3: v_words_tile(t, a, b, r, p * QN_PANEL, 3); break;
            default: v_words_tile(t, a, b, r, p * QN_PANEL, 4);
            }
        }
}
#endif

/* ---- thin products: B is read once and not packed ---- */

#define QN_OWN_THIN
/* 8 rows of B (with fewer, A has zeros) times 1 or 2 rows of A; the sums stay in the caches. The next 8 rows are
 * prefetched into the L2 cache in the order of memory, row after row: prefetching them side by side reaches two thirds
 * of the speed. */
V_INLINE void v_sweep_rows(const qn_thin *t, int64_t k, const int rows, const bool is_signed) {
    __m256i a[2][4];
    const uint8_t *line[8];
    for (int i = 0; i < 8; i++) line[i] = t->b + (k + i < t->k ? k + i : t->k - 1) * t->stride;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++) {
            int32_t pair;
            memcpy(&pair, t->a + r * t->a_step + k + 2 * i, sizeof pair);
            a[r][i] = _mm256_set1_epi32(pair);
        }
    const uint8_t *next = t->b + (k + 8) * t->stride;
    int64_t at = 0;
    for (int64_t j = 0; j + 16 <= t->columns; j += 16) {
        __m256i low[4], high[4];
        if (j % 64 == 0) {
            for (int i = 0; i < 8; i++) _mm_prefetch(next + at + 64 * i, _MM_HINT_T1);
            at += 8 * 64;
            if (at >= t->columns) at = 0, next += t->stride;
        }
        for (int i = 0; i < 4; i++) {
            __m128i even = _mm_loadu_si128((const __m128i *)(line[2 * i] + j));
            __m128i odd = _mm_loadu_si128((const __m128i *)(line[2 * i + 1] + j));
            __m128i l = _mm_unpacklo_epi8(even, odd), h = _mm_unpackhi_epi8(even, odd);
            low[i] = is_signed ? _mm256_cvtepi8_epi16(l) : _mm256_cvtepu8_epi16(l);
            high[i] = is_signed ? _mm256_cvtepi8_epi16(h) : _mm256_cvtepu8_epi16(h);
        }
        for (int r = 0; r < rows; r++) {
            __m256i *c = (__m256i *)(t->c + r * t->c_step + j);
            __m256i x = _mm256_loadu_si256(c), y = _mm256_loadu_si256(c + 1);
            for (int i = 0; i < 4; i++) {
                x = _mm256_add_epi32(x, _mm256_madd_epi16(a[r][i], low[i]));
                y = _mm256_add_epi32(y, _mm256_madd_epi16(a[r][i], high[i]));
            }
            _mm256_storeu_si256(c, x), _mm256_storeu_si256(c + 1, y);
        }
    }
}

enum {
    DEPTH = 128, /* rows and columns of B widened at a time: whole cache lines, 16 KiB */
    STRIP = 64,
    SWEPT = 16384,     /* columns swept at a time: 16 rows of B and the sums stay in the L2 cache */
    DOTS_DEPTH = 4096, /* k at a time in dots: four columns stay in the L1 cache */
    DOT_DEPTH = 8192,  /* k at a time with one row: half of the L1 cache */
};

/* Widens into panels of 16 columns; each pair of rows has the columns 0-3, 8-11, then 4-7, 12-15. */
V_INLINE void v_widen_strip(const uint8_t *b, int64_t stride, int64_t depth, int64_t columns, int16_t *strip,
                            const bool is_signed) {
    for (int64_t k = 0; k < depth; k += 2, b += 2 * stride, strip += 32) {
        const uint8_t *next = k + 1 < depth ? b + stride : b; /* an odd last row: A has a zero there */
        for (int64_t j = 0; j < columns; j += 16) {
            const __m128i x = _mm_loadu_si128((const __m128i *)(b + j)),
                          y = _mm_loadu_si128((const __m128i *)(next + j));
            const __m256i even = is_signed ? _mm256_cvtepi8_epi16(x) : _mm256_cvtepu8_epi16(x);
            const __m256i odd = is_signed ? _mm256_cvtepi8_epi16(y) : _mm256_cvtepu8_epi16(y);
            __m256i *to = (__m256i *)(strip + j * DEPTH);
            _mm256_store_si256(to, _mm256_unpacklo_epi16(even, odd));
            _mm256_store_si256(to + 1, _mm256_unpackhi_epi16(even, odd));
        }
    }
}

V_INLINE void v_swap_middle(__m256i *x, __m256i *y) {
    const __m256i low = *x;
    *x = _mm256_permute2x128_si256(low, *y, 0x20), *y = _mm256_permute2x128_si256(low, *y, 0x31);
}

V_INLINE void v_strip_tile(const int16_t *a, int64_t a_step, const int16_t *strip, int64_t depth, int32_t *c,
                           int64_t c_step, const int rows) {
    __m256i sum[QN_SLIVER][2];
    V_UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (int64_t k = 0; k < depth; k += 2, strip += 32) {
        const __m256i low = _mm256_load_si256((const __m256i *)strip),
                      high = _mm256_load_si256((const __m256i *)(strip + 16));
        V_UNROLL for (int r = 0; r < rows; r++) {
            int32_t codes;
            memcpy(&codes, a + r * a_step + k, sizeof codes);
            const __m256i pair = _mm256_set1_epi32(codes);
            sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pair, low));
            sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pair, high));
        }
    }
    V_UNROLL for (int r = 0; r < rows; r++) {
        __m256i *to = (__m256i *)(c + r * c_step);
        v_swap_middle(&sum[r][0], &sum[r][1]);
        _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), sum[r][0]));
        _mm256_storeu_si256(to + 1, _mm256_add_epi32(_mm256_loadu_si256(to + 1), sum[r][1]));
    }
}

V_INLINE void v_sweep_strips(const qn_thin *t, const bool is_signed) {
    const int64_t whole = t->columns / 16 * 16;
    int16_t strip[DEPTH * STRIP] __attribute__((aligned(64)));
    for (int64_t k = 0; k < t->k; k += DEPTH)
        for (int64_t left = 0; left < whole; left += STRIP) {
            const int64_t depth = t->k - k < DEPTH ? t->k - k : DEPTH,
                          columns = whole - left < STRIP ? whole - left : STRIP;
            v_widen_strip(t->b + k * t->stride + left, t->stride, depth, columns, strip, is_signed);
            for (int r = 0; r < t->rows; r += QN_SLIVER)
                for (int64_t j = 0; j < columns; j += 16) {
                    const int16_t *a = t->a + r * t->a_step + k, *b = strip + j * DEPTH;
                    int32_t *c = t->c + r * t->c_step + left + j;
                    for (int64_t i = j / 16; r == 0 && i < DEPTH; i += 4) /* prefetches the next strip */
                        _mm_prefetch(t->b + (k + i) * t->stride + left + STRIP, _MM_HINT_T1);
                    switch (t->rows - r) {
                    case 1: v_strip_tile(a, t->a_step, b, depth, c, t->c_step, 1); break;
                    case 2: v_strip_tile(a, t->a_step, b, depth, c, t->c_step, 2); break;
                    case 3: v_strip_tile(a, t->a_step, b, depth, c, t->c_step, 3); break;
                    default: v_strip_tile(a, t->a_step, b, depth, c, t->c_step, 4);
                    }
                }
        }
}

V_INLINE void v_sweep_all(const qn_thin *t, const bool is_signed) {
    if (t->rows > 2) v_sweep_strips(t, is_signed);
    else
        for (int64_t left = 0; left < t->columns; left += SWEPT) {
            qn_thin strip = *t;
            strip.b += left, strip.c += left;
            strip.columns = t->columns - left < SWEPT ? t->columns - left : SWEPT;
            for (int64_t k = 0; k < t->k; k += 8) {
                if (t->rows == 1) v_sweep_rows(&strip, k, 1, is_signed);
                else v_sweep_rows(&strip, k, 2, is_signed);
            }
        }
}

/* Both return how many columns they multiplied. */
static int64_t v_sweep(const qn_thin *t) {
    if (t->is_signed) v_sweep_all(t, true);
    else v_sweep_all(t, false);
    return t->columns / 16 * 16;
}

/* Four columns times 1 or 2 rows, with a prefetch of the next four into the L2 cache. */
V_INLINE void v_dots_add(const uint8_t *const *b, const int16_t *a, int64_t a_step, __m256i sum[2][4], const int rows,
                         const bool is_signed) {
    V_UNROLL for (int c = 0; c < 4; c++) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)b[c]);
        const __m256i w = is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
        V_UNROLL for (int r = 0; r < rows; r++) {
            const __m256i codes = _mm256_loadu_si256((const __m256i *)(a + r * a_step));
            sum[r][c] = _mm256_add_epi32(sum[r][c], _mm256_madd_epi16(codes, w));
        }
    }
}

V_INLINE void v_dots_of(const qn_thin *t, int64_t k, int64_t end, int64_t column, int row, const int rows,
                        const bool is_signed) {
    const int16_t *a = t->a + row * t->a_step;
    const uint8_t *b = t->b + column * t->stride, *last[4];
    uint8_t padded[4][16] = {{0}};
    __m256i sum[2][4];
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int c = 0; c < 4; c++) sum[r][c] = _mm256_setzero_si256();
    for (; k + 16 <= end; k += 16) {
        const uint8_t *at[4] = {b + k, b + t->stride + k, b + 2 * t->stride + k, b + 3 * t->stride + k};
        if (row == 0 && k % 64 == 0)
            V_UNROLL for (int c = 0; c < 4; c++) _mm_prefetch(at[c] + 4 * t->stride, _MM_HINT_T1);
        v_dots_add(at, a + k, t->a_step, sum, rows, is_signed);
    }
    if (k < end) {
        V_UNROLL for (int c = 0; c < 4; c++) last[c] = memcpy(padded[c], b + c * t->stride + k, (size_t)(end - k));
        v_dots_add(last, a + k, t->a_step, sum, rows, is_signed);
    }
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int c = 0; c < 4; c++) {
        int32_t *to = t->c + (row + r) * t->c_step + column + c;
        *to = (int32_t)((uint32_t)*to + (uint32_t)v_sum_lanes(sum[r][c]));
    }
}

/* One row takes column after column: the hardware prefetcher follows this linear read best without hints. */
V_INLINE int32_t v_dot(const int16_t *a, const uint8_t *b, int64_t count, const bool is_signed) {
    __m256i sum[4];
    int64_t k = 0;
    V_UNROLL for (int i = 0; i < 4; i++) sum[i] = _mm256_setzero_si256();
    for (; k + 64 <= count; k += 64) V_UNROLL for (int i = 0; i < 4; i++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(b + k + 16 * i));
            const __m256i w = is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
            const __m256i codes = _mm256_loadu_si256((const __m256i *)(a + k + 16 * i));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(codes, w));
        }
    for (; k < count; k += 16) {
        uint8_t padded[16] = {0};
        memcpy(padded, b + k, (size_t)(count - k < 16 ? count - k : 16));
        const __m128i bytes = _mm_loadu_si128((const __m128i *)padded);
        const __m256i w = is_signed ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
        sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(a + k)), w));
    }
    sum[0] = _mm256_add_epi32(_mm256_add_epi32(sum[0], sum[1]), _mm256_add_epi32(sum[2], sum[3]));
    return v_sum_lanes(sum[0]);
}

V_INLINE void v_dots_row(const qn_thin *t, const bool is_signed) {
    for (int64_t k = 0; k < t->k; k += DOT_DEPTH)
        for (int64_t j = 0; j < t->columns; j++) {
            const int64_t count = t->k - k < DOT_DEPTH ? t->k - k : DOT_DEPTH;
            const int32_t sum = v_dot(t->a + k, t->b + j * t->stride + k, count, is_signed);
            t->c[j] = (int32_t)((uint32_t)t->c[j] + (uint32_t)sum);
        }
}

V_INLINE void v_dots_all(const qn_thin *t, const bool is_signed) {
    for (int64_t k = 0; k < t->k; k += DOTS_DEPTH) {
        const int64_t end = k + DOTS_DEPTH < t->k ? k + DOTS_DEPTH : t->k;
        for (int64_t j = 0; j + 4 <= t->columns; j += 4)
            for (int r = 0; r < t->rows; r += 2) {
                if (t->rows - r == 1) v_dots_of(t, k, end, j, r, 1, is_signed);
                else v_dots_of(t, k, end, j, r, 2, is_signed);
            }
    }
}

static int64_t v_dots(const qn_thin *t) {
    if (t->rows == 1) {
        if (t->is_signed) v_dots_row(t, true);
        else v_dots_row(t, false);
        return t->columns;
    }
    if (t->is_signed) v_dots_all(t, true);
    else v_dots_all(t, false);
    return t->columns / 4 * 4;
}
