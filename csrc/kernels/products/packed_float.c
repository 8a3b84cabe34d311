#include "packed_float.h"

#include <math.h>
#include <string.h>

#include "allocate.h"
#include "dispatch.h"
#include "source.h"
#include "threads.h"

enum {
    ROWS = 128,           /* rows of x at a time: their part of y stays in the L1 cache */
    DEPTH = 256,          /* k at a time: this part of the panels, as float32, stays in the L2 cache */
    SIDE = 2,             /* panels side by side */
    ROW_SIDE = QN_PANELS, /* the same with one row */
    PRODUCTS_A_BYTE = 2,  /* multiplications in the time that a byte of memory traffic takes */
};

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t panels(const qn_float_weight *w) { return ceil_div(w->n, QN_PANEL); }
static int64_t scale_size(const qn_float_weight *w) { return w->scale == QN_F32 ? 4 : 1; }
static int64_t units_before(const qn_float_weight *w, int64_t group) { return group * ceil_div(w->group, QN_UNIT); }

static int code_bits(qn_type element) {
    switch (element) {
    case QN_U8: return 8;
    case QN_U4: return 4;
#define BITS(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                                 \
    case QN_##NAME: return (bits) == 8 && (kind) != QN_SCALE ? 1 + (exponent) + (mantissa) : 0;
        QN_NARROW_FLOATS(BITS, _)
#undef BITS
    default: return 0;
    }
}

/* Levels from the table of one column to that of the next. */
static int64_t table_step(const qn_float_weight *w) { return w->bits == 4 ? QN_PANEL : w->levels; }

/* Of a panel. */
static int64_t table_bytes(const qn_float_weight *w) {
    return (int64_t)sizeof(float) * (w->shared ? most(w->levels, QN_PANEL) : table_step(w) * QN_PANEL) *
           (w->levels > 0);
}

bool qn_float_weight_layout(qn_float_weight *w) {
    int64_t units, scales;
    w->bits = code_bits(w->element);
    const bool tables = w->element == QN_U8 || w->element == QN_U4;
    if (tables ? w->levels < 1 || w->levels > 1 << w->bits || w->scale != QN_F32 : w->levels) return false;
    bool known = w->scale == QN_F32 || w->scale == QN_E8M0FNU || w->scale == QN_E4M3FN;
    if (!w->bits || !known || w->k < 0 || w->n < 0 || w->group < 1 || w->k > INT64_MAX / 4 || w->n > INT64_MAX / 4 ||
        w->group > INT64_MAX / 4)
        return false;
    w->groups = ceil_div(w->k, w->group);
    const int64_t last = w->k - most(w->groups - 1, 0) * w->group;
    if (__builtin_mul_overflow(most(w->groups - 1, 0), ceil_div(w->group, QN_UNIT), &units) ||
        __builtin_add_overflow(units, ceil_div(last, QN_UNIT), &units) ||
        __builtin_mul_overflow(units, QN_UNIT * 2 * w->bits, &w->codes) ||
        __builtin_mul_overflow(w->groups, QN_PANEL * scale_size(w), &scales) ||
        __builtin_add_overflow(w->codes, scales, &w->tables) ||
        __builtin_add_overflow(w->tables, table_bytes(w) + 63, &w->width))
        return false;
    w->width = w->width / 64 * 64;
    int64_t bytes;
    return !__builtin_mul_overflow(w->width, panels(w), &bytes) && !__builtin_add_overflow(bytes, w->n, &bytes);
}

int64_t qn_float_weight_bytes(const qn_float_weight *w) { return panels(w) * w->width + w->n; }

/* ---- packing ---- */

/* Of 6 and 4 bits: word and shift of code i of a unit, as packed_float.h describes them; of 6 bits, of codes 0 to 5. */
static int word_of(int bits, int i) { return i / (16 / bits); }
static int shift_of(int bits, int i) { return 16 - bits - i % (16 / bits) * bits; }

/* Writes the 8 codes of one column of a unit. */
static void join_codes(const qn_float_weight *w, const uint8_t code[QN_UNIT], uint8_t *unit, int64_t column) {
    const int bits = w->bits;
    if (bits == 4 && w->levels) {
        for (int i = 0; i < 4; i++) unit[4 * column + i] = (uint8_t)(code[2 * i] | code[2 * i + 1] << 4);
        return;
    }
    if (bits == 8) {
        for (int i = 0; i < 2; i++) memcpy(unit + i * QN_QUARTET + 4 * column, code + 4 * i, 4);
        return;
    }
    uint16_t word[3] = {0};
    const int whole = bits == 6 ? 6 : QN_UNIT;
    for (int i = 0; i < whole; i++)
        word[word_of(bits, i)] = (uint16_t)(word[word_of(bits, i)] | code[i] << shift_of(bits, i));
    if (bits == 6) {
        word[0] = (uint16_t)(word[0] | code[6] >> 2);
        word[1] = (uint16_t)(word[1] | (code[6] & 3) << 2 | code[7] >> 4);
        word[2] = (uint16_t)(word[2] | (code[7] & 15));
    }
    for (int r = 0; r < bits / 2; r++) memcpy(unit + r * 2 * QN_PANEL + 2 * column, &word[r], 2);
}

static void split_codes(const qn_float_weight *w, const uint8_t *unit, int64_t column, uint8_t code[QN_UNIT]) {
    const int bits = w->bits;
    if (bits == 4 && w->levels) {
        for (int i = 0; i < QN_UNIT; i++) code[i] = unit[4 * column + i / 2] >> i % 2 * 4 & 15;
        return;
    }
    if (bits == 8) {
        for (int i = 0; i < 2; i++) memcpy(code + 4 * i, unit + i * QN_QUARTET + 4 * column, 4);
        return;
    }
    uint16_t word[3];
    for (int r = 0; r < bits / 2; r++) memcpy(&word[r], unit + r * 2 * QN_PANEL + 2 * column, 2);
    const int whole = bits == 6 ? 6 : QN_UNIT, mask = (1 << bits) - 1;
    for (int i = 0; i < whole; i++) code[i] = (uint8_t)(word[word_of(bits, i)] >> shift_of(bits, i) & mask);
    if (bits == 6) {
        code[6] = (uint8_t)((word[0] & 15) << 2 | (word[1] >> 2 & 3));
        code[7] = (uint8_t)((word[1] & 3) << 4 | (word[2] & 15));
    }
}

/* Sets nan[code] for the codes of a type of 8 bits or fewer. */
static void find_nans(qn_type type, bool nan[256]) {
    uint8_t codes[256];
    float numbers[256];
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    qn_widen(type, codes, numbers, 256, &qn_plain_cast);
    for (int i = 0; i < 256; i++) nan[i] = numbers[i] != numbers[i];
}

typedef struct {
    const qn_float_weight *w;
    const uint8_t *codes;
    const char *scales;
    const float *levels;
    uint8_t *packed;
    bool nan_code[256], nan_scale[256];
} packing;

static void pack_group(const packing *c, int64_t panel, int64_t g, uint8_t *nan) {
    const qn_float_weight *w = c->w;
    const int mask = (1 << w->bits) - 1;
    const int64_t column = panel * QN_PANEL, columns = least(w->n - column, QN_PANEL), size = scale_size(w);
    const int64_t first = g * w->group, depth = least(w->k - first, w->group);
    uint8_t *to = c->packed + panel * w->width + units_before(w, g) * QN_UNIT * 2 * w->bits;
    for (int64_t k = 0; k < depth; k += QN_UNIT, to += QN_UNIT * 2 * w->bits)
        for (int64_t j = 0; j < QN_PANEL; j++) {
            uint8_t code[QN_UNIT] = {0};
            for (int64_t i = 0; i < QN_UNIT && k + i < depth && j < columns; i++) {
                code[i] = (uint8_t)(c->codes[(first + k + i) * w->n + column + j] & mask);
                nan[j] |= c->nan_code[code[i]];
            }
            join_codes(w, code, to, j);
        }
    const char *scales = c->scales + (g * w->n + column) * size;
    memcpy(c->packed + panel * w->width + w->codes + g * QN_PANEL * size, scales, (size_t)(columns * size));
    if (size == 1)
        for (int64_t j = 0; j < columns; j++) nan[j] |= c->nan_scale[(uint8_t)scales[j]];
}

static void pack_panels(void *context, int64_t begin, int64_t end) {
    const packing *c = context;
    const qn_float_weight *w = c->w;
    for (int64_t panel = begin; panel < end; panel++) {
        uint8_t nan[QN_PANEL] = {0}, *from = c->packed + panel * w->width;
        memset(from + w->codes, 0, (size_t)(w->width - w->codes));
        for (int64_t g = 0; g < w->groups; g++) pack_group(c, panel, g, nan);
        const int64_t first = w->shared ? 0 : panel * QN_PANEL, tables = w->shared ? 1 : least(w->n - first, QN_PANEL);
        for (int64_t i = 0; w->levels && i < tables; i++)
            memcpy(from + w->tables + i * table_step(w) * (int64_t)sizeof(float), c->levels + (first + i) * w->levels,
                   (size_t)w->levels * sizeof *c->levels);
        memcpy(c->packed + panels(w) * w->width + panel * QN_PANEL, nan,
               (size_t)least(w->n - panel * QN_PANEL, QN_PANEL));
    }
}

void qn_float_weight_pack(const qn_float_weight *w, const uint8_t *codes, const void *scales, const float *levels,
                          uint8_t *packed) {
    packing c = {.w = w, .codes = codes, .scales = scales, .levels = levels, .packed = packed};
    if (!w->levels) find_nans(w->element, c.nan_code);
    if (w->scale != QN_F32) find_nans(w->scale, c.nan_scale);
    qn_parallel_for(panels(w), 1, w->k * w->n, pack_panels, &c);
}

typedef struct {
    const qn_float_weight *w;
    const uint8_t *packed;
    uint8_t *codes;
} unpacking;

static void unpack_panels(void *context, int64_t begin, int64_t end) {
    const unpacking *u = context;
    const qn_float_weight *w = u->w;
    for (int64_t panel = begin; panel < end; panel++)
        for (int64_t k = 0; k < w->k; k += least(QN_UNIT, w->group - k % w->group)) {
            const int64_t g = k / w->group, count = least(least(QN_UNIT, w->group - k % w->group), w->k - k);
            const uint8_t *from =
                u->packed + panel * w->width + (units_before(w, g) + k % w->group / QN_UNIT) * QN_UNIT * 2 * w->bits;
            for (int64_t j = 0; j < QN_PANEL && panel * QN_PANEL + j < w->n; j++) {
                uint8_t code[QN_UNIT];
                split_codes(w, from, j, code);
                for (int64_t i = 0; i < count; i++) u->codes[(k + i) * w->n + panel * QN_PANEL + j] = code[i];
            }
        }
}

void qn_float_weight_codes(const qn_float_weight *w, const uint8_t *packed, uint8_t *codes) {
    unpacking u = {w, packed, codes};
    qn_parallel_for(panels(w), 1, w->k * w->n, unpack_panels, &u);
}

void qn_float_weight_scales(const qn_float_weight *w, const uint8_t *packed, void *scales) {
    const int64_t size = scale_size(w);
    for (int64_t panel = 0; panel < panels(w); panel++)
        for (int64_t g = 0; g < w->groups; g++) {
            const int64_t column = panel * QN_PANEL;
            memcpy((char *)scales + (g * w->n + column) * size,
                   packed + panel * w->width + w->codes + g * QN_PANEL * size,
                   (size_t)(least(w->n - column, QN_PANEL) * size));
        }
}

/* ---- the product ---- */

typedef struct {
    const qn_table *kernels; /* the layout of x belongs to one ISA row */
    const qn_float_weight *w;
    const uint8_t *packed;
    const qn_float_product *p;
    int64_t row, rows; /* of this pass */
    float *x;          /* an output of float_rows */
} product_pass;

/* Every NaN gets the same bits: which operand's a multiplication returns depends on the ISA. */
static void put(const product_pass *c, int64_t panel, int64_t count, const float *y, int64_t y_step) {
    const qn_float_product *p = c->p;
    const int64_t n = c->w->n, j = panel * QN_PANEL, columns = least(n - j, count * QN_PANEL);
    const uint8_t *nan = c->packed + panels(c->w) * c->w->width + j;
    for (int64_t r = 0; r < c->rows; r++, y += y_step) {
        float *to = p->y + (c->row + r) * n + j;
        for (int64_t i = 0; i < columns; i++) {
            float v = p->bias ? y[i] + p->bias[j + i] : y[i];
            v = v < p->lowest ? p->lowest : v;
            v = v > p->highest ? p->highest : v;
            to[i] = v != v || nan[i] ? NAN : v;
        }
    }
}

static void multiply_row(void *context, int64_t begin, int64_t end) {
    const product_pass *c = context;
    float y[ROW_SIDE * QN_PANEL];
    uint64_t modes = qn_fp_begin();
    for (int64_t panel = begin; panel < end; panel += ROW_SIDE) {
        const int64_t count = least(end - panel, ROW_SIDE);
        c->kernels->multiply_float_row(c->w, c->packed + panel * c->w->width, count, c->p->x + c->row * c->w->k, y);
        put(c, panel, count, y, 0);
    }
    qn_fp_end(modes);
}

/* The end of a part of k that starts at `k`: float_panel starts at whole units of a group. */
static int64_t end_of_part(const qn_float_weight *w, int64_t k) {
    const int64_t end = k + DEPTH;
    return end < w->k ? end - end % w->group % QN_UNIT : w->k;
}

static void multiply_rows(void *context, int64_t begin, int64_t end) {
    const product_pass *c = context;
    const qn_float_weight *w = c->w;
    _Alignas(64) float y[ROWS * SIDE * QN_PANEL], part[SIDE * DEPTH * QN_PANEL];
    qn_float_tile t = {.x = c->x, .k = w->k, .rows = c->rows, .w = part, .w_step = DEPTH * QN_PANEL, .y = y};
    t.y_step = SIDE * QN_PANEL;
    uint64_t modes = qn_fp_begin();
    for (int64_t panel = begin; panel < end; panel += SIDE) {
        t.panels = least(end - panel, SIDE);
        memset(y, 0, (size_t)(c->rows * t.y_step) * sizeof *y);
        for (int64_t last; t.first < w->k; t.first = last) {
            last = end_of_part(w, t.first), t.depth = last - t.first;
            for (int64_t i = 0; i < t.panels; i++)
                c->kernels->float_panel(w, c->packed + (panel + i) * w->width, t.first, t.depth, part + i * t.w_step);
            c->kernels->multiply_floats(&t);
        }
        t.first = 0;
        put(c, panel, t.panels, y, t.y_step);
    }
    qn_fp_end(modes);
}

static void pack_rows(void *context, int64_t begin, int64_t end) {
    const product_pass *c = context;
    c->kernels->float_rows(c->p->x + c->row * c->w->k, c->w->k, begin, end, c->rows, c->x);
}

int64_t qn_matmul_float_scratch(const qn_float_weight *w, int64_t m) {
    int64_t bytes;
    return __builtin_mul_overflow(least(m, ROWS) * (int64_t)sizeof(float), w->k, &bytes) ? -1 : bytes;
}

void qn_matmul_float(const qn_float_weight *w, const uint8_t *packed, const qn_float_product *p, void *scratch) {
    product_pass c = {.kernels = qn_kernels(), .w = w, .packed = packed, .p = p, .x = scratch};
    for (c.row = 0; c.row < p->m; c.row += ROWS) {
        c.rows = least(p->m - c.row, ROWS);
        const int64_t products = c.rows * w->k * w->n / PRODUCTS_A_BYTE, bytes = qn_float_weight_bytes(w);
        if (c.rows == 1 && w->plain) {
            qn_parallel_for(panels(w), ROW_SIDE, most(products, bytes), multiply_row, &c);
            continue;
        }
        qn_parallel_for(w->k, DEPTH, c.rows * w->k * (int64_t)sizeof(float), pack_rows, &c);
        qn_parallel_for(panels(w), SIDE, most(products, bytes), multiply_rows, &c);
    }
}
