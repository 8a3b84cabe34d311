/* hadamard_f32. */
#include "support.h"

void test_hadamard(const char *row_name, const qn_table *row) {
    const int64_t orders[] = {1, 12, 20};
    for (int order = 0; row->hadamard_f32 && order < 3; order++)
        for (int k = 0; k <= 9; k++)
            for (int again = 0; again < 4; again++) {
                qn_hadamard h = {.order = orders[order], .inverse = again % 2};
                h.block = h.order << k, h.size = h.block * (again < 2 ? 1 : 3);
                int64_t n = h.size;
                size_t bytes = (size_t)n * sizeof(float);
                float *x = array((size_t)n, sizeof *x), *y = array((size_t)n, sizeof *y);
                float *factors = array((size_t)n, sizeof *factors);
                guarded g = guarded_make(bytes, (size_t)again * sizeof(float));
                for (int64_t i = 0; i < n; i++) {
                    x[i] = (float)(random_unit() - 0.5) * (random_bits() % 8 ? 1 : 0x1p-130f);
                    factors[i] = random_bits() % 2 ? 0.3f : -0.3f;
                }
                h.factors = factors;
                qn_row_scalar.hadamard_f32(x, y, &h);
                row->hadamard_f32(x, (float *)g.data, &h);
                bool same = memcmp(y, g.data, bytes) == 0;
                CHECK_SAME(same, "hadamard_f32");
                memcpy(g.data, x, bytes);
                row->hadamard_f32((float *)g.data, (float *)g.data, &h);
                same = memcmp(y, g.data, bytes) == 0;
                CHECK_SAME(same, "hadamard_f32 in place");
                CHECK_GUARDS(g, "hadamard_f32");
                free(x), free(y), free(factors), free(g.memory);
            }
}
