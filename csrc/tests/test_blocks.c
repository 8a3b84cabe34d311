/* block_max_f32. */
#include "support.h"

void test_blocks(const char *row_name, const qn_table *row) {
    for (int size = 0; row->block_max_f32 && size < SIZES; size++)
        for (int again = 0; again < 8; again++) {
            int64_t n = size_at(size), block = (int64_t[]){1, 2, 7, 16, 32, 33, 64, 5000}[again];
            int64_t blocks = (n + block - 1) / block;
            float *x = array((size_t)n, sizeof *x), *most = array((size_t)blocks, sizeof *most);
            guarded g = guarded_make((size_t)blocks * sizeof *most, (size_t)again * sizeof(float));
            fill_float(x, n, NULL, NULL);
            qn_row_scalar.block_max_f32(x, most, n, block);
            row->block_max_f32(x, (float *)g.data, n, block);
            bool same = memcmp(most, g.data, (size_t)blocks * sizeof *most) == 0;
            CHECK_SAME(same, "block_max_f32");
            CHECK_GUARDS(g, "block_max_f32");
            free(x), free(most), free(g.memory);
        }
}
