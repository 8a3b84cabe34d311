/* error_sums_f32, codes_seen_8. */
#include "support.h"

void test_metrics(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++) {
        int64_t n = size_at(size);
        float *x = array((size_t)n, sizeof *x), *y = array((size_t)n, sizeof *y);
        uint8_t *codes = array((size_t)n, 1);
        for (int64_t i = 0; i < n; i++) x[i] = (float)(random_unit() - 0.5), y[i] = x[i] * 1.01f;
        fill_any(codes, (size_t)n);
        if (row->error_sums_f32) {
            qn_error a = {1, 2, 3, 4, 0.001}, b = a;
            qn_row_scalar.error_sums_f32(x, y, n, &a);
            row->error_sums_f32(x, y, n, &b);
            CHECK_SAME(!memcmp(&a, &b, sizeof a), "error_sums_f32");
        }
        if (row->codes_seen_8) {
            uint8_t a[256] = {[3] = 1};
            guarded g = guarded_make(sizeof a, 0);
            memcpy(g.data, a, sizeof a);
            for (int64_t i = 0; i < n; i++) a[codes[i]] = 1;
            row->codes_seen_8(codes, n, g.data);
            check(!memcmp(a, g.data, sizeof a), row_name, "codes_seen_8", "differs from a plain loop", n, NULL);
            CHECK_GUARDS(g, "codes_seen_8");
            free(g.memory);
        }
        free(x), free(y), free(codes);
    }
}
