/* Products by quads: left_quads, left_turned, right_quads, multiply_quads, add_excess. */
#include "support.h"

static void *line(size_t bytes) { /* 64-byte aligned, whole lines */
    void *p = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!p) abort();
    return p;
}
static void fill_line(void *to, size_t bytes, int32_t lo, int32_t hi) {
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)to)[i] = (uint8_t)random_int(lo, hi);
}

/* Codes of magnitude 60 at most: then no pair and no quad leaves int16. */
static void test_quads_of(const char *row_name, const qn_table *row, int64_t rows, int64_t quartets, uint8_t center) {
    const qn_table *scalar = &qn_row_scalar;
    const int64_t slivers = (rows + 3) / 4 * 4, bands = (rows + QN_BAND - 1) / QN_BAND, step = bands * QN_BAND;
    const int64_t k = quartets * 4 - random_int(0, 7);
    const size_t left = (size_t)(step * quartets * 4), right = (size_t)(quartets / 2 * QN_QUADS);
    const bool is_signed = random_int(0, 1);
    const int32_t least = is_signed ? -(int32_t)center : 0, zero = random_int(-128, 255);
    uint8_t *a = array((size_t)(rows * k), 1), *packed[2], *turned[2], *quads[2], *panel = line((size_t)quartets * 64);
    int32_t *ends[2], *more = line((size_t)step * 64), *c[2], start[QN_PANEL];
    guarded g = guarded_make((size_t)(rows * QN_PANEL) * 4, 0);
    fill_line(a, (size_t)(rows * k), least, least + 2 * center - 1);
    fill_line(panel, (size_t)quartets * 64, center - 60, center + 60);
    for (int i = 0; i < QN_PANEL; i++) start[i] = random_int(-1000, 1000);
    c[0] = array((size_t)(rows * QN_PANEL), 4), c[1] = (int32_t *)(void *)g.data;
    for (int64_t i = 0; i < rows * QN_PANEL; i++) c[0][i] = c[1][i] = random_int(INT32_MIN, INT32_MAX);
    for (int64_t i = 0; i < step * QN_PANEL; i++) more[i] = random_int(-32640, 32640);
    for (int n = 0; n < 2; n++) {
        const qn_table *from = n ? row : scalar;
        packed[n] = line(left), turned[n] = line(left), quads[n] = line(right), ends[n] = array((size_t)slivers, 8);
        memset(packed[n], 0, left);
        qn_left l = {.a = a, .stride = k, .is_signed = is_signed, .zero = &zero, .center = center, .rows = rows};
        l.k = k, l.quartets = quartets, l.packed = packed[n], l.start = ends[n], l.sum = ends[n] + slivers;
        from->left_quads(&l);
        from->left_turned(packed[0], quartets, rows, turned[n], step);
        from->right_quads(panel, quartets, center, center, quads[n]);
        qn_tile t = {.left = packed[0], .right = quads[0], .quartets = quartets, .rows = rows, .panels = 1, .c = c[n]};
        t.c_step = QN_PANEL, t.row_start = ends[0], t.column_start = start;
        t.more = quartets % 4 ? more : NULL, t.add = rows % 2;
        from->multiply_quads(&t);
    }
    check(!memcmp(packed[0], packed[1], left), row_name, "left_quads", "packs other bytes", rows, NULL);
    check(!memcmp(ends[0], ends[1], (size_t)slivers * 8), row_name, "left_quads", "has other sums", rows, NULL);
    check(!memcmp(turned[0], turned[1], left), row_name, "left_turned", "differs from the scalar row", rows, NULL);
    check(!memcmp(quads[0], quads[1], right), row_name, "right_quads", "differs from the scalar row", quartets, NULL);
    bool same = !memcmp(c[0], c[1], (size_t)(rows * QN_PANEL) * 4);
    check(same && guarded_whole(&g), row_name, "multiply_quads", "differs from the scalar row", rows, NULL);
    if (bands <= 3) {
        qn_excess_pair excess[QN_PANEL * 4];
        qn_excess_pass pass = {.first = 0};
        for (int j = 0, n = 0; j < QN_PANEL; j++) {
            pass.column[j] = (uint8_t)((j * 5 + rows) % QN_PANEL), pass.count[j] = (uint8_t)random_int(0, 4);
            for (int i = 0; i < pass.count[j]; i++, n++)
                for (int h = 0; h < 2; h++) {
                    excess[n].k[h] = (uint16_t)random_int(0, (int32_t)quartets * 4 - 1);
                    excess[n].excess[h] = (int8_t)random_int(-31, 31); /* 8 x 31 < 255 */
                    if (i == 3 || (i == 0 && pass.count[j] == 1)) excess[n].excess[h] = (int8_t)(h ? 0 : -6);
                    pass.sum[j] = (int16_t)(pass.sum[j] + excess[n].excess[h]);
                }
        }
        int32_t *sums[2] = {line((size_t)step * 64), line((size_t)step * 64)};
        for (int n = 0; n < 2; n++) {
            memcpy(sums[n], more, (size_t)step * 64);
            qn_excess_tile x = {.turned = turned[0], .step = step, .bands = (int)bands, .center = center};
            x.add = rows % 2, x.pass = &pass, x.pairs = excess, x.sums = sums[n];
            (n ? row : scalar)->add_excess(&x);
        }
        same = !memcmp(sums[0], sums[1], (size_t)step * 64);
        check(same, row_name, "add_excess", "differs from the scalar row", rows, NULL);
        free(sums[0]), free(sums[1]);
    }
    for (int n = 0; n < 2; n++) free(packed[n]), free(turned[n]), free(quads[n]), free(ends[n]);
    free(a), free(panel), free(more), free(c[0]), free(g.memory);
}

void test_excess(const char *row_name, const qn_table *row) {
    if (!row->multiply_quads) return;
    for (int64_t rows = 1; rows < 100; rows++)
        for (int64_t quartets = 2; quartets <= 42; quartets += 8)
            for (uint8_t center = 64; center >= 64 && center <= 128; center += 64)
                test_quads_of(row_name, row, rows, quartets, center);
}
