/* min_max_<f>, min_max_columns_<f>. */
#include "support.h"

/* Ranges compare by value, and by the sign of a zero. */
static bool same_ranges(const qn_range *a, const qn_range *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i].min, &b[i].min, 8) || memcmp(&a[i].max, &b[i].max, 8) || a[i].nan != b[i].nan ||
            a[i].infinite != b[i].infinite)
            return false;
    return true;
}

static qn_range random_range(void) { /* empty, or of some elements */
    if (random_bits() % 2) return (qn_range){INFINITY, -INFINITY, 0, 0};
    return (qn_range){-random_unit(), random_unit(), (int64_t)(random_bits() % 9), (int64_t)(random_bits() % 9)};
}

#define TEST_MIN_MAX(tag, type)                                                                                        \
    static void test_min_max_##tag(const char *row_name, const qn_table *row, bool finite) {                           \
        const char *name = "min_max_" #tag, *columns = "min_max_columns_" #tag;                                        \
        for (int size = 0; size < SIZES; size++)                                                                       \
            for (int again = 0; again < 8; again++) {                                                                  \
                int64_t n = size_at(size), rows = again * again + (again == 7) * 80, stride = n + random_int(0, 3);    \
                if (n > SMALL && again > 3) continue;                                                                  \
                int64_t total = rows ? (rows - 1) * stride + n : 0;                                                    \
                if (total < n) total = n;                                                                              \
                type *x = array((size_t)total, sizeof *x);                                                             \
                fill_##type(x, total, NULL, NULL);                                                                     \
                for (int64_t i = 0; finite && i < total; i++)                                                          \
                    if (!isfinite(x[i])) x[i] = 0;                                                                     \
                if (row->min_max_##tag) {                                                                              \
                    qn_range a = random_range(), b = a;                                                                \
                    qn_row_scalar.min_max_##tag(x, n, &a);                                                             \
                    row->min_max_##tag(x, n, &b);                                                                      \
                    CHECK_SAME(same_ranges(&a, &b, 1), name);                                                          \
                }                                                                                                      \
                if (row->min_max_columns_##tag) {                                                                      \
                    size_t bytes = (size_t)n * sizeof(qn_range);                                                       \
                    qn_range *a = array(bytes, 1);                                                                     \
                    guarded g = guarded_make(bytes, 0);                                                                \
                    for (int64_t i = 0; i < n; i++) a[i] = random_range();                                             \
                    memcpy(g.data, a, bytes);                                                                          \
                    qn_row_scalar.min_max_columns_##tag(x, rows, stride, n, a);                                        \
                    row->min_max_columns_##tag(x, rows, stride, n, (qn_range *)g.data);                                \
                    bool same = same_ranges(a, (qn_range *)g.data, n);                                                 \
                    CHECK_SAME(same, columns);                                                                         \
                    CHECK_GUARDS(g, columns);                                                                          \
                    free(a), free(g.memory);                                                                           \
                }                                                                                                      \
                free(x);                                                                                               \
            }                                                                                                          \
    }
TEST_MIN_MAX(f32, float)
TEST_MIN_MAX(f64, double)

void test_reduce(const char *row_name, const qn_table *row) {
    for (int finite = 0; finite < 2; finite++) {
        test_min_max_f32(row_name, row, finite);
        test_min_max_f64(row_name, row, finite);
    }
}
