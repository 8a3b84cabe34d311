/* Column c of the result and element j of a row of the kernel meet column c * stride + j * dilation - left of the image.
 * So a row of the image is laid out as lanes, the columns with the same remainder by the stride: there the c are
 * neighbours for every j. What lies outside the image holds the zero point.
 *
 * Products: the patches of a window of results are a right matrix with one row for each element of a kernel. The rows of
 * the image that a window meets are laid out in lanes of bytes, and the packer copies from them: the patches never lie in
 * memory. The weight is the left matrix.
 *
 * Sums, where so few channels see the same patches that packing them would cost more: rows are laid out in lanes of pairs,
 * each row with the one that the next row of the kernel meets, for a band of rows of results.
 */
#include "conv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "dispatch.h"
#include "threads.h"

enum {
    WINDOW = 512 << 10,   /* bytes of packed patches: half of the L2 cache */
    WINDOWS_A_THREAD = 2, /* at least, where they are not too small */
    SMALLEST_WINDOW = 64, /* columns for which the weight is worth packing again */
    FEW_OUTPUTS = 4,      /* channels of a group up to which sums are faster */
    FEW_PAIRS = 64,       /* and with up to so many pairs of an input and an output channel */
    BAND = 16 << 10,      /* bytes of pairs: half of the L1 cache */
    FEWEST_ROWS = 8,      /* of results found together, even if their pairs take more */
    LARGEST = 255 * 255,  /* product of two codes */
    SUMS_A_BYTE = 4,      /* products of a sum in the time that a byte of traffic takes */
};

static int64_t times(int64_t a, int64_t b) { /* INT64_MAX where it overflows */
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}
static int64_t common_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b, b = rest;
    }
    return a;
}
static void *allocate(int64_t count, int64_t size) {
    int64_t bytes = times(count, size);
    return bytes < PTRDIFF_MAX ? calloc((size_t)most(bytes, 1), 1) : NULL;
}

/* ---- lanes ---- */

/* Element t of a lane is column (first + t) * stride + phase. */
typedef struct {
    int64_t count, first, length;
    int64_t line;         /* elements of all lanes, QN_REACH after each */
    int64_t *phase;       /* [count] */
    int64_t *begin, *end; /* [count] elements that lie in the image */
    int64_t *start;       /* [kernel width]: element j meets line[start[j] + c] */
} lanes;

static bool lanes_make(lanes *l, const qn_conv *c) {
    int64_t width = c->kernel[1], stride = c->stride[1], last = INT64_MIN;
    l->phase = allocate(width, 5 * sizeof *l->phase);
    if (!l->phase) return false;
    l->begin = l->phase + width, l->end = l->begin + width, l->start = l->end + width;
    int64_t *start = l->start, *lane = start + width;
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
    for (int64_t n = 0; n < l->count; n++) {
        int64_t columns = l->phase[n] < c->width ? (c->width - 1 - l->phase[n]) / stride + 1 : 0;
        l->begin[n] = least(most(0, -l->first), l->length);
        l->end[n] = most(l->begin[n], least(columns - l->first, l->length));
    }
    return true;
}

/* ---- products with patches ---- */

typedef struct {
    const qn_conv *c;
    lanes lanes;
    bool in_place; /* the image is the right matrix */
    int64_t depth, outputs, k, pixels;
    int64_t window, windows; /* columns of the right matrix, of each image and group */
    int64_t gap, rows;       /* only each gap-th row of the padded image is met, so many in a window */
    atomic_int outcome;
} products;

/* Buffers of one thread, and the window that they hold. */
typedef struct {
    const products *p;
    int64_t first, low, high; /* result; rows of the image, counted in gaps from the padding above */
    qn_packed *patches;
    float *ones;
    uint8_t *rows;    /* [depth][high - low][lanes] */
    uint8_t *outside; /* the lanes of a row outside the image */
} window;

static void lay_row(const products *p, const char *from, uint8_t *to) {
    const qn_conv *c = p->c;
    const lanes *l = &p->lanes;
    int64_t step = c->stride[1] * c->x_step[3];
    for (int64_t n = 0; n < l->count; n++, to += l->length + QN_REACH) {
        int64_t begin = l->begin[n], end = l->end[n], count = end - begin;
        const char *x = from + ((l->first + begin) * c->stride[1] + l->phase[n]) * c->x_step[3];
        memset(to, c->x_zero, (size_t)begin);
        if (step == 1) memcpy(to + begin, x, (size_t)count);
        else if (step == 2)
            for (int64_t t = 0; t < count; t++) to[begin + t] = (uint8_t)x[2 * t];
        else
            for (int64_t t = 0; t < count; t++) to[begin + t] = (uint8_t)x[t * step];
        memset(to + end, c->x_zero, (size_t)(l->length - end));
    }
}

static void lay_rows(window *w, const char *x, int64_t count) {
    const products *p = w->p;
    const qn_conv *c = p->c;
    int64_t step = c->stride[0] / p->gap, bottom = (w->first + count - 1) / c->out_width * step;
    w->low = most(w->first / c->out_width * step, (c->top + p->gap - 1) / p->gap);
    w->high = least(bottom + (c->kernel[0] - 1) * c->dilation[0] / p->gap, (c->height - 1 + c->top) / p->gap) + 1;
    w->high = most(w->low, w->high);
    uint8_t *to = w->rows;
    for (int64_t d = 0; d < p->depth; d++)
        for (int64_t row = w->low; row < w->high; row++, to += p->lanes.line)
            lay_row(p, x + d * c->x_step[1] + (row * p->gap - c->top) * c->x_step[2], to);
}

/* Where a row of results begins in a line of the packer. */
typedef struct {
    int64_t row, column, at; /* row of the padded image, in gaps, for the first row of the kernel */
} stretch;

static void gather(const void *context, int64_t k, int64_t column, int64_t rows, int64_t columns, uint8_t *to) {
    const window *w = context;
    const qn_conv *c = w->p->c;
    stretch all[QN_GATHERED], *s = all;
    int64_t row = (w->first + column) / c->out_width, at = (w->first + column) % c->out_width;
    for (int64_t n = 0; n < columns; n += c->out_width - at, row++, at = 0)
        *s++ = (stretch){row * (c->stride[0] / w->p->gap), at, n};
    int64_t width = c->kernel[1], d = k / width / c->kernel[0], i = k / width % c->kernel[0], j = k % width;
    int64_t line = w->p->lanes.line, apart = c->dilation[0] / w->p->gap;
    const int64_t *start = w->p->lanes.start;
    for (const uint8_t *end = to + rows * QN_GATHERED; to < end; j = 0) {
        const uint8_t *plane = w->rows + d * (w->high - w->low) * line, *from[QN_GATHERED];
        for (int64_t t = 0; t < s - all; t++) {
            int64_t y = all[t].row + i * apart;
            bool outside = y < w->low || y >= w->high;
            from[t] = (outside ? w->outside : plane + (y - w->low) * line) + all[t].column;
        }
        for (; j < width && to < end; j++, to += QN_GATHERED) { /* what is copied too far is written after it */
            memcpy(to, from[0] + start[j], QN_GATHERED);
            for (int64_t t = 1; t < s - all; t++) memcpy(to + all[t].at, from[t] + start[j], QN_GATHERED);
        }
        if (++i == c->kernel[0]) i = 0, d++;
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
    bytes = bytes < INT64_MAX / 2 ? bytes + p->lanes.line + 2 * QN_GATHERED : INT64_MAX;
    w->rows = allocate(p->in_place ? 1 : bytes, 1);
    if (!w->patches || !w->ones || !w->rows) return window_free(w), false;
    for (int64_t n = 0; n < p->window; n++) w->ones[n] = 1.0f;
    if (p->in_place) return true;
    w->outside = w->rows + bytes - p->lanes.line - QN_GATHERED;
    memset(w->outside, p->c->x_zero, (size_t)p->lanes.line);
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
    qn_matrix patches = {.data = x + first * c->x_step[3], .type = c->x_type, .rows = p->k, .columns = count};
    patches.row_stride = c->x_step[1], patches.column_stride = c->x_step[3];
    qn_packed_fill(w->patches, &patches, (qn_zeros){&c->x_zero, 1}, p->in_place ? NULL : gather, w);
    const char *weight = (const char *)c->w + channel * p->k;
    const qn_matrix left = {
        .data = weight, .type = c->w_type, .rows = p->outputs, .columns = p->k, .row_stride = p->k, .column_stride = 1};
    const qn_zeros zeros = {c->w_zero.values + (c->w_zero.count > 1 ? channel : 0),
                            c->w_zero.count > 1 ? p->outputs : 1};
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
    int64_t each = (times(p->pixels, c->images * c->groups) + parts - 1) / parts,
            whole = round_up(p->pixels, QN_GATHERED);
    p->window = most(SMALLEST_WINDOW, WINDOW / most(p->k, 1) / QN_GATHERED * QN_GATHERED);
    p->window = least(whole, least(p->window, most(SMALLEST_WINDOW, round_up(each, QN_GATHERED))));
    p->windows = (p->pixels + p->window - 1) / p->window;
    int64_t above = (p->window + c->out_width - 2) / c->out_width;
    p->gap = common_divisor(c->stride[0], c->kernel[0] > 1 ? c->dilation[0] : 0);
    p->rows = least(c->height, above * c->stride[0] + (c->kernel[0] - 1) * c->dilation[0]) / p->gap + 1;
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
    int64_t band, bands;                  /* rows of results that are found together, of each image and group */
    int64_t gap, lines;                   /* rows from one line of pairs to the next; lines of a channel */
    bool shared;                          /* all pairs of rows of the kernel meet the same lines, else each its own */
    int32_t *w;                           /* [outputs][taps] */
    atomic_int outcome;
} sums;

/* Buffers of one thread. */
typedef struct {
    int32_t *pairs;       /* [depth][lines][line], 0 where the image has ended */
    const int32_t **taps; /* [taps] for the first row of a band */
    int32_t *acc;         /* [band][out_width] for codes */
} buffers;

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

static int64_t lines_of(const qn_conv *c, int64_t rows, int64_t halves, int64_t gap) {
    return ((rows - 1) * c->stride[0] + 2 * (halves - 1) * c->dilation[0]) / gap + 1;
}

static void plan_bands(sums *s) {
    const qn_conv *c = s->c;
    int64_t gap = common_divisor(c->stride[0], s->halves > 1 ? 2 * c->dilation[0] : 0);
    int64_t bytes = times(times(s->depth, s->lanes.line), sizeof(int32_t));
    int64_t rows = least(c->out_height, most(FEWEST_ROWS, BAND / most(1, times(bytes, c->stride[0] / gap))));
    s->bands = (c->out_height + rows - 1) / rows, s->band = (c->out_height + s->bands - 1) / s->bands;
    int64_t together = lines_of(c, s->band, s->halves, gap), apart = s->halves * s->band;
    s->shared = together <= apart, s->gap = s->shared ? gap : c->stride[0], s->lines = s->shared ? together : apart;
}

static void buffers_free(buffers *b) { free(b->pairs), free(b->taps), free(b->acc); }

static bool buffers_make(buffers *b, const sums *s) {
    const qn_conv *c = s->c;
    b->pairs = allocate(times(s->depth, s->lines), times(s->lanes.line, sizeof *b->pairs));
    b->taps = allocate(s->taps, sizeof *b->taps);
    b->acc = allocate(c->type == QN_I32 ? 1 : s->band * c->out_width, sizeof *b->acc);
    if (!b->pairs || !b->taps || !b->acc) return buffers_free(b), false;
    for (int64_t n = 0; n < s->taps; n++) {
        int64_t d = n / c->kernel[1] / s->halves, i = n / c->kernel[1] % s->halves, j = n % c->kernel[1];
        int64_t line = s->shared ? 2 * i * c->dilation[0] / s->gap : i * s->band;
        b->taps[n] = b->pairs + (d * s->lines + line) * s->lanes.line + s->lanes.start[j];
    }
    return true;
}

/* The lines of a channel for rows of results from `row` on. */
static void lay_pairs(const sums *s, const char *x, int64_t row, int32_t *to) {
    const qn_conv *c = s->c;
    const lanes *l = &s->lanes;
    int64_t left = c->x_bytes ? c->x_bytes - (x - c->x) : 0;
    qn_pair_rows p = {.row_step = c->x_step[2], .step = c->stride[1] * c->x_step[3], .is_signed = c->x_type == QN_I8};
    p.zero_point = c->x_zero, p.height = c->height, p.gap = s->gap, p.apart = c->dilation[0], p.line = l->line;
    p.lines = s->shared ? s->lines : s->band;
    for (int64_t i = 0; i < (s->shared ? 1 : s->halves); i++)
        for (int64_t n = 0; n < l->count; n++) {
            int64_t column = (l->first + l->begin[n]) * c->stride[1] + l->phase[n];
            p.n = l->end[n] - l->begin[n], p.x = (const uint8_t *)x + column * c->x_step[3];
            p.row = row * c->stride[0] + 2 * i * c->dilation[0] - c->top;
            p.to = to + i * p.lines * l->line + n * (l->length + QN_REACH) + l->begin[n];
            p.room = left ? left - column : 0;
            if (p.n > 0) qn_kernels()->pair_rows(&p);
        }
}

static void sum_band(const sums *s, const buffers *b, int64_t image, int64_t channel, int64_t row, int64_t rows) {
    const qn_conv *c = s->c;
    int64_t n = c->out_width, at = ((image * c->outputs + channel) * c->out_height + row) * n;
    qn_dot_pairs d = {.pairs = b->taps, .w = s->w + channel * s->taps, .taps = s->taps, .rows = rows, .n = n};
    d.step = c->stride[0] / s->gap * s->lanes.line, d.start = c->bias ? c->bias[channel] : 0;
    d.y = c->type == QN_I32 ? (int32_t *)c->y + at : b->acc;
    qn_kernels()->dot_pairs(&d);
    if (c->type == QN_I32) return;
    qn_affine a = {.scale = c->scale + channel, .zero_point = &c->zero_point, .run = rows * n + 1};
    a.qmin = c->qmin, a.qmax = c->qmax;
    if (c->type == QN_I8) qn_kernels()->requantize_i32_i8(b->acc, (int8_t *)c->y + at, rows * n, &a);
    else qn_kernels()->requantize_i32_u8(b->acc, (uint8_t *)c->y + at, rows * n, &a);
}

static void sum_bands(void *context, int64_t begin, int64_t end) {
    sums *s = context;
    const qn_conv *c = s->c;
    buffers b;
    if (!buffers_make(&b, s)) {
        atomic_store(&s->outcome, QN_NO_MEMORY);
        return;
    }
    uint64_t saved = qn_fp_begin();
    for (int64_t n = begin; n < end; n++) {
        int64_t group = n / s->bands % c->groups, image = n / s->bands / c->groups, row = n % s->bands * s->band;
        const char *x = c->x + image * c->x_step[0] + group * s->depth * c->x_step[1];
        for (int64_t d = 0; d < s->depth; d++)
            lay_pairs(s, x + d * c->x_step[1], row, b.pairs + d * s->lines * s->lanes.line);
        for (int64_t m = group * s->outputs; m < (group + 1) * s->outputs; m++)
            sum_band(s, &b, image, m, row, least(s->band, c->out_height - row));
    }
    qn_fp_end(saved);
    buffers_free(&b);
}

static qn_outcome convolve_by_sums(sums *s, int64_t macs) {
    const qn_conv *c = s->c;
    plan_bands(s);
    s->w = allocate(times(c->outputs, s->taps), sizeof *s->w);
    if (!s->w) return QN_NO_MEMORY;
    pair_weights(s);
    int64_t pixels = times(c->images * c->groups, c->out_height * c->out_width);
    qn_parallel_for(c->images * c->groups * s->bands, 1, most(macs / SUMS_A_BYTE, pixels), sum_bands, s);
    free(s->w);
    return (qn_outcome)atomic_load(&s->outcome);
}

/* ---- the choice ---- */

qn_outcome qn_convolve(const qn_conv *given) {
    qn_conv c = *given;
    int64_t pixels = c.out_height * c.out_width, bias = 0, depth = c.channels / c.groups,
            outputs = c.outputs / c.groups;
    if (c.images == 0 || c.outputs == 0 || pixels == 0) return QN_DONE;
    for (int d = 0; d < 2; d++)
        if ((d ? c.out_width : c.out_height) == 1) c.stride[d] = 1; /* whatever it is */
    for (int64_t m = 0; c.bias && m < c.outputs; m++) bias = most(bias, llabs((long long)c.bias[m]));
    bool one_zero = true;
    for (int64_t m = 1; m < c.w_zero.count; m++) one_zero = one_zero && c.w_zero.values[m] == c.w_zero.values[0];
    if (one_zero) c.w_zero.count = 1;
    lanes l;
    if (!lanes_make(&l, &c)) return QN_NO_MEMORY;
    int64_t k = depth * c.kernel[0] * c.kernel[1], macs = times(times(pixels, c.images), times(c.outputs, k));
    qn_outcome outcome;
    bool few = outputs <= FEW_OUTPUTS || outputs * depth <= FEW_PAIRS, tall = c.kernel[0] > 1 || depth == 1;
    if (few && tall && k > 0 && k <= (INT32_MAX - bias) / LARGEST) {
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
