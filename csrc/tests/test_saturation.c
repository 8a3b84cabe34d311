/* saturate_pairs_u8s8, unsafe_pairs_i8. */
#include "support.h"

/* Full range, and both ends often, because they saturate. */
static void fill_extreme(uint8_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        static const uint8_t ends[] = {0, 255, 127, 128};
        x[i] = random_bits() % 3 ? (uint8_t)random_bits() : ends[random_bits() % 4];
    }
}

void test_saturation(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++)
        for (int64_t k = 0; k < 9; k++) {
            int64_t n = size_at(size), stride = n + random_int(0, 3), total = k ? (k - 1) * stride + n : 0;
            size_t bytes = 3 * (size_t)n * sizeof(int32_t);
            uint8_t *a = array((size_t)k, 1), *b = array((size_t)total, 1);
            fill_extreme(a, k), fill_extreme(b, total);
            guarded expected = guarded_make(bytes, 0), result = guarded_make(bytes, 0);
            memset(expected.data, 1, bytes), memset(result.data, 1, bytes);
            int32_t *e = (int32_t *)expected.data, *g = (int32_t *)result.data;
            if (row->saturate_pairs_u8s8) {
                qn_row_scalar.saturate_pairs_u8s8(a, (int8_t *)b, k, stride, n, e, e + n, e + 2 * n);
                row->saturate_pairs_u8s8(a, (int8_t *)b, k, stride, n, g, g + n, g + 2 * n);
                CHECK_SAME(!memcmp(e, g, bytes), "saturate_pairs_u8s8");
            }
            if (row->unsafe_pairs_i8) {
                qn_row_scalar.unsafe_pairs_i8((int8_t *)b, k, stride, n, e);
                row->unsafe_pairs_i8((int8_t *)b, k, stride, n, g);
                CHECK_SAME(!memcmp(e, g, bytes), "unsafe_pairs_i8");
            }
            CHECK_GUARDS(result, "saturate_pairs_u8s8");
            free(a), free(b), free(expected.memory), free(result.memory);
        }
}
