/* Packs right matrices; the head of matmul.c draws the result. */
#include <stdatomic.h>
#include <stdlib.h>

#include "dispatch.h"
#include "matmul_private.h"
#include "threads.h"

/* ---- staging: copies of codes that the packers cannot read in place ---- */

void qn_stage(const qn_matrix *m, int64_t row, int64_t column, int64_t rows, int64_t columns, int32_t pad, bool wide,
              void *to, int64_t step) {
    int64_t available = most(0, least(columns, m->columns - column));
    for (int64_t r = 0; r < rows; r++) {
        int64_t count = row + r < m->rows ? available : 0;
        int16_t *words = (int16_t *)to + r * step;
        uint8_t *bytes = (uint8_t *)to + r * step;
        const char *from = m->data + (row + r) * m->row_stride + column * m->column_stride;
        if (wide) {
            for (int64_t c = 0; c < count; c++) words[c] = (int16_t)qn_code_at(m, row + r, column + c);
            for (int64_t c = count; c < columns; c++) words[c] = (int16_t)pad;
        } else {
            if (m->column_stride == 1) memcpy(bytes, from, (size_t)count);
            else
                for (int64_t c = 0; c < count; c++) bytes[c] = (uint8_t)from[c * m->column_stride];
            memset(bytes + count, pad, (size_t)(columns - count));
        }
    }
}

/* ---- packing the right matrix ---- */

static void pack_words(const int16_t *b, int64_t quartets, uint8_t *panel) {
    int16_t *to = (int16_t *)(void *)panel;
    for (int64_t k = 0; k < quartets * 2; k++)
        for (int j = 0; j < QN_PANEL; j++) to[k / 2 * 32 + j * 2 + k % 2] = b[k * QN_PANEL + j];
}

static void sum_words(const uint8_t *panel, int64_t quartets, int32_t *sum) {
    const int16_t *b = (const int16_t *)(const void *)panel;
    for (int64_t g = 0; g < quartets; g++, b += QN_QUARTET / 2)
        for (int j = 0; j < QN_PANEL; j++)
            sum[j] = (int32_t)((uint32_t)sum[j] + (uint32_t)b[2 * j] + (uint32_t)b[2 * j + 1]);
}

void qn_pack_bytes(const qn_packing *w, int64_t p, int panels, int64_t g, int64_t quartets, uint8_t *to, int64_t step) {
    const qn_matrix *m = w->from;
    const qn_packed *b = w->to;
    int64_t column = p * QN_PANEL, width = panels * QN_PANEL, k = g * 4;
    bool inside = column + width <= b->n && k + quartets * 4 <= b->k;
    uint8_t staging[QN_PANELS * QN_PANEL * QN_PACK_QUARTETS * 4] __attribute__((aligned(64)));
    if (w->gather) {
        int64_t rows = least(quartets * 4, most(0, b->k - k));
        w->gather(w->context, k, column, rows, least(width, b->n - column), staging);
        memset(staging + rows * QN_GATHERED, b->pad ^ w->flip, (size_t)((quartets * 4 - rows) * QN_GATHERED));
        qn_kernels()->right_bytes(staging, QN_GATHERED, w->flip, quartets, panels, to, step);
        return;
    }
    if (m->row_stride == 1 && m->column_stride != 1) { /* the transpose is row-major */
        const qn_matrix transpose = {m->data, m->type, false, m->columns, m->rows, m->column_stride, 1, false};
        for (int i = 0; i < panels; i++, column += QN_PANEL, to += step) {
            const uint8_t *from = (const uint8_t *)m->data + column * m->column_stride + k;
            int64_t stride = m->column_stride;
            if (!inside) {
                qn_stage(&transpose, column, k, QN_PANEL, quartets * 4, (b->pad + w->less) ^ w->flip, false, staging,
                         quartets * 4);
                from = staging, stride = quartets * 4;
            }
            qn_kernels()->right_turned(from, stride, w->flip, quartets, to);
        }
        return;
    }
    const uint8_t *from = (const uint8_t *)m->data + k * m->row_stride + column;
    int64_t stride = m->row_stride;
    if (!inside || m->column_stride != 1) {
        qn_stage(m, k, column, quartets * 4, width, (b->pad + w->less) ^ w->flip, false, staging, width);
        from = staging, stride = width;
    }
    qn_kernels()->right_bytes(from, stride, w->flip, quartets, panels, to, step);
}

void qn_sum_panel(const qn_packed *b, const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs) {
    if (b->form == QN_WORDS) sum_words(panel, quartets, sum);
    else qn_kernels()->right_sums(panel, quartets, sum, pairs);
}

/* Puts quartets of bytes together to codes of fewer bits. */
static void pack_bits(const uint8_t *bytes, int bits, int64_t quartets, uint8_t *to) {
    const int fields = 8 / bits, mask = (1 << bits) - 1;
    for (int64_t g = 0; g < quartets; g += fields, to += QN_QUARTET)
        for (int i = 0; i < QN_QUARTET; i++) {
            int code = 0;
            for (int f = 0; f < fields; f++) code |= (bytes[(g + f) * QN_QUARTET + i] & mask) << (f * bits);
            to[i] = (uint8_t)code;
        }
}

static void pack_panels(void *context, int64_t begin, int64_t end) {
    const qn_packing *w = context;
    qn_packed *b = w->to;
    uint8_t unpacked[2 * QN_PACK_QUARTETS * QN_QUARTET] __attribute__((aligned(64)));
    for (int64_t p = begin; p < end; p += 2) {
        int panels = (int)least(2, end - p);
        memset(b->sum + p * QN_PANEL, 0, (size_t)(panels * QN_PANEL) * 4);
        memset(b->pairs + p * QN_PANEL, 0, (size_t)(panels * QN_PANEL) * 4);
        for (int64_t g = 0; g < b->quartets; g += QN_PACK_QUARTETS) {
            int64_t quartets = least(QN_PACK_QUARTETS, b->quartets - g);
            uint8_t *const target = b->panel + p * qn_panel_bytes(b) + qn_quartets_bytes(b, g);
            uint8_t *const bytes = b->bits < 8 ? unpacked : target;
            const int64_t step = b->bits < 8 ? quartets * QN_QUARTET : qn_panel_bytes(b);
            if (b->form == QN_WORDS) {
                int16_t staging[QN_PANEL * QN_PACK_QUARTETS * 2];
                for (int i = 0; i < panels; i++) {
                    qn_stage(w->from, g * 2, (p + i) * QN_PANEL, quartets * 2, QN_PANEL, 0, true, staging, QN_PANEL);
                    pack_words(staging, quartets, b->panel + (p + i) * qn_panel_bytes(b) + g * QN_QUARTET);
                }
            } else {
                qn_pack_bytes(w, p, panels, g, quartets, bytes, step);
            }
            for (int64_t i = p; i < p + panels; i++) {
                uint8_t *panel = bytes + (i - p) * step;
                if (w->less)
                    for (int64_t x = 0; x < quartets * QN_QUARTET; x++) panel[x] = (uint8_t)(panel[x] - w->less);
                qn_sum_panel(b, panel, quartets, b->sum + i * QN_PANEL, b->pairs + i * QN_PANEL);
                if (b->bits < 8) pack_bits(panel, b->bits, quartets, target + (i - p) * qn_panel_bytes(b));
            }
        }
        int32_t padded = (int32_t)(b->quartets * qn_ks_a_quartet(b->form) - b->k) * b->pad;
        for (int64_t j = p * QN_PANEL; j < (p + panels) * QN_PANEL; j++) b->sum[j] -= padded;
    }
}

qn_extremes qn_extremes_of_type(qn_type type) {
    if (type == QN_I8) return (qn_extremes){-128, 127};
    return type == QN_U8 ? (qn_extremes){0, 255} : (qn_extremes){-32768, 32767};
}

qn_extremes qn_extremes_of_matrix(const qn_matrix *m) {
    qn_extremes e = {INT32_MAX, INT32_MIN};
    bool turned = m->row_stride == 1 || m->row_stride == 2; /* read along memory */
    int64_t rows = turned ? m->columns : m->rows, columns = turned ? m->rows : m->columns;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            int32_t code = turned ? qn_code_at(m, c, r) : qn_code_at(m, r, c);
            if (code < e.lo) e.lo = code;
            if (code > e.hi) e.hi = code;
        }
    return e.lo <= e.hi ? e : (qn_extremes){0, 0};
}

int64_t qn_magnitude_of(qn_extremes e, qn_zeros z) {
    int64_t largest = z.count ? 0 : most(-(int64_t)e.lo, e.hi);
    for (int64_t i = 0; i < z.count; i++)
        largest = most(largest, most((int64_t)z.values[i] - e.lo, (int64_t)e.hi - z.values[i]));
    return largest;
}

void qn_packed_free(qn_packed *b) {
    if (!b) return;
    qn_excess_free(b->excess);
    if (!b->borrowed) free(b->panel);
    free(b->sum), free(b);
}

/* `strips`: without panels, for a product that packs strip by strip. */
static qn_packed *packed_make(int64_t rows, int64_t columns, int bits, bool strips) {
    /* Broadcast matrices may be that large. */
    if (rows > INT64_MAX / QN_QUARTET || columns > INT64_MAX / QN_QUARTET) return NULL;
    qn_packed *b = malloc(sizeof *b);
    if (!b) return NULL;
    *b = (qn_packed){.k = rows, .n = columns, .form = bits == 16 ? QN_WORDS : bits < 8 ? QN_NARROW : QN_FULL};
    b->bits = bits < 8 ? bits : 8;
    const int64_t ks = qn_ks_a_quartet(b->form);
    b->quartets = round_up(most(1, (rows + ks - 1) / ks), b->bits == 2 ? 4 : 2);
    b->panels = (columns + QN_PANEL - 1) / QN_PANEL;
    if (!strips) b->panel = qn_allocate(b->panels, qn_panel_bytes(b));
    b->sum = qn_allocate(b->panels, 3 * QN_QUARTET);
    if (!(b->panel || strips) || !b->sum) return qn_packed_free(b), NULL;
    return b;
}

/* The terms of zero points. */
static void set_zeros(qn_packed *b, qn_zeros zb) {
    b->pairs = b->sum + b->panels * QN_PANEL;
    b->e = b->pairs + b->panels * QN_PANEL;
    b->uniform = true;
    for (int64_t j = 0; j < b->panels * QN_PANEL; j++) {
        int32_t z = !zb.count ? 0 : zb.count == 1 ? zb.values[0] : zb.values[least(j, zb.count - 1)];
        b->e[j] = z - b->base;
        b->uniform = b->uniform && b->e[j] == b->e[0];
    }
}

/* See qn_pack_right. */
static void packed_fill(qn_packed *b, const qn_matrix *m, qn_zeros zb, bool weights, qn_packing *strips,
                        qn_codes_maker gather, const void *context) {
    bool words = b->form == QN_WORDS;
    b->n = m->columns, b->type = m->type, b->panels = (m->columns + QN_PANEL - 1) / QN_PANEL;
    const qn_extremes e = weights || words ? qn_extremes_of_matrix(m) : qn_extremes_of_type(m->type);
    b->magnitude = qn_magnitude_of(e, zb);
    if (b->bits < 8) b->base = m->type == QN_I8 ? -qn_middle(b->bits) : 0;
    else if (weights && !words && e.hi - e.lo < 128) b->form = QN_NARROW, b->base = e.lo;
    if (b->form == QN_FULL) b->base = m->type == QN_I8 ? -128 : 0, b->lowest = e.lo == b->base;
    if (b->form != QN_WORDS) b->pad = qn_middle_of(b);
    set_zeros(b, zb);
    qn_packing w = {.to = b, .from = m, .flip = !words && m->type == QN_I8 ? 0x80 : 0};
    w.gather = gather, w.context = context;
    if (b->form == QN_NARROW) w.less = (uint8_t)(b->base + (m->type == QN_I8 ? 128 : 0));
    if (strips) *strips = w;
    else qn_parallel_for(b->panels, 2 * ((b->panels + 15) / 16), 2 * b->k * b->n, pack_panels, &w);
}

/* Takes out what exceeds the limits of quads, where the ISA row multiplies quads. */
static bool find_excess(qn_packed *b) {
    qn_tiling tiling;
    qn_kernels()->matmul_tiling(&tiling);
    return !tiling.quads || !b->panels ||
           qn_excess_make(b->panel, b->panels, b->quartets, qn_middle_of(b), tiling.kblock, &b->excess);
}

qn_packed *qn_pack_right(const qn_matrix *m, qn_zeros zb, int bits, bool weights, qn_packing *strips) {
    qn_packed *b = packed_make(m->rows, m->columns, bits, strips);
    if (!b) return NULL;
    packed_fill(b, m, zb, weights, strips, NULL, NULL);
    return weights && bits == 8 && !find_excess(b) ? (qn_packed_free(b), NULL) : b;
}

/* ---- panels of others ---- */

int64_t qn_packed_panel_bytes(int64_t rows, int bits) { return round_up(rows, bits == 2 ? 16 : 8) * 2 * bits; }

typedef struct {
    qn_packed *b;
    atomic_bool padded, lowest; /* padding that differs; a stored byte that is 0 */
} reading;

/* Sums up whole panels, and looks at their padding. */
static void read_panels(void *context, int64_t begin, int64_t end) {
    reading *r = context;
    qn_packed *b = r->b;
    for (int64_t p = begin; p < end; p++) {
        int32_t *const sum = b->sum + p * QN_PANEL, *const pairs = b->pairs + p * QN_PANEL;
        memset(sum, 0, QN_PANEL * 4), memset(pairs, 0, QN_PANEL * 4);
        uint8_t unpacked[QN_PACK_QUARTETS * QN_QUARTET] __attribute__((aligned(64)));
        for (int64_t g = 0; g < b->quartets; g += QN_PACK_QUARTETS) {
            const int64_t quartets = least(QN_PACK_QUARTETS, b->quartets - g);
            const uint8_t *bytes = b->panel + p * qn_panel_bytes(b) + qn_quartets_bytes(b, g);
            if (b->bits < 8) qn_kernels()->right_unpack(bytes, b->bits, quartets, unpacked), bytes = unpacked;
            qn_sum_panel(b, bytes, quartets, sum, pairs);
            const int64_t columns = least(QN_PANEL, b->n - p * QN_PANEL);
            const bool whole = columns == QN_PANEL && (g + quartets) * 4 <= b->k;
            int zero = 0, other = 0;
            for (int64_t i = 0; i < quartets * QN_QUARTET; i++) zero |= bytes[i] == 0;
            for (int64_t i = 0; !whole && i < quartets * QN_QUARTET; i++) {
                const bool inside = i % QN_QUARTET / 4 < columns && (g + i / QN_QUARTET) * 4 + i % 4 < b->k;
                other |= !inside && bytes[i] != b->pad;
            }
            if (zero) atomic_store(&r->lowest, true);
            if (other) atomic_store(&r->padded, false);
        }
        for (int j = 0; j < QN_PANEL; j++) sum[j] -= (int32_t)(b->quartets * 4 - b->k) * b->pad;
    }
}

qn_packed *qn_borrow_weights(const uint8_t *panels, int64_t rows, int64_t columns, int bits, bool is_signed,
                             qn_zeros zb, bool *valid) {
    qn_packed *b = packed_make(rows, columns, bits, true);
    if (!b) return NULL;
    b->borrowed = true, b->panel = (uint8_t *)panels; /* nothing writes to it */
    b->type = is_signed ? QN_I8 : QN_U8, b->base = is_signed ? -qn_middle(bits) : 0, b->pad = qn_middle(bits);
    b->magnitude = qn_magnitude_of((qn_extremes){b->base, b->base + (1 << bits) - 1}, zb);
    set_zeros(b, zb);
    reading r = {.b = b, .padded = true};
    qn_parallel_for(b->panels, 2, 2 * b->k * b->n, read_panels, &r);
    b->lowest = r.lowest, *valid = r.padded;
    return bits == 8 && *valid && !find_excess(b) ? (qn_packed_free(b), NULL) : b;
}

qn_packed *qn_packed_make(int64_t rows, int64_t columns) { return packed_make(rows, columns, 8, false); }

void qn_packed_fill(qn_packed *b, const qn_matrix *m, qn_zeros zero, qn_codes_maker gather, const void *context) {
    packed_fill(b, m, zero, false, NULL, gather, context);
}

qn_packed *qn_pack_weights(const qn_matrix *b, qn_zeros zb, int bits) { return qn_pack_right(b, zb, bits, true, NULL); }

qn_type qn_packed_type(const qn_packed *b) { return b->type; }
int64_t qn_packed_rows(const qn_packed *b) { return b->k; }
int64_t qn_packed_columns(const qn_packed *b) { return b->n; }
int64_t qn_packed_bytes(const qn_packed *b) {
    int64_t excess = b->excess ? qn_excess_bytes(b->excess, b->panels) : 0;
    return (int64_t)sizeof *b + b->panels * qn_panel_bytes(b) + b->panels * QN_PANEL * 3 * 4 + excess;
}
const char *qn_packed_form(const qn_packed *b) {
    static const char *const names[] = {[QN_FULL] = "full", [QN_NARROW] = "narrow", [QN_WORDS] = "words"};
    if (b->bits < 8) return b->bits == 4 ? "4 bits" : "2 bits";
    return b->excess ? "quads" : names[b->form];
}

/* The stored code k of column c of a panel; panel_body.h draws those of fewer bits than 8. */
static int code_of(const qn_packed *b, const uint8_t *panel, int64_t k, int64_t c) {
    return panel[k * b->bits / 32 * QN_QUARTET + c * 4 + k % 4] >> (k / 4 * b->bits % 8) & ((1 << b->bits) - 1);
}

void qn_packed_codes(const qn_packed *b, void *codes) {
    for (int64_t p = 0; p < b->panels; p++)
        for (int64_t k = 0; k < b->k; k++)
            for (int64_t c = 0; c < least(QN_PANEL, b->n - p * QN_PANEL); c++) {
                const uint8_t *panel = b->panel + p * qn_panel_bytes(b);
                int64_t at = k * b->n + p * QN_PANEL + c;
                if (b->form == QN_WORDS)
                    memcpy((int16_t *)codes + at, panel + k / 2 * QN_QUARTET + c * 4 + k % 2 * 2, 2);
                else ((uint8_t *)codes)[at] = (uint8_t)(code_of(b, panel, k, c) + b->base);
            }
}
