/* grouped_panels. */
#include "support.h"

/* Any bytes are codes; the codes of the first record and row are all extreme, so that int16 sums come nearest to
 * overflow. */
void test_packed_groups(const char *row_name, const qn_table *row) {
    enum { GROUPS = 3 };
    static const int64_t depths[] = {16, 32, 64, 128};
    if (!row->grouped_panels) return;
    for (int variant = 0; variant < 96; variant++)
        for (int64_t rows = 0; rows < 20; rows++) {
            qn_grouped w = {.group = depths[variant % 4], .groups = GROUPS, .half = variant & 4, .zeros = variant & 8};
            w.bits = variant / 32 == 0 ? 8 : variant / 32 == 1 ? 4 : 2;
            const int64_t code_bytes = w.group * 2 * w.bits;
            w.record = code_bytes + (w.half ? 32 : 64) + (w.zeros ? 16 : 0);
            const int64_t panels = random_int(1, 6), stride = GROUPS * w.group, width = GROUPS * w.record;
            size_t bytes = (size_t)(panels * rows) * 16 * sizeof(float), params = (size_t)(rows * GROUPS);
            uint8_t *panel = array((size_t)(panels * width), 1), *codes = array((size_t)(rows * stride), 1);
            float *scales = array(params, sizeof *scales);
            int32_t *sums = array(params, sizeof *sums), *zeros = array(params, sizeof *zeros);
            fill_any(panel, (size_t)(panels * width)), fill_any(codes, (size_t)(rows * stride));
            memset(panel, 0xFF, (size_t)code_bytes);
            if (rows) memset(codes, 0x80, (size_t)stride);
            for (int64_t g = 0; g < panels * GROUPS; g++) {
                uint8_t *to = panel + g * w.record + code_bytes;
                for (int c = 0; c < 16; c++) {
                    float scale = random_scale(true);
                    uint16_t half = (uint16_t)random_int(0x400, 0x7BFF); /* positive and normal */
                    if (w.half) memcpy(to + 2 * c, &half, 2);
                    else memcpy(to + 4 * c, &scale, 4);
                    if (w.zeros) to[(w.half ? 32 : 64) + c] &= (uint8_t)((1 << w.bits) - 1);
                }
            }
            /* One zero point and scale for a row, or one for each of its groups. */
            const int64_t step = rows % 2;
            for (int64_t i = 0; i < rows * GROUPS; i++)
                scales[i] = random_scale(true), zeros[i] = i ? random_int(-127, 128) : -127;
            qn_grouped_rows x = {
                (int8_t *)codes, scales, variant & 16 ? zeros : NULL, sums, rows, stride, GROUPS, 1, step};
            if (step) x.scale_row = GROUPS;
            for (int64_t i = 0; i < rows * GROUPS; i++) {
                int32_t minus_zero = x.minus_zeros ? zeros[i / GROUPS * x.scale_row + i % GROUPS * step] : 0;
                sums[i] = -(int32_t)w.group * minus_zero;
                for (int64_t k = 0; k < w.group; k++) sums[i] -= (int8_t)codes[i * w.group + k];
            }
            guarded expected = guarded_make(bytes, 0), result = guarded_make(bytes, (size_t)(rows % 5) * 4);
            memset(expected.data, 0, bytes), memset(result.data, 0, bytes);
            qn_row_scalar.grouped_panels(&w, panel, panels, &x, 0, GROUPS, (float *)expected.data);
            row->grouped_panels(&w, panel, panels, &x, 0, 2, (float *)result.data); /* in two calls */
            row->grouped_panels(&w, panel, panels, &x, 2, GROUPS, (float *)result.data);
            bool same = !memcmp(expected.data, result.data, bytes);
            check(same, row_name, "grouped_panels", "differs from the scalar row", rows, NULL);
            check(guarded_whole(&result), row_name, "grouped_panels", "wrote outside its output", rows, NULL);
            free(panel), free(codes), free(scales), free(sums), free(zeros), free(expected.memory), free(result.memory);
        }
}
