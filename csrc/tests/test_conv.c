/* widen_image_rows, dot_rows. */
#include "support.h"

/* Lines and the gaps between them are compared; only the QN_REACH elements after the last line of a plane are free. */
static void test_widen_image_rows(const char *row_name, const qn_table *row) {
    if (!row->widen_image_rows) return;
    for (int n = 1; n < SMALL; n++)
        for (int again = 0; again < 12; again++) {
            qn_wide_rows p = {.is_signed = again & 1, .x_step = random_int(1, 3), .height = random_int(1, 5), .n = n};
            int64_t codes = (n - 1) * p.x_step + 1, bytes;
            p.x_row = codes + random_int(0, 3), p.x_plane = p.height * p.x_row, p.planes = random_int(1, 3);
            p.row = random_int(-3, 6), p.gap = random_int(1, 3), p.lines = random_int(1, 6);
            p.line = n + random_int(0, 3), p.plane = p.lines * p.line + QN_REACH + random_int(0, 3);
            p.zero_point = random_int(-128, 255), bytes = p.planes * p.x_plane - p.x_row + codes;
            p.room = again & 2 ? bytes : 0;
            uint8_t *x = array((size_t)bytes, 1);
            fill_any(x, (size_t)bytes);
            p.x = x;
            size_t size = (size_t)(p.planes * p.plane) * sizeof(int16_t);
            guarded expected = guarded_make(size, 0), result = guarded_make(size, (size_t)(again % 5) * 2);
            p.to = (int16_t *)(void *)expected.data, qn_row_scalar.widen_image_rows(&p);
            p.to = (int16_t *)(void *)result.data, row->widen_image_rows(&p);
            bool same = true;
            for (int64_t m = 0; m < p.planes; m++) {
                size_t at = (size_t)(m * p.plane) * sizeof(int16_t), line = (size_t)(p.lines * p.line);
                same = same && !memcmp(expected.data + at, result.data + at, line * sizeof(int16_t));
            }
            CHECK_SAME(same, "widen_image_rows");
            CHECK_GUARDS(result, "widen_image_rows");
            free(x), free(expected.memory), free(result.memory);
        }
}

/* Random words, ends among them. By step 1 three neighbouring weights make two taps: a b, 0 a and c 0, b c. */
static void test_dot_rows(const char *row_name, const qn_table *row) {
    enum { TAPS = 4, INPUTS = 3, OUTPUTS = 2 };
    if (!row->dot_rows) return;
    for (int n = 1; n < SMALL; n++)
        for (int again = 0; again < 12; again++) {
            static const qn_type types[] = {QN_I32, QN_I8, QN_U8};
            const int64_t gap = again % 4 ? random_int(-(n / 2), 3) : random_int(0, 80),
                          reach = 2 * QN_RESULTS + QN_REACH;
            qn_dot_rows d = {.type = types[again % 3], .step = again & 1 ? 2 : 1, .rows = again % 5 + 1, .n = n};
            d.line = (n + gap) * d.step, d.inputs = random_int(1, INPUTS), d.outputs = random_int(1, OUTPUTS);
            d.x_step = (d.rows + 2) * d.line + n * d.step, d.taps = 2 * random_int(0, TAPS),
            d.y_step = d.rows * n + random_int(0, 2);
            int64_t outputs = d.inputs * d.outputs, elements = d.inputs * d.x_step + reach, tap[2 * TAPS];
            int16_t *x = array((size_t)elements, sizeof *x), w[INPUTS * OUTPUTS * 2 * TAPS * 4] = {0};
            int32_t start[INPUTS * OUTPUTS];
            float scale[INPUTS * OUTPUTS];
            fill_any(x, (size_t)elements * sizeof *x), fill_any(start, sizeof start);
            x[0] = x[1] = INT16_MIN;
            for (int t = 0; t < d.taps; t += 2)
                tap[t] = random_int(0, (int32_t)d.line), tap[t + 1] = tap[t] + (d.step == 1 ? 2 : random_int(0, 9));
            for (int m = 0; m < outputs; m++) {
                scale[m] = (float)random_unit() * (m ? 1e-6f : 1e6f);
                for (int64_t t = 0; t < d.taps; t += 2) {
                    int16_t *to = w + (m * d.taps + t) * 4, run[3];
                    fill_any(run, sizeof run);
                    if (!t) run[0] = run[1] = INT16_MIN;
                    memcpy(to, run, 4), memcpy(to + 6, run + 1, 4), to[3] = run[0], to[4] = run[2];
                }
            }
            d.x = x, d.w = w, d.tap = tap, d.start = again % 2 ? start : NULL, d.scale = scale;
            d.zero_point = random_int(-128, 255), d.qmin = d.type == QN_I8 ? -128 : again % 4, d.qmax = again + 100;
            size_t size = d.type == QN_I32 ? sizeof(int32_t) : 1;
            size_t bytes = (size_t)((outputs - 1) * d.y_step + d.rows * n) * size;
            guarded expected = guarded_make(bytes, 0), result = guarded_make(bytes, (size_t)(again % 5) * 4);
            guarded flat = guarded_make((size_t)((d.rows - 1) * d.line / d.step + n + QN_RESULTS) * size, 0);
            memset(expected.data, 0, bytes), memset(result.data, 0, bytes), d.flat = flat.data;
            d.y = expected.data, qn_row_scalar.dot_rows(&d);
            d.y = result.data, row->dot_rows(&d);
            CHECK_SAME(!memcmp(expected.data, result.data, bytes), "dot_rows");
            CHECK_GUARDS(result, "dot_rows");
            check(guarded_whole(&flat), row_name, "dot_rows", "wrote outside its scratch", n, NULL);
            free(x), free(expected.memory), free(result.memory), free(flat.memory);
        }
}

void test_conv(const char *row_name, const qn_table *row) {
    test_widen_image_rows(row_name, row);
    test_dot_rows(row_name, row);
}
