/* hamming_rows, first_below, score_sums, first_above, dot_f64. */
#include "support.h"

static double small_number(void) { return (double)random_int(-1000, 1000) / 64; }

static void test_distances(const char *row_name, const qn_table *row, int64_t n) {
    for (int64_t bytes = 0; bytes < 70; bytes += bytes < 10 ? 1 : 3) {
        uint8_t *rows = array((size_t)(n * bytes), 1), *query = array((size_t)bytes, 1);
        for (int64_t i = 0; i < n * bytes; i++) rows[i] = (uint8_t)random_bits();
        for (int64_t i = 0; i < bytes; i++) query[i] = (uint8_t)random_bits();
        guarded expected = guarded_make((size_t)n * sizeof(int32_t), 0),
                result = guarded_make((size_t)n * sizeof(int32_t), 0);
        qn_row_scalar.hamming_rows(rows, n, query, bytes, (int32_t *)expected.data);
        row->hamming_rows(rows, n, query, bytes, (int32_t *)result.data);
        CHECK_SAME(!memcmp(expected.data, result.data, (size_t)n * sizeof(int32_t)), "hamming_rows");
        CHECK_GUARDS(result, "hamming_rows");
        const int32_t *distances = (int32_t *)expected.data;
        for (int64_t i = 0; i < n; i++) {
            int64_t from_scalar = -1, from_row = -1;
            qn_row_scalar.first_below(distances, distances[i], n, &from_scalar);
            row->first_below(distances, distances[i], n, &from_row);
            CHECK_SAME(from_scalar == from_row, "first_below");
        }
        free(rows), free(query), free(expected.memory), free(result.memory);
    }
}

static void test_scores(const char *row_name, const qn_table *row, int64_t n) {
    size_t bytes = (size_t)n * sizeof(double);
    double *scale = array((size_t)n, sizeof(double)), *offset = array((size_t)n, sizeof(double));
    float *x = array((size_t)n, sizeof(float)), *y = array((size_t)n, sizeof(float));
    int32_t *sums = array((size_t)n, sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) {
        scale[i] = small_number(), offset[i] = small_number(), sums[i] = (int32_t)random_bits();
        x[i] = (float)small_number() / 3, y[i] = (float)small_number() / 3;
    }
    for (int with_offset = 0; with_offset < 2; with_offset++) {
        guarded expected = guarded_make(bytes, 0), result = guarded_make(bytes, 0);
        double *e = (double *)expected.data, *r = (double *)result.data;
        const double *added = with_offset ? offset : NULL;
        qn_row_scalar.score_sums(sums, scale, added, 0.3, e, n);
        row->score_sums(sums, scale, added, 0.3, r, n);
        CHECK_SAME(!memcmp(e, r, bytes), "score_sums");
        CHECK_GUARDS(result, "score_sums");
        for (int64_t i = 0; i < n; i++) {
            int64_t from_scalar = -1, from_row = -1;
            qn_row_scalar.first_above(e, e[i], n, &from_scalar);
            row->first_above(e, e[i], n, &from_row);
            CHECK_SAME(from_scalar == from_row, "first_above");
        }
        free(expected.memory), free(result.memory);
    }
    double from_scalar = 0, from_row = 1;
    qn_row_scalar.dot_f64(x, y, n, &from_scalar);
    row->dot_f64(x, y, n, &from_row);
    CHECK_SAME(!memcmp(&from_scalar, &from_row, sizeof from_row), "dot_f64");
    free(scale), free(offset), free(x), free(y), free(sums);
}

void test_nearest(const char *row_name, const qn_table *row) {
    if (!row->hamming_rows) return; /* inherited, as the others are */
    for (int size = 0; size < SIZES; size++) {
        test_distances(row_name, row, size_at(size) % 40);
        test_scores(row_name, row, size_at(size));
    }
}
