/* count_f32, count_columns_f32, sort_columns_<T>. */
#include "support.h"

#define TEST_SORT(T, NAME, KERNEL, RANDOM)                                                                             \
    static int by_value_##NAME(const void *a, const void *b) {                                                         \
        T x = *(const T *)a, y = *(const T *)b;                                                                        \
        return (x > y) - (x < y);                                                                                      \
    }                                                                                                                  \
    static void test_sort_##NAME(const char *row_name, const qn_table *row) {                                          \
        if (!row->KERNEL) return;                                                                                      \
        for (int64_t n = 0; n <= 256; n += n < 70 ? 1 : 31) {                                                          \
            size_t bytes = (size_t)n * QN_COLUMNS * sizeof(T);                                                         \
            guarded g = guarded_make(bytes, 0);                                                                        \
            T *keys = (T *)g.data, *expected = array(bytes, 1), *columns = array(bytes, 1);                            \
            for (int64_t i = 0; i < n * QN_COLUMNS; i++) keys[i] = RANDOM;                                             \
            for (int64_t i = 0; i < n * QN_COLUMNS; i++) columns[i % QN_COLUMNS * n + i / QN_COLUMNS] = keys[i];       \
            for (int64_t c = 0; c < QN_COLUMNS; c++) qsort(columns + c * n, (size_t)n, sizeof(T), by_value_##NAME);    \
            for (int64_t i = 0; i < n * QN_COLUMNS; i++) expected[i] = columns[i % QN_COLUMNS * n + i / QN_COLUMNS];   \
            row->KERNEL(keys, n);                                                                                      \
            check(!memcmp(keys, expected, bytes), row_name, #KERNEL, "differs from qsort", n, NULL);                   \
            CHECK_GUARDS(g, #KERNEL);                                                                                  \
            free(expected), free(columns), free(g.memory);                                                             \
        }                                                                                                              \
    }

TEST_SORT(int16_t, i16, sort_columns_i16, (int16_t)(random_bits() % (i % 3 ? 65536 : 5)))
TEST_SORT(double, f64, sort_columns_f64,
          ldexp((double)(random_bits() % (i % 3 ? 65536 : 5)) - 2, (int)(i % 9) * 200 - 800))

/* Counters against a plain loop over the bits. Which way counts an element is free; the sum over the ways is not. */
static void test_counts(const char *row_name, const qn_table *row) {
    enum { SHIFT = 20, BINS = 1 << (32 - SHIFT), TABLE = BINS + 3, COLUMNS = 37 };
    for (int size = 0; size < SIZES; size++) {
        int64_t n = size_at(size), rows = n / COLUMNS;
        float *x = array((size_t)n, sizeof *x);
        fill_float(x, n, NULL, NULL);
        for (int ways = 1; ways <= 4 && row->count_f32; ways += 3) {
            uint32_t *expected = calloc(BINS, sizeof *expected);
            size_t bytes = BINS * (size_t)ways * sizeof *expected;
            guarded g = guarded_make(bytes, 0);
            memset(g.data, 0, bytes);
            for (int64_t i = 0; i < n; i++) {
                uint32_t bits;
                memcpy(&bits, x + i, sizeof bits);
                expected[bits >> SHIFT]++;
            }
            row->count_f32(x, n, SHIFT, ways, (uint32_t *)g.data);
            bool same = true;
            for (int k = 0; k < BINS; k++)
                for (int way = 0; way < ways; way++) expected[k] -= ((uint32_t *)g.data)[k * ways + way];
            for (int k = 0; k < BINS; k++) same &= expected[k] == 0;
            check(same, row_name, "count_f32", "differs from a plain loop", n, NULL);
            CHECK_GUARDS(g, "count_f32");
            free(expected), free(g.memory);
        }
        if (row->count_columns_f32 && n % 5 == 0) {
            size_t bytes = (size_t)COLUMNS * TABLE * sizeof(uint32_t);
            uint32_t *expected = calloc(bytes, 1);
            guarded g = guarded_make(bytes, 0);
            memset(g.data, 0, bytes);
            for (int64_t i = 0; i < rows * COLUMNS; i++) {
                uint32_t bits;
                memcpy(&bits, x + i, sizeof bits);
                expected[i % COLUMNS * TABLE + (bits >> SHIFT)]++;
            }
            row->count_columns_f32(x, rows, COLUMNS, COLUMNS, SHIFT, TABLE, (uint32_t *)g.data);
            check(!memcmp(expected, g.data, bytes), row_name, "count_columns_f32", "differs from a plain loop", n,
                  NULL);
            CHECK_GUARDS(g, "count_columns_f32");
            free(expected), free(g.memory);
        }
        free(x);
    }
}

void test_histogram(const char *row_name, const qn_table *row) {
    test_sort_i16(row_name, row);
    test_sort_f64(row_name, row);
    test_counts(row_name, row);
}
