/* float_error_<f>. */
#include "support.h"

/* y is near x, as after a cast to float16; infinity or NaN where x is large. */
#define TEST_FLOAT_ERROR(tag, type)                                                                                    \
    if (row->float_error_##tag)                                                                                        \
        for (int size = 0; size < SIZES; size++)                                                                       \
            for (int again = 0; again < 4; again++) {                                                                  \
                int64_t n = size_at(size) * (again ? 1 : 5);                                                           \
                type *x = array((size_t)n, sizeof *x);                                                                 \
                float *y = array((size_t)n, sizeof *y);                                                                \
                const qn_float_limits limits = {65520, 65520, 0x1p-14f};                                               \
                fill_##type(x, n, NULL, NULL);                                                                         \
                for (int64_t i = 0; i < n; i++)                                                                        \
                    y[i] = fabs((double)x[i]) < 1e30 ? (float)x[i] * 1.001f : random_bits() % 2 ? INFINITY : NAN;      \
                qn_float_error a = {.least = 3, .peak = 2, .nan = 1}, b = a;                                           \
                qn_row_scalar.float_error_##tag(x, y, n, &limits, &a);                                                 \
                row->float_error_##tag(x, y, n, &limits, &b);                                                          \
                bool same = memcmp(&a, &b, sizeof a) == 0;                                                             \
                CHECK_SAME(same, "float_error_" #tag);                                                                 \
                free(x), free(y);                                                                                      \
            }

void test_float_error(const char *row_name, const qn_table *row) {
    TEST_FLOAT_ERROR(f32, float)
    TEST_FLOAT_ERROR(f64, double)
}
