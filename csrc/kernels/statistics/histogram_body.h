/* Counting floats by the upper bits of their pattern: sign, exponent, first bits of the mantissa.
 *
 * The bin is a shift of the bits: no range must be known before, and every value fits. Neighbouring elements are
 * counted in different tables, `ways` of them in turn: with one table the load of the counter of an equal neighbour
 * would wait for the store before it. Vectors would not be faster: an element costs a load and an addition in memory,
 * and the compiler loads the upper half of a float32 directly.
 */

enum { COUNT_UNROLL = 16, COUNT_AHEAD = 4096 }; /* elements: the next tile */

V_INLINE uint32_t count_key(const float *x, int shift) {
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    return bits >> shift;
}

V_INLINE void count_ways(const float *x, int64_t n, int shift, int ways, uint32_t *counts) {
    int64_t i = 0;
    for (; i + COUNT_UNROLL <= n; i += COUNT_UNROLL) {
        __builtin_prefetch(x + i + COUNT_AHEAD);
        _Pragma("GCC unroll 16") for (int k = 0; k < COUNT_UNROLL; k++)
            counts[count_key(x + i + k, shift) * (uint32_t)ways + (uint32_t)(k % ways)]++;
    }
    for (; i < n; i++) counts[count_key(x + i, shift) * (uint32_t)ways]++;
}

static void count_f32(const float *x, int64_t n, int shift, int ways, uint32_t *counts) {
    if (ways == 4 && shift == 16) count_ways(x, n, 16, 4, counts);
    else if (ways == 4) count_ways(x, n, shift, 4, counts);
    else if (shift == 16) count_ways(x, n, 16, 1, counts);
    else count_ways(x, n, shift, 1, counts);
}

/* Sixteen columns at a time, which are one cache line of each row: their most used counters fit the L1 cache beside it.
 */
static void count_columns_f32(const float *x, int64_t rows, int64_t stride, int64_t n, int shift, int64_t table,
                              uint32_t *counts) {
    int64_t i = 0;
    for (; i + COUNT_UNROLL <= n; i += COUNT_UNROLL)
        for (int64_t r = 0; r < rows; r++)
            _Pragma("GCC unroll 16") for (int k = 0; k < COUNT_UNROLL; k++)
                counts[(i + k) * table + count_key(x + r * stride + i + k, shift)]++;
    for (; i < n; i++)
        for (int64_t r = 0; r < rows; r++) counts[i * table + count_key(x + r * stride + i, shift)]++;
}

/* Batcher's odd-even merge sort: which rows it compares depends on n alone, so that it sorts all columns at once. */
#define SORT_COLUMNS(NAME, TYPE)                                                                                       \
    static void NAME(TYPE *keys, int64_t n) {                                                                          \
        for (int64_t sorted = 1; sorted < n; sorted *= 2)                                                              \
            for (int64_t apart = sorted; apart > 0; apart /= 2)                                                        \
                for (int64_t first = apart % sorted; first + apart < n; first += 2 * apart)                            \
                    for (int64_t i = first; i < first + apart && i + apart < n; i++) {                                 \
                        if (i / (2 * sorted) != (i + apart) / (2 * sorted)) continue;                                  \
                        TYPE *a = keys + i * QN_COLUMNS, *b = a + apart * QN_COLUMNS;                                  \
                        for (int c = 0; c < QN_COLUMNS; c++) {                                                         \
                            TYPE low = a[c] < b[c] ? a[c] : b[c], high = a[c] < b[c] ? b[c] : a[c];                    \
                            a[c] = low, b[c] = high;                                                                   \
                        }                                                                                              \
                    }                                                                                                  \
    }

SORT_COLUMNS(sort_columns_i16, int16_t)
SORT_COLUMNS(sort_columns_f64, double)
#undef SORT_COLUMNS

static void truncate_f64_f32(const double *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float near = (float)x[i];
        uint32_t bits;
        memcpy(&bits, &near, sizeof bits);
        double magnitude = near < 0 ? -(double)near : (double)near, exact = x[i] < 0 ? -x[i] : x[i];
        /* One step back if x was rounded away from zero; from infinity to the largest float32. */
        bits -= magnitude > exact;
        memcpy(&y[i], &bits, sizeof bits);
    }
}
