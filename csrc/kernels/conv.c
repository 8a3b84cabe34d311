/* Column c of the result and element j of a row of the kernel meet column c * stride + j * dilation - left of the image.
 * So a row of the image is laid out as lanes, the columns with the same remainder by the stride: there the c are
 * neighbours for every j. What lies outside the image holds the zero point.
 *
 * Products: the patches of a window of results are a right matrix with one row for each element of a kernel. The rows of
 * the image that a window meets are laid out in lanes of bytes, and the packer copies from them: the patches never lie in
 * memory. The weight is the left matrix.
 *
 * Sums, where so few channels see the same patches that packing them would cost more: rows are laid out in lanes of pairs,
 * each row with the one that the next row of the kernel meets, and kept while further rows of results need them.
 */
#include "conv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "threads.h"

enum {
    WINDOW = 512 << 10,      /* bytes of packed patches: half of the L2 cache */
    WINDOWS_A_THREAD = 2,    /* at least, where they are not too small */
    SMALLEST_WINDOW = 64,    /* columns for which the weight is worth packing again */
    FEW_OUTPUTS = 4,         /* channels of a group up to which sums are faster */
    KEPT_ROWS = 64,          /* pairs of rows kept for the next rows of results */
    LARGEST = 255 * 255,     /* product of two codes */
    SUMS_A_BYTE = 4,         /* products of a sum in the time that a byte of traffic takes */
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t times(int64_t a, int64_t b) { /* INT64_MAX where it overflows */
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}
static void *allocate(int64_t count, int64_t size) {
    int64_t bytes = times(count, size);
    return bytes < PTRDIFF_MAX ? calloc((size_t)most(bytes, 1), 1) : NULL;
}

/* ---- lanes ---- */

typedef struct {
    int64_t count, first, length; /* of the lanes; element t of a lane is column (first + t) * stride + phase */
    int64_t line;                 /* elements of all, QN_REACH after each */
    int64_t *phase;               /* [count] */
    int64_t *start;               /* [kernel width]: element j meets lanes[start[j] + c] */
} lanes;

static bool lanes_make(lanes *l, const qn_conv *c) {
    int64_t width = c->kernel[1], stride = c->stride[1], last = INT64_MIN;
    l->phase = allocate(width, 3 * sizeof *l->phase);
    if (!l->phase) return false;
    int64_t *start = l->start = l->phase + width, *lane = start + width;
    l->count = 0, l->first = INT64_MAX;
    for (int64_t j = 0; j < width; j++) {
        int64_t column = j * c->dilation[1] - c->left, phase = (column % stride + stride) % stride;
        start[j] = (column - phase) / stride;
        l->first = least(l->first, start[j]), last = most(last, start[j]);
        for (lane[j] = 0; lane[j] < l->count && l->phase[lane[j]] != phase;) lane[j]++;
        if (lane[j] == l->count) l->phase[l->count++] = phase;
    }
    l->length = c->out_width + last - l->first;
    l->line = times(l->count, l->length + QN_REACH);
    if (l->line > INT64_MAX / 8) return free(l->phase), false;
    for (int64_t j = 0; j < width; j++) start[j] += lane[j] * (l->length + QN_REACH) - l->first;
    return true;
}

/* The elements of a lane that lie in the image. */
static void lane_inside(const lanes *l, const qn_conv *c, int64_t phase, int64_t *begin, int64_t *end) {
    int64_t stride = c->stride[1], columns = phase < c->width ? (c->width - 1 - phase) / stride + 1 : 0;
    *begin = least(most(0, -l->first), l->length);
    *end = most(*begin, least(columns - l->first, l->length));
}

/* ---- products with patches ---- */

typedef struct {
    const qn_conv *c;
    lanes lanes;
    bool in_place; /* the image is the right matrix */
    int64_t depth, outputs, k, pixels;
    int64_t window, windows; /* columns of the right matrix, of each image and group */
    int64_t rows;            /* of the image that a window meets, at most */
    atomic_int outcome;
} products;

/* Buffers of one thread, and the window that they hold. */
typedef struct {
    const products *p;
    int64_t first, low, high; /* result; rows of the image */
    qn_packed *patches;
    float *ones;
    uint8_t *rows;    /* [depth][high - low][lanes] */
    uint8_t *outside; /* [length] a lane of a row outside the image */
} window;

static void lay_row(const products *p, const char *from, uint8_t *to) {
    const qn_conv *c = p->c;
    const lanes *l = &p->lanes;
    int64_t step = c->stride[1] * c->x_step[3];
    for (int64_t n = 0; n < l->count; n++, to += l->length + QN_REACH) {
        int64_t begin, end;
        lane_inside(l, c, l->phase[n], &begin, &end);
        const char *x = from + (l->first * c->stride[1] + l->phase[n]) * c->x_step[3];
        memset(to, c->x_zero, (size_t)begin);
        if (step == 1) memcpy(to + begin, x + begin, (size_t)(end - begin));
        else if (step == 2)
            for (int64_t t = begin; t < end; t++) to[t] = (uint8_t)x[2 * t];
        else
            for (int64_t t = begin; t < end; t++) to[t] = (uint8_t)x[t * step];
        memset(to + end, c->x_zero, (size_t)(l->length - end));
    }
}

static void lay_rows(window *w, const char *x, int64_t count) {
    const products *p = w->p;
    const qn_conv *c = p->c;
    int64_t top = w->first / c->out_width * c->stride[0] - c->top, line = p->lanes.line;
    int64_t bottom = (w->first + count - 1) / c->out_width * c->stride[0] - c->top;
    w->low = most(0, top), w->high = most(w->low, least(c->height, bottom + (c->kernel[0] - 1) * c->dilation[0] + 1));
    for (int64_t d = 0; d < p->depth; d++)
        for (int64_t row = w->low; row < w->high; row++)
            lay_row(p, x + d * c->x_step[1] + row * c->x_step[2], w->rows + (d * (w->high - w->low) + row - w->low) * line);
}

/* Where a row of results begins in a line of the packer. */
typedef struct {
    int64_t row, column, at; /* row of the image for the first row of the kernel */
} stretch;

static void gather(const void *context, int64_t k, int64_t column, int64_t rows, int64_t columns, uint8_t *to) {
    const window *w = context;
    const qn_conv *c = w->p->c;
    stretch all[QN_GATHERED], *s = all;
    int64_t row = (w->first + column) / c->out_width, at = (w->first + column) % c->out_width;
    for (int64_t n = 0; n < columns; n += c->out_width - at, row++, at = 0)
        *s++ = (stretch){row * c->stride[0] - c->top, at, n};
    int64_t width = c->kernel[1], d = k / width / c->kernel[0], i = k / width % c->kernel[0], j = k % width;
    int64_t line = w->p->lanes.line;
    for (const uint8_t *end = to + rows * QN_GATHERED; to < end; to += QN_GATHERED) {
        const uint8_t *plane = w->rows + d * (w->high - w->low) * line + w->p->lanes.start[j];
        for (const stretch *t = all; t < s; t++) { /* what is copied too far is written after it */
            int64_t y = t->row + i * c->dilation[0];
            const uint8_t *from = y < w->low || y >= w->high ? w->outside : plane + (y - w->low) * line;
            memcpy(to + t->at, from + t->column, QN_GATHERED);
        }
        if (++j == width) j = 0, i++;
        if (i == c->kernel[0]) i = 0, d++;
    }
}

static void window_free(window *w) {
    qn_packed_free(w->patches);
    free(w->ones), free(w->rows);
}

static bool window_make(window *w, const products *p) {
    int64_t bytes = times(times(p->depth, p->rows), p->lanes.line);
    *w = (window){.p = p, .patches = qn_packed_make(p->k, p->window)};
    w->ones = allocate(p->window, sizeof *w->ones);
    bytes = bytes < INT64_MAX / 2 ? bytes + p->lanes.length + 2 * QN_GATHERED : INT64_MAX;
    w->rows = allocate(p->in_place ? 1 : bytes, 1);
    if (!w->patches || !w->ones || !w->rows) return window_free(w), false;
    for (int64_t n = 0; n < p->window; n++) w->ones[n] = 1.0f;
    if (p->in_place) return true;
    w->outside = w->rows + bytes - p->lanes.length - QN_GATHERED;
    memset(w->outside, p->c->x_zero, (size_t)p->lanes.length);
    return true;
}

static qn_outcome multiply_window(window *w, int64_t image, int64_t group, int64_t first) {
    const products *p = w->p;
    const qn_conv *c = p->c;
    int64_t count = least(p->window, p->pixels - first), channel = group * p->outputs;
    int64_t to = (image * c->outputs + channel) * p->pixels + first;
    const char *x = c->x + image * c->x_step[0] + group * p->depth * c->x_step[1];
    w->first = first;
    if (!p->in_place) lay_rows(w, x, count);
    const qn_matrix patches = {x + first * c->x_step[3], c->x_type, false, p->k, count, c->x_step[1], c->x_step[3]};
    qn_packed_fill(w->patches, &patches, (qn_zeros){&c->x_zero, 1}, p->in_place ? NULL : gather, w);
    const char *weight = (const char *)c->w + channel * p->k;
    const qn_matrix left = {weight, c->w_type, false, p->outputs, p->k, p->k, 1};
    const qn_zeros zeros = {c->w_zero.values + (c->w_zero.count > 1 ? channel : 0), c->w_zero.count > 1 ? p->outputs : 1};
    qn_result r = {.type = c->type, .row_stride = p->pixels, .row_scales = p->outputs, .column_scale = w->ones};
    r.data = c->type == QN_I32 ? (void *)((int32_t *)c->y + to) : (void *)((uint8_t *)c->y + to);
    r.row_scale = c->scale ? c->scale + channel : NULL, r.row_bias = c->bias ? c->bias + channel : NULL;
    r.zero_point = c->zero_point, r.qmin = c->qmin, r.qmax = c->qmax;
    return qn_matmul_packed(&left, zeros, w->patches, &r);
}

static void multiply_windows(void *context, int64_t begin, int64_t end) {
    products *p = context;
    window w;
    if (!window_make(&w, p)) {
        atomic_store(&p->outcome, QN_NO_MEMORY);
        return;
    }
    for (int64_t n = begin; n < end && !atomic_load(&p->outcome); n++) {
        int64_t group = n / p->windows % p->c->groups, image = n / p->windows / p->c->groups;
        qn_outcome outcome = multiply_window(&w, image, group, n % p->windows * p->window);
        if (outcome) atomic_store(&p->outcome, outcome);
    }
    window_free(&w);
}

static qn_outcome convolve_by_products(products *p, int64_t macs) {
    const qn_conv *c = p->c;
    int64_t threads = qn_num_threads(), parts = threads > 1 ? WINDOWS_A_THREAD * threads : 1;
    int64_t each = (times(p->pixels, c->images * c->groups) + parts - 1) / parts, whole = round_up(p->pixels, QN_GATHERED);
    p->window = most(SMALLEST_WINDOW, WINDOW / most(p->k, 1) / QN_GATHERED * QN_GATHERED);
    p->window = least(whole, least(p->window, most(SMALLEST_WINDOW, round_up(each, QN_GATHERED))));
    p->windows = (p->pixels + p->window - 1) / p->window;
    int64_t above = (p->window + c->out_width - 2) / c->out_width;
    p->rows = least(c->height, above * c->stride[0] + (c->kernel[0] - 1) * c->dilation[0] + 1);
    bool alone = c->kernel[0] == 1 && c->kernel[1] == 1 && c->stride[0] == 1 && c->stride[1] == 1;
    p->in_place = alone && !c->top && !c->left && c->out_height == c->height && c->out_width == c->width &&
                  (c->height == 1 || c->x_step[2] == c->width * c->x_step[3]);
    qn_tiling tiling;
    qn_kernels()->matmul_tiling(&tiling);
    qn_parallel_for(c->images * c->groups * p->windows, 1, macs / tiling.macs_a_byte, multiply_windows, p);
    return (qn_outcome)atomic_load(&p->outcome);
}

/* ---- sums over pairs of rows ---- */

typedef struct {
    const qn_conv *c;
    lanes lanes;
    int64_t depth, outputs, halves, taps; /* of an output channel: pairs of rows of the kernel, their elements */
    int64_t kept;                         /* pairs of rows of each channel */
    bool wrapped;                         /* pairs are kept for later rows */
    int32_t *w;                           /* [outputs][taps] */
    atomic_int outcome;
} sums;

/* Buffers of one thread. */
typedef struct {
    int64_t *row;         /* [kept] which row of the padded image a slot begins with, -1: none */
    int32_t *pairs;       /* [depth][kept][line] */
    const int32_t **taps; /* [taps] */
    int32_t *acc;         /* a row of sums, for codes */
} kept_rows;

static int32_t weight_at(const qn_conv *c, int64_t channel, int64_t k) {
    int32_t zero = c->w_zero.values[c->w_zero.count > 1 ? channel : 0];
    return (c->w_type == QN_I8 ? ((const int8_t *)c->w)[k] : ((const uint8_t *)c->w)[k]) - zero;
}

static void pair_weights(const sums *s) {
    const qn_conv *c = s->c;
    int64_t rows = c->kernel[0], width = c->kernel[1], n = 0;
    for (int64_t at = 0; at < c->outputs * s->depth; at++)
        for (int64_t i = 0; i < rows; i += 2)
            for (int64_t j = 0; j < width; j++) {
                int64_t k = (at * rows + i) * width + j, channel = at / s->depth;
                uint32_t low = (uint32_t)weight_at(c, channel, k) & 0xFFFF;
                uint32_t high = i + 1 < rows ? (uint32_t)weight_at(c, channel, k + width) : 0;
                s->w[n++] = (int32_t)(low | high << 16);
            }
}

/* Row `row` of the padded image and the one that the next row of the kernel meets. */
static void lay_pairs(const sums *s, const char *x, int64_t row, int32_t *to) {
    const qn_conv *c = s->c;
    const lanes *l = &s->lanes;
    int64_t a = row - c->top, b = a + c->dilation[0], lowest = most(a, least(b, c->height - 1));
    const uint8_t *image = (const uint8_t *)x;
    qn_pair_rows p = {.step = c->stride[1] * c->x_step[3], .is_signed = c->x_type == QN_I8, .zero_point = c->x_zero};
    for (int64_t n = 0; n < l->count; n++, to += l->length + QN_REACH) {
        int64_t begin, end;
        lane_inside(l, c, l->phase[n], &begin, &end);
        int64_t column = (l->first + begin) * c->stride[1] + l->phase[n], at = column * c->x_step[3];
        p.n = end - begin, p.to = to + begin, p.room = c->width - column;
        if (c->x_step[3] == 1 && c->x_step[2] == c->width) p.room += (c->height - 1 - lowest) * c->width;
        p.a = a >= 0 && a < c->height ? image + a * c->x_step[2] + at : NULL;
        p.b = b >= 0 && b < c->height && c->kernel[0] > 1 ? image + b * c->x_step[2] + at : NULL;
        memset(to, 0, (size_t)begin * sizeof *to);
        if (p.n > 0) qn_kernels()->pair_rows(&p);
        memset(to + end, 0, (size_t)(l->length - end) * sizeof *to);
    }
}

/* Points the taps at row `row` of the results, laying out the pairs that are not there. */
static void meet_rows(const sums *s, kept_rows *b, const char *x, int64_t row) {
    const qn_conv *c = s->c;
    for (int64_t i = 0; i < s->halves; i++) {
        int64_t key = row * c->stride[0] + 2 * i * c->dilation[0], slot = s->wrapped ? key % s->kept : i;
        for (int64_t d = 0; d < s->depth; d++) {
            int32_t *pairs = b->pairs + (d * s->kept + slot) * s->lanes.line;
            if (b->row[slot] != key) lay_pairs(s, x + d * c->x_step[1], key, pairs);
            for (int64_t j = 0; j < c->kernel[1]; j++)
                b->taps[(d * s->halves + i) * c->kernel[1] + j] = pairs + s->lanes.start[j];
        }
        b->row[slot] = key;
    }
}

static void kept_free(kept_rows *b) { free(b->row), free(b->pairs), free(b->taps), free(b->acc); }

static bool kept_make(kept_rows *b, const sums *s) {
    b->row = allocate(s->kept, sizeof *b->row);
    b->pairs = allocate(times(s->depth, s->kept), times(s->lanes.line, sizeof *b->pairs));
    b->taps = allocate(s->taps, sizeof *b->taps);
    b->acc = allocate(s->c->out_width + QN_REACH, sizeof *b->acc);
    if (b->row && b->pairs && b->taps && b->acc) return true;
    return kept_free(b), false;
}

static void sum_row(const sums *s, const kept_rows *b, int64_t image, int64_t channel, int64_t row, int64_t last) {
    const qn_conv *c = s->c;
    int64_t n = c->out_width, at = ((image * c->outputs + channel) * c->out_height + row) * n;
    qn_dot_pairs d = {.pairs = b->taps, .w = s->w + channel * s->taps, .taps = s->taps, .n = n};
    d.start = c->bias ? c->bias[channel] : 0;
    d.y = c->type == QN_I32 ? (int32_t *)c->y + at : b->acc;
    d.room = c->type == QN_I32 ? (last - row) * n : n + QN_REACH; /* the rows after this one are written later */
    qn_kernels()->dot_pairs(&d);
    qn_affine a = {.scale = c->scale + channel, .zero_point = &c->zero_point, .run = n + 1};
    a.qmin = c->qmin, a.qmax = c->qmax;
    if (c->type == QN_I8) qn_kernels()->requantize_i32_i8(b->acc, (int8_t *)c->y + at, n, &a);
    if (c->type == QN_U8) qn_kernels()->requantize_i32_u8(b->acc, (uint8_t *)c->y + at, n, &a);
}

/* Rows of results, counted through images and groups. */
static void sum_rows(void *context, int64_t begin, int64_t end) {
    sums *s = context;
    const qn_conv *c = s->c;
    kept_rows b;
    if (!kept_make(&b, s)) {
        atomic_store(&s->outcome, QN_NO_MEMORY);
        return;
    }
    uint64_t saved = qn_fp_begin();
    for (int64_t n = begin, at = -1; n < end; n++) {
        int64_t row = n % c->out_height, group = n / c->out_height % c->groups, image = n / c->out_height / c->groups;
        if (at != n / c->out_height) memset(b.row, -1, (size_t)s->kept * sizeof *b.row), at = n / c->out_height;
        meet_rows(s, &b, c->x + image * c->x_step[0] + group * s->depth * c->x_step[1], row);
        int64_t last = least(c->out_height, row + end - n);
        for (int64_t m = group * s->outputs; m < (group + 1) * s->outputs; m++) sum_row(s, &b, image, m, row, last);
    }
    qn_fp_end(saved);
    kept_free(&b);
}

static qn_outcome convolve_by_sums(sums *s, int64_t macs) {
    const qn_conv *c = s->c;
    int64_t span = (c->kernel[0] - 1) * c->dilation[0] + 1;
    s->wrapped = span <= KEPT_ROWS, s->kept = s->wrapped ? span : s->halves;
    s->w = allocate(times(c->outputs, s->taps), sizeof *s->w);
    if (!s->w) return QN_NO_MEMORY;
    pair_weights(s);
    int64_t rows = c->images * c->groups * c->out_height, grain = least(c->out_height, most(8, 4 * span));
    qn_parallel_for(rows, grain, most(macs / SUMS_A_BYTE, rows * c->out_width * 5), sum_rows, s);
    free(s->w);
    return (qn_outcome)atomic_load(&s->outcome);
}

/* ---- the choice ---- */

qn_outcome qn_convolve(const qn_conv *given) {
    qn_conv c = *given;
    int64_t pixels = c.out_height * c.out_width, bias = 0, depth = c.channels / c.groups, outputs = c.outputs / c.groups;
    if (c.images == 0 || c.outputs == 0 || pixels == 0) return QN_DONE;
    for (int d = 0; d < 2; d++)
        if ((d ? c.out_width : c.out_height) == 1) c.stride[d] = 1; /* whatever it is */
    for (int64_t m = 0; c.bias && m < c.outputs; m++) bias = most(bias, llabs((long long)c.bias[m]));
    lanes l;
    if (!lanes_make(&l, &c)) return QN_NO_MEMORY;
    int64_t k = depth * c.kernel[0] * c.kernel[1], macs = times(times(pixels, c.images), times(c.outputs, k));
    qn_outcome outcome;
    if (outputs <= FEW_OUTPUTS && k > 0 && k <= (INT32_MAX - bias) / LARGEST) {
        int64_t halves = (c.kernel[0] + 1) / 2;
        sums s = {.c = &c, .lanes = l, .depth = depth, .outputs = outputs, .halves = halves};
        s.taps = depth * halves * c.kernel[1];
        outcome = convolve_by_sums(&s, macs);
    } else {
        products p = {.c = &c, .lanes = l, .depth = depth, .outputs = outputs, .k = k, .pixels = pixels};
        outcome = convolve_by_products(&p, macs);
    }
    free(l.phase);
    return outcome;
}
