/* Thin products with vpdpbusd: a few rows of A, less their zero points, times the bytes of a raw B.
 *
 * One factor must be unsigned, the other signed. If all a - zero lie in 0..255, A is the unsigned factor. Otherwise B
 * is, and A is the sum of one or two int8, -256..254. A row spans 256 values, so only rows with different zero points
 * can have both 255 and negative values; the lower ISA row multiplies those. XOR 0x80 converts B to the other
 * signedness, which adds or subtracts 128; 128 times the sum of a - zero corrects that.
 */

enum {
    THIN_ROWS = 4,      /* rows of A at a time */
    THIN_CODES = 16384, /* codes of all these rows: half of the L1 cache */
    THIN_SWEPT = 16384, /* columns: 16 rows of B and the sums stay in the L2 cache */
};

typedef struct {
    bool is_unsigned;
    int parts;
    uint8_t flip;
    int32_t start[THIN_ROWS];
    int64_t step;                                             /* from row to row */
    uint8_t code[2][THIN_CODES] __attribute__((aligned(64))); /* zeros past the end */
} thin_codes;

/* False: the rows cannot be split. */
static bool split_codes(const qn_thin *t, int64_t k, int64_t depth, thin_codes *c) {
    int16_t lo = 0, hi = 0;
    for (int r = 0; r < t->rows; r++)
        for (int64_t i = 0; i < depth; i++) {
            const int16_t a = t->a[r * t->a_step + k + i];
            lo = a < lo ? a : lo, hi = a > hi ? a : hi;
        }
    if (lo < 0 && hi > 2 * INT8_MAX) return false;
    c->is_unsigned = lo >= 0 && hi > INT8_MAX;
    c->parts = c->is_unsigned || (lo >= INT8_MIN && hi <= INT8_MAX) ? 1 : 2;
    c->flip = c->is_unsigned != t->is_signed ? 0x80 : 0;
    for (int r = 0; r < t->rows; r++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < depth; i++) {
            const int16_t a = t->a[r * t->a_step + k + i], low = a < INT8_MIN ? INT8_MIN : a > INT8_MAX ? INT8_MAX : a;
            const int16_t first = c->is_unsigned ? a : low;
            c->code[0][r * c->step + i] = (uint8_t)first, c->code[1][r * c->step + i] = (uint8_t)(a - first);
            sum += a;
        }
        for (int p = 0; p < 2; p++) memset(c->code[p] + r * c->step + depth, 0, (size_t)(-depth & 63));
        c->start[r] = !c->flip ? 0 : c->is_unsigned ? 128 * sum : -128 * sum;
    }
    return true;
}

V_INLINE __m512i v_dot(__m512i sum, __m512i b, __m512i a, const bool is_unsigned) {
    return is_unsigned ? _mm512_dpbusd_epi32(sum, a, b) : _mm512_dpbusd_epi32(sum, b, a);
}

V_INLINE __m512i v_quartet(const uint8_t *codes) {
    int32_t quartet;
    memcpy(&quartet, codes, sizeof quartet);
    return _mm512_set1_epi32(quartet);
}

/* Transposes four rows of 64 columns: columns 0-3, 16-19, 32-35, 48-51, then 4-7, 20-23, ... */
V_INLINE void v_interleave64(const uint8_t *const line[4], int64_t j, __m512i flip, __m512i to[4]) {
    __m512i r[4];
    V_UNROLL for (int i = 0; i < 4; i++) r[i] = _mm512_xor_si512(_mm512_loadu_si512(line[i] + j), flip);
    const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
    const __m512i c = _mm512_unpacklo_epi8(r[2], r[3]), d = _mm512_unpackhi_epi8(r[2], r[3]);
    to[0] = _mm512_unpacklo_epi16(a, c), to[1] = _mm512_unpackhi_epi16(a, c);
    to[2] = _mm512_unpacklo_epi16(b, d), to[3] = _mm512_unpackhi_epi16(b, d);
}

/* Permutes C into that order, or back, and adds a number to each row. */
static void turn_sums(const qn_thin *t, const int32_t *start) {
    for (int r = 0; r < t->rows; r++)
        for (int64_t j = 0; j + 64 <= t->columns; j += 64) {
            int32_t *c = t->c + r * t->c_step + j;
            __m512i v[4], add = _mm512_set1_epi32(start ? start[r] : 0);
            for (int i = 0; i < 4; i++) v[i] = _mm512_add_epi32(_mm512_loadu_si512(c + 16 * i), add);
            const __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[2], v[3], 0x44);
            const __m512i d = _mm512_shuffle_i32x4(v[0], v[1], 0xEE), e = _mm512_shuffle_i32x4(v[2], v[3], 0xEE);
            _mm512_storeu_si512(c, _mm512_shuffle_i32x4(a, b, 0x88));
            _mm512_storeu_si512(c + 16, _mm512_shuffle_i32x4(a, b, 0xDD));
            _mm512_storeu_si512(c + 32, _mm512_shuffle_i32x4(d, e, 0x88));
            _mm512_storeu_si512(c + 48, _mm512_shuffle_i32x4(d, e, 0xDD));
        }
}

/* 8 rows of B from k on, times codes from i on; the sums stay in the caches. The next 8 rows are prefetched into the L2
 * cache in the order of memory. */
V_INLINE void v_sweep_rows(const qn_thin *t, const thin_codes *codes, int64_t k, int64_t i, const int rows,
                           const int parts, const bool is_unsigned) {
    const __m512i flip = _mm512_set1_epi8((char)codes->flip);
    const uint8_t *line[8];
    __m512i a[2][2][THIN_ROWS];
    for (int n = 0; n < 8; n++) line[n] = t->b + (k + n < t->k ? k + n : t->k - 1) * t->stride;
    V_UNROLL for (int g = 0; g < 2; g++) V_UNROLL for (int p = 0; p < parts; p++)
        V_UNROLL for (int r = 0; r < rows; r++) a[g][p][r] = v_quartet(codes->code[p] + r * codes->step + i + 4 * g);
    const uint8_t *next = t->b + (k + 8) * t->stride;
    int64_t at = 0;
    for (int64_t j = 0; j + 64 <= t->columns; j += 64) {
        __m512i w[2][4];
        for (int n = 0; n < 8; n++) _mm_prefetch(next + at + 64 * n, _MM_HINT_T1);
        at += 8 * 64;
        if (at >= t->columns) at = 0, next += t->stride;
        v_interleave64(line, j, flip, w[0]), v_interleave64(line + 4, j, flip, w[1]);
        V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int n = 0; n < 4; n++) {
            int32_t *c = t->c + r * t->c_step + j + 16 * n;
            __m512i sum = _mm512_loadu_si512(c);
            V_UNROLL for (int g = 0; g < 2; g++) V_UNROLL for (int p = 0; p < parts; p++) sum =
                v_dot(sum, w[g][n], a[g][p][r], is_unsigned);
            _mm512_storeu_si512(c, sum);
        }
    }
}

/* 4 columns from k on, with a prefetch of the next 4 into the L2 cache; or 1 column, a linear read that the hardware
 * prefetcher follows best without hints. */
V_INLINE void v_dots_of(const qn_thin *t, const thin_codes *codes, int64_t k, int64_t depth, int64_t column,
                        const int columns, const int rows, const int parts, const bool is_unsigned) {
    const __m512i flip = _mm512_set1_epi8((char)codes->flip);
    const uint8_t *b = t->b + column * t->stride + k;
    __m512i sum[THIN_ROWS][4];
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int c = 0; c < columns; c++) sum[r][c] =
        _mm512_setzero_si512();
    for (int64_t i = 0; i < depth; i += 64) {
        const __mmask64 mask = depth - i < 64 ? (1ull << (depth - i)) - 1 : ~0ull;
        __m512i w[4];
        V_UNROLL for (int c = 0; c < columns; c++) {
            const uint8_t *at = b + c * t->stride + i;
            if (columns > 1) _mm_prefetch(at + columns * t->stride, _MM_HINT_T1);
            w[c] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, at), flip);
        }
        V_UNROLL for (int p = 0; p < parts; p++) V_UNROLL for (int r = 0; r < rows; r++) {
            const __m512i a = _mm512_load_si512(codes->code[p] + r * codes->step + i);
            V_UNROLL for (int c = 0; c < columns; c++) sum[r][c] = v_dot(sum[r][c], w[c], a, is_unsigned);
        }
    }
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int c = 0; c < columns; c++) {
        int32_t *to = t->c + r * t->c_step + column + c;
        *to = (int32_t)((uint32_t)*to + (uint32_t)codes->start[r] + (uint32_t)_mm512_reduce_add_epi32(sum[r][c]));
    }
}

V_INLINE void v_sweep_band(const qn_thin *t, const thin_codes *codes, int64_t k, int64_t depth, const int rows,
                           const int parts, const bool is_unsigned) {
    for (int64_t i = 0; i < depth; i += 8) v_sweep_rows(t, codes, k + i, i, rows, parts, is_unsigned);
}

V_INLINE void v_dots_band(const qn_thin *t, const thin_codes *codes, int64_t k, int64_t depth, const int rows,
                          const int parts, const bool is_unsigned) {
    int64_t j = 0;
    for (; rows > 1 && j + 4 <= t->columns; j += 4) v_dots_of(t, codes, k, depth, j, 4, rows, parts, is_unsigned);
    for (; j < t->columns; j++) v_dots_of(t, codes, k, depth, j, 1, rows, parts, is_unsigned);
}

#define THIN_KINDS(multiply, rows)                                                                                     \
    if (codes->is_unsigned) multiply(t, codes, k, depth, rows, 1, true);                                               \
    else if (codes->parts == 1) multiply(t, codes, k, depth, rows, 1, false);                                          \
    else multiply(t, codes, k, depth, rows, 2, false);                                                                 \
    break;
#define THIN_KERNEL(name, multiply)                                                                                    \
    static void name(const qn_thin *t, const thin_codes *codes, int64_t k, int64_t depth) {                            \
        switch (t->rows) {                                                                                             \
        case 1: THIN_KINDS(multiply, 1)                                                                                \
        case 2: THIN_KINDS(multiply, 2)                                                                                \
        case 3: THIN_KINDS(multiply, 3)                                                                                \
        default: THIN_KINDS(multiply, 4)                                                                               \
        }                                                                                                              \
    }
THIN_KERNEL(sweep_band, v_sweep_band)
THIN_KERNEL(dots_band, v_dots_band)

/* Bands of at most four rows of A, THIN_CODES codes at a time. */
V_INLINE void v_by_bands(const qn_thin *t, const bool turned) {
    thin_codes codes;
    for (int row = 0; row < t->rows; row += THIN_ROWS) {
        qn_thin band = *t;
        band.a += row * t->a_step, band.c += row * t->c_step;
        band.rows = t->rows - row < THIN_ROWS ? t->rows - row : THIN_ROWS;
        codes.step = THIN_CODES / band.rows / 64 * 64;
        for (int64_t k = 0; k < t->k; k += codes.step) {
            const int64_t depth = t->k - k < codes.step ? t->k - k : codes.step;
            if (!split_codes(&band, k, depth, &codes)) {
                qn_thin rest = band;
                rest.a += k, rest.b += turned ? k : k * t->stride, rest.k = depth;
                if (turned) qn_row_avx512.dots(&rest);
                else qn_row_avx512.sweep(&rest);
            } else if (turned) {
                dots_band(&band, &codes, k, depth);
            } else {
                turn_sums(&band, codes.start);
                sweep_band(&band, &codes, k, depth);
                turn_sums(&band, NULL);
            }
        }
    }
}

static void dots(const qn_thin *t) { v_by_bands(t, true); }

/* The lower ISA row multiplies the last columns, fewer than 64. */
static void sweep(const qn_thin *t) {
    qn_thin rest = *t;
    while (rest.columns >= 64) {
        qn_thin strip = rest;
        strip.columns = rest.columns < THIN_SWEPT ? rest.columns / 64 * 64 : THIN_SWEPT;
        v_by_bands(&strip, false);
        rest.b += strip.columns, rest.c += strip.columns, rest.columns -= strip.columns;
    }
    if (rest.columns) qn_row_avx512.sweep(&rest);
}
