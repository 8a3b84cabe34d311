/* float_panel, float_rows, multiply_floats and multiply_float_row. */
#include "support.h"

/* A panel of finite codes and scales; the layout of packed_float.h. */
static qn_float_weight random_weight(qn_type element, int bits, qn_type scale, int64_t k, int64_t group) {
    qn_float_weight w = {.k = k, .n = 16, .group = group, .groups = (k + group - 1) / group, .element = element};
    const int64_t last = k - (w.groups - 1) * group, size = scale == QN_F32 ? 4 : 1;
    const int64_t units = (w.groups - 1) * ((group + 7) / 8) + (last + 7) / 8;
    w.bits = bits, w.scale = scale, w.tensor_scale = 0.37f, w.plain = true;
    w.codes = units * 16 * bits, w.width = (w.codes + w.groups * 16 * size + 63) / 64 * 64;
    return w;
}

static void fill_panels(const qn_float_weight *w, int64_t panels, uint8_t *p) {
    fill_any(p, (size_t)(panels * w->width));
    if (w->bits == 8) /* neither NaN nor infinity in any format: clears an exponent bit */
        for (int64_t i = 0; i < panels * w->width; i++) p[i] &= 0xBF;
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t i = 0; i < w->groups * 16; i++) {
            uint8_t *to = p + panel * w->width + w->codes + i * (w->scale == QN_F32 ? 4 : 1);
            float scale = random_scale(true);
            if (scale > 64) scale = 1 / scale;
            if (w->scale == QN_F32) memcpy(to, &scale, 4);
            else *to = (uint8_t)(w->scale == QN_E8M0FNU ? random_int(100, 130) : *to & 0xF7);
        }
}

/* A panel of codes with tables. */
static qn_float_weight random_tables(int bits, bool shared, int32_t levels, int64_t k, int64_t group) {
    qn_float_weight w = random_weight(bits == 8 ? QN_U8 : QN_U4, bits, QN_F32, k, group);
    const int64_t each = bits == 4 ? 16 : levels;
    w.levels = levels, w.shared = shared, w.tables = w.codes + w.groups * 64;
    w.width = (w.tables + 4 * (shared ? (levels < 16 ? 16 : levels) : 16 * each) + 63) / 64 * 64;
    return w;
}

static void fill_tables(const qn_float_weight *w, int64_t panels, uint8_t *p) {
    for (int64_t panel = 0; panel < panels; panel++, p += w->width) {
        for (int64_t i = 0; i < w->codes; i++) {
            int low = random_int(0, w->levels - 1), high = random_int(0, w->levels - 1);
            p[i] = (uint8_t)(w->bits == 8 ? low : low | high << 4);
        }
        for (int64_t i = 0; i < (w->width - w->tables) / 4; i++) {
            float level = (float)random_int(-1000, 1000) / 256;
            memcpy(p + w->tables + 4 * i, &level, 4);
        }
        if (w->shared && panel) memcpy(p + w->tables, p - w->width + w->tables, (size_t)(w->width - w->tables));
    }
}

/* The greatest k of at most `k` at which a unit of 8 codes begins. */
static int64_t unit_before(int64_t k, int64_t group) { return k - k % group % 8; }

static void test_weight(const char *row_name, const qn_table *row, const qn_float_weight *w, int64_t rows) {
    enum { PANELS = 5 };
    const int64_t k = w->k, room = k * 16;
    uint8_t *p = array((size_t)(PANELS * w->width), 1);
    float *x = array((size_t)(rows * k), sizeof *x), *left = array((size_t)(rows * k), sizeof *left);
    float *mine = array((size_t)(rows * k), sizeof *mine), *numbers = array((size_t)(PANELS * room), sizeof *numbers);
    fill_panels(w, PANELS, p);
    if (w->levels) fill_tables(w, PANELS, p);
    for (int64_t i = 0; i < rows * k; i++) x[i] = (float)random_int(-4000, 4000) / 64;
    const int64_t n = k;
    guarded panel = guarded_make((size_t)room * sizeof(float), 4);
    for (int64_t i = 0; i < PANELS; i++) {
        qn_row_scalar.float_panel(w, p + i * w->width, 0, k, numbers + i * room);
        int64_t first = unit_before(k / 2, w->group);
        row->float_panel(w, p + i * w->width, 0, first, (float *)panel.data); /* in two calls */
        row->float_panel(w, p + i * w->width, first, k - first, (float *)panel.data + first * 16);
        CHECK_SAME(!memcmp(panel.data, numbers + i * room, (size_t)room * sizeof(float)), "float_panel");
        CHECK_GUARDS(panel, "float_panel");
    }
    guarded expected = guarded_make((size_t)(rows * PANELS * 16) * sizeof(float), 0);
    guarded result = guarded_make(expected.bytes, (size_t)(rows % 5) * 4);
    memset(expected.data, 0, expected.bytes), memset(result.data, 0, result.bytes);
    qn_row_scalar.float_rows(x, k, 0, k, rows, left);
    row->float_rows(x, k, 0, k / 2, rows, mine), row->float_rows(x, k, k / 2, k, rows, mine);
    qn_float_tile t = {left, k, 0, k, rows, numbers, room, PANELS, (float *)expected.data, PANELS * 16};
    qn_row_scalar.multiply_floats(&t);
    t.x = mine, t.y = (float *)result.data, t.depth = k / 3;
    row->multiply_floats(&t);
    t.first = t.depth, t.depth = k - t.first;
    for (int64_t i = 0; i < PANELS; i++) /* numbers of the second part begin further on */
        memmove(numbers + i * room, numbers + i * room + t.first * 16, (size_t)(t.depth * 16) * sizeof(float));
    row->multiply_floats(&t);
    CHECK_SAME(!memcmp(expected.data, result.data, expected.bytes), "multiply_floats");
    CHECK_GUARDS(result, "multiply_floats");
    if (rows == 1) {
        for (int64_t panels = 0; panels <= PANELS; panels++) {
            memset(result.data, 0, result.bytes);
            row->multiply_float_row(w, p, panels, x, (float *)result.data);
            CHECK_SAME(!memcmp(expected.data, result.data, (size_t)panels * 64), "multiply_float_row");
            CHECK_GUARDS(result, "multiply_float_row");
        }
    }
    free(p), free(x), free(left), free(mine), free(numbers);
    free(panel.memory), free(expected.memory), free(result.memory);
}

void test_packed_float(const char *row_name, const qn_table *row) {
    static const struct {
        qn_type element;
        int bits;
    } elements[] = {{QN_E4M3FN, 8}, {QN_E5M2, 8},   {QN_E4M3FNUZ, 8}, {QN_E5M2FNUZ, 8},
                    {QN_E2M3FN, 6}, {QN_E3M2FN, 6}, {QN_E2M1FN, 4}};
    static const qn_type scales[] = {QN_F32, QN_E8M0FNU, QN_E4M3FN};
    static const int64_t groups[] = {1, 5, 8, 16, 32, 1000};
    if (!row->float_panel || !row->float_rows || !row->multiply_floats || !row->multiply_float_row) return;
    for (size_t e = 0; e < sizeof elements / sizeof *elements; e++)
        for (int64_t rows = 1; rows < 28; rows++) {
            const int64_t k = random_int(1, 100);
            const qn_float_weight w = random_weight(elements[e].element, elements[e].bits, scales[random_int(0, 2)], k,
                                                    groups[random_int(0, 5)]);
            test_weight(row_name, row, &w, rows);
            test_weight(row_name, row, &w, 1);
        }
    for (int64_t rows = 1; rows < 28; rows++)
        for (int kind = 0; kind < 4; kind++) {
            const int bits = kind / 2 ? 8 : 4;
            const qn_float_weight w =
                random_tables(bits, kind % 2, random_int(1, 1 << bits), random_int(1, 100), groups[random_int(0, 5)]);
            test_weight(row_name, row, &w, rows);
            test_weight(row_name, row, &w, 1);
        }
}
