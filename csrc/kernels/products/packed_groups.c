#include "packed_groups.h"

#include <string.h>

#include "dispatch.h"
#include "threads.h"

enum {
    PANEL = 16,
    ROWS = 128,          /* rows of x at a time: their codes stay in the L2 cache */
    DEPTH_BYTES = 16384, /* of a panel at a time with many rows: they stay in the L1 cache */
    FEW_ROWS = 8,        /* up to so many rows a panel is read once, from one end to the other */
    SIDE = 4,            /* panels side by side with few rows */
    PRODUCTS_A_BYTE = 8, /* multiplications in the time that a byte of memory traffic takes */
};

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t panels(const qn_grouped *w) { return ceil_div(w->n, PANEL); }
static int64_t code_bytes(const qn_grouped *w) { return w->group * w->bits * (PANEL / 8); } /* of a record */

bool qn_grouped_layout(qn_grouped *w) {
    int64_t bytes;
    w->groups = ceil_div(w->k, w->group);
    w->record = code_bytes(w) + PANEL * (w->half ? 2 : 4) + (w->zeros ? PANEL : 0);
    return !__builtin_mul_overflow(w->groups, w->record, &bytes) && !__builtin_mul_overflow(bytes, panels(w), &bytes);
}

int64_t qn_grouped_bytes(const qn_grouped *w) { return panels(w) * w->groups * w->record; }

/* ---- packing ---- */

typedef struct {
    const qn_grouped *w;
    const uint8_t *codes, *zeros;
    const char *scales;
    uint8_t flip;
    uint8_t *packed;
} raw_groups;

/* One group of one panel: `depth` neighbours from k on, `columns` columns from `column` on. */
typedef struct {
    int64_t group, k, depth, column, columns;
} record;

static record record_at(const qn_grouped *w, int64_t number) {
    record r = {.group = number % w->groups, .column = number / w->groups * PANEL};
    r.k = r.group * w->group, r.depth = w->k - r.k < w->group ? w->k - r.k : w->group;
    r.columns = w->n - r.column < PANEL ? w->n - r.column : PANEL;
    return r;
}

/* Byte of column 0 that holds code k of a group, and the place of its bits there; column j is 4 j bytes further. */
static int64_t byte_of(int64_t k, int bits) { return k * bits / 32 * 64 + k % 4; }
static int shift_of(int64_t k, int bits) { return (int)(k / 4 * bits % 8); }

static void pack_panels(void *context, int64_t begin, int64_t end) {
    const raw_groups *c = context;
    const qn_grouped *w = c->w;
    size_t itemsize = w->half ? 2 : 4;
    for (int64_t number = begin * w->groups; number < end * w->groups; number++) {
        const record r = record_at(w, number);
        uint8_t *bytes = c->packed + number * w->record, *scales = bytes + code_bytes(w);
        memset(bytes, 0, (size_t)w->record);
        for (int64_t k = 0; k < r.depth; k++) {
            const uint8_t *codes = c->codes + (r.k + k) * w->n + r.column;
            uint8_t *to = bytes + byte_of(k, w->bits);
            const int shift = shift_of(k, w->bits), mask = (1 << w->bits) - 1;
            for (int64_t j = 0; j < r.columns; j++) to[4 * j] |= (uint8_t)(((codes[j] ^ c->flip) & mask) << shift);
        }
        memcpy(scales, c->scales + (size_t)(r.group * w->n + r.column) * itemsize, (size_t)r.columns * itemsize);
        if (w->zeros) memcpy(scales + PANEL * itemsize, c->zeros + r.group * w->n + r.column, (size_t)r.columns);
    }
}

void qn_grouped_pack(const qn_grouped *w, const uint8_t *codes, bool is_signed, const void *scales,
                     const uint8_t *zeros, uint8_t *packed) {
    raw_groups c = {w, codes, zeros, scales, is_signed ? (uint8_t)qn_middle(w->bits) : 0, packed};
    qn_parallel_for(panels(w), 1, w->k * w->n, pack_panels, &c);
}

typedef struct {
    const qn_grouped *w;
    const uint8_t *packed;
    uint8_t zero; /* the stored code of 0 */
    uint8_t *codes;
} unpacking;

static void unpack_panels(void *context, int64_t begin, int64_t end) {
    const unpacking *u = context;
    const qn_grouped *w = u->w;
    for (int64_t number = begin * w->groups; number < end * w->groups; number++) {
        const record r = record_at(w, number);
        for (int64_t k = 0; k < r.depth; k++) {
            const uint8_t *from = u->packed + number * w->record + byte_of(k, w->bits);
            uint8_t *codes = u->codes + (r.k + k) * w->n + r.column;
            const int shift = shift_of(k, w->bits), mask = (1 << w->bits) - 1;
            for (int64_t j = 0; j < r.columns; j++) codes[j] = (uint8_t)((from[4 * j] >> shift & mask) - u->zero);
        }
    }
}

void qn_grouped_codes(const qn_grouped *w, const uint8_t *packed, bool is_signed, uint8_t *codes) {
    unpacking u = {w, packed, is_signed ? (uint8_t)qn_middle(w->bits) : 0, codes};
    qn_parallel_for(panels(w), 1, w->k * w->n, unpack_panels, &u);
}

/* ---- the product ---- */

typedef struct {
    const qn_grouped *w;
    const uint8_t *packed;
    const qn_grouped_product *p;
    int64_t row; /* first row of this pass */
    qn_grouped_rows x;
} product_pass;

typedef float quad __attribute__((vector_size(16)));

static float sum_of(const qn_grouped_rows *x, int64_t groups, int64_t r, int64_t g) {
    return (float)-x->minus_sums[r * groups + g] * x->scales[r * x->scale_row + g * x->scale_step];
}

/* y = y + ((float)sum * scale of x) * offset for each group in order, each step rounded to float32; sum is that of the
 * codes of x, less their zero point. */
static void add_offsets(const product_pass *c, int64_t column, int64_t n, float *y) {
    const qn_grouped_rows *x = &c->x;
    const int64_t groups = c->w->groups;
    for (int64_t r = 0; r < x->rows; r++, y += PANEL) {
        const float *offsets = c->p->offsets + column;
        if (n < PANEL) {
            for (int64_t g = 0; g < groups; g++, offsets += c->w->n)
                for (int64_t i = 0; i < n; i++) y[i] += sum_of(x, groups, r, g) * offsets[i];
            continue;
        }
        quad v[4], o[4];
        memcpy(v, y, sizeof v);
        for (int64_t g = 0; g < groups; g++, offsets += c->w->n) {
            const float s = sum_of(x, groups, r, g);
            const quad sum = {s, s, s, s};
            memcpy(o, offsets, sizeof o);
            for (int i = 0; i < 4; i++) v[i] += sum * o[i];
        }
        memcpy(y, v, sizeof v);
    }
}

static void put(const product_pass *c, int64_t panel, float *y) {
    const qn_grouped_product *p = c->p;
    int64_t j = panel * PANEL, n = c->w->n - j < PANEL ? c->w->n - j : PANEL;
    if (p->offsets) add_offsets(c, j, n, y);
    for (int64_t r = 0; r < c->x.rows; r++, y += PANEL) {
        float *to = p->y + (c->row + r) * c->w->n + j;
        for (int64_t i = 0; i < n; i++) {
            float v = p->bias ? y[i] + p->bias[j + i] : y[i];
            v = v < p->lowest ? p->lowest : v;
            to[i] = v > p->highest ? p->highest : v;
        }
        if (p->gelu) qn_kernels()->gelu_f32(to, to, n);
    }
}

static void multiply_panels(void *context, int64_t begin, int64_t end) {
    const product_pass *c = context;
    const qn_grouped *w = c->w;
    const int64_t width = w->groups * w->record, size = c->x.rows * PANEL;
    const bool few = c->x.rows <= FEW_ROWS;
    const int64_t step = few ? w->groups : ceil_div(DEPTH_BYTES, code_bytes(w)), side = few ? SIDE : 1;
    _Alignas(64) float y[ROWS * PANEL];
    uint64_t modes = qn_fp_begin();
    for (int64_t panel = begin; panel < end; panel += side) {
        int64_t count = end - panel < side ? end - panel : side;
        memset(y, 0, (size_t)(count * size) * sizeof *y);
        for (int64_t g = 0; g < w->groups; g += step)
            qn_kernels()->grouped_panels(w, c->packed + panel * width, count, &c->x, g,
                                         g + step < w->groups ? g + step : w->groups, y);
        for (int64_t i = 0; i < count; i++) put(c, panel + i, y + i * size);
    }
    qn_fp_end(modes);
}

static int64_t rows_at_once(int64_t m) { return m < ROWS ? m : ROWS; }

/* Negates x in place; NULL if all are 0. */
static const int32_t *negate(int32_t *x, int64_t n) {
    int32_t bits = 0;
    for (int64_t i = 0; i < n; i++) bits |= x[i], x[i] = -x[i];
    return bits ? x : NULL;
}

/* For codes, and a scale, a zero point and a sum for each group. */
int64_t qn_grouped_scratch(const qn_grouped *w, int64_t m, bool transforms) {
    int64_t bytes, floats, rows = transforms ? qn_transformed_rows(rows_at_once(m)) : 0;
    bool overflow = __builtin_mul_overflow(rows_at_once(m), (w->groups + 1) * (w->group + 12), &bytes) ||
                    __builtin_mul_overflow(rows * (int64_t)sizeof(float), w->k, &floats) ||
                    __builtin_add_overflow(bytes, floats, &bytes);
    return overflow ? -1 : bytes;
}

void qn_grouped_multiply(const qn_grouped *w, const uint8_t *packed, const qn_grouped_product *p, void *scratch) {
    int64_t most = rows_at_once(p->m), params = most * (w->groups + 1), stride = w->groups * w->group;
    qn_activations a = {.input = p->input, .k = w->k, .group = p->by_row ? stride : w->group, .stride = stride};
    a.sum_group = w->group, a.is_signed = p->is_signed, a.symmetric = p->symmetric, a.less = p->is_signed ? 0 : 128;
    a.qmin = p->qmin, a.qmax = p->qmax, a.scale = p->scale, a.zero_point = p->zero_point;
    a.scales = scratch, a.minus_sums = (int32_t *)(a.scales + params), a.zero_points = a.minus_sums + params;
    a.smooth = p->smooth, a.hadamard = p->hadamard, a.transformed = (float *)(a.zero_points + params);
    a.codes = (uint8_t *)(a.transformed + (p->hadamard || p->smooth ? qn_transformed_rows(most) * w->k : 0));
    qn_grouped_rows x = {.codes = (int8_t *)a.codes, .scales = a.scales, .minus_sums = a.minus_sums, .stride = stride};
    x.groups = w->groups, x.scale_row = p->by_row ? 1 : w->groups, x.scale_step = !p->by_row;
    for (int64_t row = 0; row < p->m; row += most) {
        a.rows = x.rows = p->m - row < most ? p->m - row : most;
        if (p->x) a.x = p->x + row * w->k;
        else a.input.codes = p->input.codes + row * w->k, a.input.scales = p->input.scales + row * p->input.row;
        if (p->input.zero_points) a.input.zero_points = p->input.zero_points + row * p->input.row;
        qn_quantize_activations(&a);
        x.minus_zeros = negate(a.zero_points, w->k ? x.rows * x.scale_row : 0);
        product_pass c = {w, packed, p, row, x};
        int64_t products = x.rows * w->k * w->n / PRODUCTS_A_BYTE, bytes = qn_grouped_bytes(w);
        qn_parallel_for(panels(w), x.rows <= FEW_ROWS ? SIDE : 1, products > bytes ? products : bytes, multiply_panels,
                        &c);
    }
}
