/* Quads (excess.h) in AVX2: four products are added in an int16 lane before they are widened, 12 instructions where
 * pairs need 16. Include it after matmul_avx2.h, whose ASM_TILE it uses.
 */
#define QN_OWN_QUADS

/* Packs an uint8 as it is, an int8 plus center. */
static void left_quads(const qn_left *l) { v_left_bytes(l, l->is_signed ? 0 : l->center, l->center); }

/* One band of 32 rows, which is 8 slivers, and four k at a time. */
static void left_turned(const uint8_t *packed, int64_t quartets, int64_t rows, uint8_t *turned, int64_t step) {
    const __m256i by_k = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                                          13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int64_t sliver = quartets * QN_SLIVER * 4;
    for (int64_t i = 0; i < rows; i += QN_BAND)
        for (int64_t g = 0; g < quartets; g++) {
            const uint8_t *from = packed + i / QN_SLIVER * sliver + g * QN_SLIVER * 4;
            uint8_t *to = turned + g * 4 * step + i;
            __m256i r[4];
            for (int s = 0; s < 4; s++) {
                __m128i low = _mm_load_si128((const __m128i *)(from + s * sliver));
                __m128i high = _mm_load_si128((const __m128i *)(from + (s + 4) * sliver));
                r[s] = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1), by_k);
            }
            __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
            __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
            _mm256_store_si256((__m256i *)to, _mm256_unpacklo_epi64(a, c));
            _mm256_store_si256((__m256i *)(to + step), _mm256_unpackhi_epi64(a, c));
            _mm256_store_si256((__m256i *)(to + 2 * step), _mm256_unpacklo_epi64(b, d));
            _mm256_store_si256((__m256i *)(to + 3 * step), _mm256_unpackhi_epi64(b, d));
        }
}

/* For each two quartets their codes, then -center times the sums of their quads, modulo 2^16. */
static void right_quads(const uint8_t *panel, int64_t quartets, uint8_t less, uint8_t center, uint8_t *quads) {
    const __m256i middle = _mm256_set1_epi8((char)less), by = _mm256_set1_epi8((char)center);
    for (int64_t g = 0; g < quartets; g += 2, panel += 2 * QN_QUARTET, quads += QN_QUADS)
        for (int h = 0; h < QN_QUARTET; h += 32) {
            __m256i offset = _mm256_setzero_si256();
            for (int n = h; n < 2 * QN_QUARTET; n += QN_QUARTET) {
                __m256i s = _mm256_sub_epi8(_mm256_load_si256((const __m256i *)(panel + n)), middle);
                _mm256_store_si256((__m256i *)(quads + n), s);
                offset = _mm256_sub_epi16(offset, _mm256_maddubs_epi16(by, s));
            }
            _mm256_store_si256((__m256i *)(quads + 2 * QN_QUARTET + h), offset);
        }
}

/* One row of two quartets; ymm8-10 hold three of the four vectors of B. */
#define ASM_QUADS(first, second, c0, c1)                                                                               \
    "vpbroadcastd " first "(%[a]), %%ymm12\n\t"                                                                        \
    "vpmaddubsw %%ymm8, %%ymm12, %%ymm13\n\t"                                                                          \
    "vpbroadcastd " second "(%[a]), %%ymm14\n\t"                                                                       \
    "vpmaddubsw %%ymm9, %%ymm12, %%ymm12\n\t"                                                                          \
    "vpaddw 128(%[b]), %%ymm13, %%ymm13\n\t"                                                                           \
    "vpmaddubsw %%ymm10, %%ymm14, %%ymm11\n\t"                                                                         \
    "vpaddw 160(%[b]), %%ymm12, %%ymm12\n\t"                                                                           \
    "vpmaddubsw 96(%[b]), %%ymm14, %%ymm14\n\t"                                                                        \
    "vpaddw %%ymm11, %%ymm13, %%ymm13\n\t"                                                                             \
    "vpaddw %%ymm14, %%ymm12, %%ymm12\n\t"                                                                             \
    "vpmaddwd %%ymm15, %%ymm13, %%ymm13\n\t"                                                                           \
    "vpmaddwd %%ymm15, %%ymm12, %%ymm12\n\t"                                                                           \
    "vpaddd %%ymm13, %%" c0 ", %%" c0 "\n\t"                                                                           \
    "vpaddd %%ymm12, %%" c1 ", %%" c1 "\n\t"
#define ASM_QUADS1                                                                                                     \
    "vmovdqa (%[b]), %%ymm8\n\tvmovdqa 32(%[b]), %%ymm9\n\tvmovdqa 64(%[b]), %%ymm10\n\t" ASM_QUADS("0", "16", "ymm0", \
                                                                                                    "ymm1")
#define ASM_QUADS2 ASM_QUADS1 ASM_QUADS("4", "20", "ymm2", "ymm3")
#define ASM_QUADS3 ASM_QUADS2 ASM_QUADS("8", "24", "ymm4", "ymm5")
#define ASM_QUADS4 ASM_QUADS3 ASM_QUADS("12", "28", "ymm6", "ymm7")
#define ASM_MORE(r, at, c0, c1)                                                                                        \
    "vpaddd 64*" #r "(%[more]), %%" c0 ", %%" c0 "\n\tvpaddd 32+64*" #r "(%[more]), %%" c1 ", %%" c1 "\n\t"
#define ASM_QUADS_TILE(R)                                                                                              \
    ASM_TILE(v_quads, R, 2, ASM_QUADS##R, 16, 96, "vmovdqa %[one], %%ymm15\n\t",                                       \
             "test %[more], %[more]\n\tjz 3f\n\t" ASM_ROWS##R(ASM_MORE) "3:\n\t")
ASM_QUADS_TILE(1)
ASM_QUADS_TILE(2)
ASM_QUADS_TILE(3)
ASM_QUADS_TILE(4)
static void multiply_quads(const qn_tile *t) {
    static const v_tile_function functions[QN_SLIVER] = {v_quads1, v_quads2, v_quads3, v_quads4};
    v_by_slivers(t, functions, 4);
}

enum { V_BANDS = 3 }; /* at most */

/* Sum of (a - center) e over the excess e of one column, an int16 for each row; the rows of a band are in the order
 * 0-7, 16-23, 8-15, 24-31. */
V_INLINE void v_excess_column(const qn_excess_tile *x, const qn_excess_pair *e, int count, int16_t start,
                              const int bands, int16_t *to) {
    __m256i sum[2 * V_BANDS];
    for (int s = 0; s < 2 * bands; s++) sum[s] = _mm256_set1_epi16(start);
    for (; count > 0; count--, e++) {
        const uint8_t *a = x->turned + e->k[0] * x->step, *b = x->turned + e->k[1] * x->step;
        int16_t both;
        memcpy(&both, e->excess, sizeof both);
        const __m256i by = _mm256_set1_epi16(both);
        for (int s = 0; s < bands; s++) {
            __m256i v = _mm256_load_si256((const __m256i *)(a + QN_BAND * s));
            __m256i w = _mm256_load_si256((const __m256i *)(b + QN_BAND * s));
            sum[2 * s] = _mm256_add_epi16(sum[2 * s], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(v, w), by));
            sum[2 * s + 1] = _mm256_add_epi16(sum[2 * s + 1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(v, w), by));
        }
    }
    for (int s = 0; s < 2 * bands; s++) _mm256_store_si256((__m256i *)(to + 16 * s), sum[s]);
}

/* Transposes 8 x 8 elements of 16 bits in each half. */
V_INLINE void v_transpose8_words(__m256i r[8]) {
    __m256i t[8], u[8];
    for (int i = 0; i < 4; i++)
        t[i] = _mm256_unpacklo_epi16(r[i], r[i + 4]), t[i + 4] = _mm256_unpackhi_epi16(r[i], r[i + 4]);
    for (int i = 0; i < 8; i += 4)
        for (int n = 0; n < 2; n++)
            u[i + n] = _mm256_unpacklo_epi16(t[i + n], t[i + n + 2]),
                  u[i + n + 2] = _mm256_unpackhi_epi16(t[i + n], t[i + n + 2]);
    for (int i = 0; i < 8; i += 2)
        r[i] = _mm256_unpacklo_epi16(u[i], u[i + 1]), r[i + 1] = _mm256_unpackhi_epi16(u[i], u[i + 1]);
}

V_INLINE void v_put_row(const qn_excess_tile *x, int64_t row, int column, __m128i words) {
    __m256i *to = (__m256i *)(x->sums + row * QN_PANEL + column), sum = _mm256_cvtepi16_epi32(words);
    _mm256_store_si256(to, x->add ? _mm256_add_epi32(sum, _mm256_load_si256(to)) : sum);
}

V_INLINE void v_add_excess(const qn_excess_tile *tile, const int bands) {
    int16_t sums[QN_PANEL][V_BANDS * QN_BAND] __attribute__((aligned(32)));
    const qn_excess_tile x = *tile; /* a copy that no store can change */
    const qn_excess_pair *e = x.pairs;
    for (int j = 0; j < QN_PANEL; e += x.pass->count[j++])
        v_excess_column(&x, e, x.pass->count[j], (int16_t)(-x.center * x.pass->sum[j]), bands, sums[x.pass->column[j]]);
    for (int half = 0; half < 2 * bands; half++)
        for (int column = 0; column < QN_PANEL; column += 8) {
            const int64_t row = half / 2 * QN_BAND + half % 2 * 8;
            __m256i r[8];
            for (int j = 0; j < 8; j++) r[j] = _mm256_load_si256((const __m256i *)(sums[column + j] + 16 * half));
            v_transpose8_words(r);
            for (int i = 0; i < 8; i++) {
                v_put_row(&x, row + i, column, _mm256_castsi256_si128(r[i]));
                v_put_row(&x, row + i + 16, column, _mm256_extracti128_si256(r[i], 1));
            }
        }
}

static void add_excess(const qn_excess_tile *x) {
    if (x->bands == 1) v_add_excess(x, 1);
    else if (x->bands == 2) v_add_excess(x, 2);
    else v_add_excess(x, 3);
}
