/* Output column c and filter column j read input column c * stride + j * dilation - left. So a row of the image is laid
 * out as lanes: a lane holds the columns with the same remainder by the stride, and for every j the columns that
 * neighbouring c read are neighbours in a lane. Outside the image a lane holds the zero point.
 *
 * Products: the weight is the left matrix. The patches of a window of results are the right matrix, with one row for
 * each element of a filter. The rows of the image that a window reads are laid out in lanes of bytes, and the packer
 * copies from them: the patches are never in memory.
 *
 * Sums, where so few channels use the same patches that packing them would cost more: for a band of rows of results, or
 * for several channels of a small image, codes are laid out as int16 less the zero point, the rows in lanes as the
 * columns are, one row after the other with only the padding between them. So the results are one long row; its
 * vectors also compute the gaps between two rows of results, which are dropped.
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
    WINDOWS_A_THREAD = 2, /* windows for each thread, unless they would be too small */
    SMALLEST_WINDOW = 64, /* columns: with fewer, packing the weight again costs too much */
    FEW_OUTPUTS = 4,      /* of a channel group: up to so many sums are faster */
    FEW_PAIRS = 64,       /* input channels times output channels: up to so many sums are faster */
    BAND = 16 << 10,      /* bytes of rows laid out: half of the L1 cache */
    FEWEST_ROWS = 8,      /* rows of results of a band, even if their input exceeds BAND */
    LARGEST = 255 * 255,  /* product of two codes, at most */
    SUMS_A_BYTE = 4,      /* products in the time of a byte of memory traffic */
};

static int64_t times(int64_t a, int64_t b) { /* INT64_MAX if it overflows */
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

/* The rows or columns of the image that the filter reads: element t of a lane is row or column first + t * stride. */
typedef struct {
    int64_t count, stride;
    int64_t longest;         /* elements of a lane */
    int64_t *first, *length; /* [count] */
    int64_t *begin, *end;    /* [count] elements inside the image */
    /* [filter] element j reads start[j] + c of lane[j], which is at[j] + c of all lanes one after the other, with
     * QN_REACH elements after each. */
    int64_t *lane, *start, *at;
} lanes;

static bool lanes_make(lanes *l, const qn_conv *c, int d, int64_t stride, int64_t results) {
    int64_t filter = c->filter[d], size = d ? c->width : c->height;
    *l = (lanes){.stride = stride, .first = allocate(filter, 7 * sizeof *l->first)};
    if (!l->first) return false;
    l->length = l->first + filter, l->begin = l->length + filter, l->end = l->begin + filter;
    l->lane = l->end + filter, l->start = l->lane + filter, l->at = l->start + filter;
    for (int64_t j = 0, n; j < filter; j++) {
        int64_t place = j * c->dilation[d] - (d ? c->left : c->top);
        for (n = 0; n < l->count; n++)
            if ((place - l->first[n]) % stride == 0 && (place - l->first[n]) / stride <= l->length[n]) break;
        if (n == l->count) l->first[l->count++] = place;
        l->lane[j] = n, l->start[j] = (place - l->first[n]) / stride;
        l->length[n] = l->start[j] + results, l->longest = most(l->longest, l->length[n]);
    }
    if (times(l->count, l->longest + QN_REACH) > INT64_MAX / 8) return free(l->first), l->first = NULL, false;
    for (int64_t j = 0; j < filter; j++) l->at[j] = l->lane[j] * (l->longest + QN_REACH) + l->start[j];
    for (int64_t n = 0; n < l->count; n++) {
        int64_t from = l->first[n];
        l->begin[n] = least(l->length[n], from < 0 ? (stride - 1 - from) / stride : 0);
        l->end[n] = from < size ? most(l->begin[n], least(l->length[n], (size - 1 - from) / stride + 1)) : l->begin[n];
    }
    return true;
}

/* ---- products with patches ---- */

typedef struct {
    const qn_conv *c;
    lanes lanes;   /* of columns */
    int64_t line;  /* bytes of all lanes of a row */
    bool in_place; /* the image is the right matrix */
    int64_t depth, outputs, k, pixels;
    int64_t window, windows; /* columns of a window; windows of each image and channel group */
    int64_t gap, rows;       /* a window reads every gap-th row of the padded image, so many */
    atomic_int outcome;
} products;

/* Buffers of one thread, and the window that they hold. */
typedef struct {
    const products *p;
    int64_t first, low, high; /* first result; rows of the image, counted in gaps from the padding above */
    qn_packed *patches;
    float *ones;
    uint8_t *rows;    /* [depth][high - low][lanes] */
    uint8_t *outside; /* lanes of a row outside the image */
} window;

static void lay_row(const products *p, const char *from, uint8_t *to) {
    const qn_conv *c = p->c;
    const lanes *l = &p->lanes;
    int64_t step = l->stride * c->x_step[3];
    for (int64_t n = 0; n < l->count; n++, to += l->longest + QN_REACH) {
        int64_t begin = l->begin[n], end = l->end[n], count = end - begin;
        const char *x = from + (l->first[n] + begin * l->stride) * c->x_step[3];
        memset(to, c->x_zero, (size_t)begin);
        if (step == 1) memcpy(to + begin, x, (size_t)count);
        else if (step == 2)
            for (int64_t t = 0; t < count; t++) to[begin + t] = (uint8_t)x[2 * t];
        else
            for (int64_t t = 0; t < count; t++) to[begin + t] = (uint8_t)x[t * step];
        memset(to + end, c->x_zero, (size_t)(l->longest - end));
    }
}

static void lay_rows(window *w, const char *x, int64_t count) {
    const products *p = w->p;
    const qn_conv *c = p->c;
    int64_t step = c->stride[0] / p->gap, bottom = (w->first + count - 1) / c->out_width * step;
    w->low = most(w->first / c->out_width * step, (c->top + p->gap - 1) / p->gap);
    w->high =
        least(bottom + (c->filter[0] - 1) * c->dilation[0] / p->gap + 1, (c->height + c->top + p->gap - 1) / p->gap);
    w->high = most(w->low, w->high);
    uint8_t *to = w->rows;
    for (int64_t d = 0; d < p->depth; d++)
        for (int64_t row = w->low; row < w->high; row++, to += p->line)
            lay_row(p, x + d * c->x_step[1] + (row * p->gap - c->top) * c->x_step[2], to);
}

/* The results of one row that a line of the packer holds, from byte `at` on. */
typedef struct {
    int64_t row, column, at; /* row of the padded image, in gaps, that the first row of the filter reads */
} stretch;

static void gather(const void *context, int64_t k, int64_t column, int64_t rows, int64_t columns, uint8_t *to) {
    const window *w = context;
    const qn_conv *c = w->p->c;
    stretch all[QN_GATHERED], *s = all;
    int64_t row = (w->first + column) / c->out_width, at = (w->first + column) % c->out_width;
    for (int64_t n = 0; n < columns; n += c->out_width - at, row++, at = 0)
        *s++ = (stretch){row * (c->stride[0] / w->p->gap), at, n};
    int64_t width = c->filter[1], d = k / width / c->filter[0], i = k / width % c->filter[0], j = k % width;
    int64_t line = w->p->line, apart = c->dilation[0] / w->p->gap;
    const int64_t *at_element = w->p->lanes.at;
    for (const uint8_t *end = to + rows * QN_GATHERED; to < end; j = 0) {
        const uint8_t *plane = w->rows + d * (w->high - w->low) * line, *from[QN_GATHERED];
        for (int64_t t = 0; t < s - all; t++) {
            int64_t y = all[t].row + i * apart;
            bool outside = y < w->low || y >= w->high;
            from[t] = (outside ? w->outside : plane + (y - w->low) * line) + all[t].column;
        }
        /* A copy writes past the end of its stretch; the next one overwrites that. */
        for (; j < width && to < end; j++, to += QN_GATHERED) {
            memcpy(to, from[0] + at_element[j], QN_GATHERED);
            for (int64_t t = 1; t < s - all; t++) memcpy(to + all[t].at, from[t] + at_element[j], QN_GATHERED);
        }
        if (++i == c->filter[0]) i = 0, d++;
    }
}

static void window_free(window *w) {
    qn_packed_free(w->patches);
    free(w->ones), free(w->rows);
}

static bool window_make(window *w, const products *p) {
    int64_t bytes = times(times(p->depth, p->rows), p->line);
    *w = (window){.p = p, .patches = qn_packed_make(p->k, p->window)};
    w->ones = allocate(p->window, sizeof *w->ones);
    bytes = bytes < INT64_MAX / 2 ? bytes + p->line + 2 * QN_GATHERED : INT64_MAX;
    w->rows = allocate(p->in_place ? 1 : bytes, 1);
    if (!w->patches || !w->ones || !w->rows) return window_free(w), false;
    for (int64_t n = 0; n < p->window; n++) w->ones[n] = 1.0f;
    if (p->in_place) return true;
    w->outside = w->rows + bytes - p->line - QN_GATHERED;
    memset(w->outside, p->c->x_zero, (size_t)p->line);
    return true;
}

static qn_outcome multiply_window(window *w, int64_t image, int64_t channel_group, int64_t first) {
    const products *p = w->p;
    const qn_conv *c = p->c;
    int64_t count = least(p->window, p->pixels - first), channel = channel_group * p->outputs;
    int64_t to = (image * c->outputs + channel) * p->pixels + first;
    const char *x = c->x + image * c->x_step[0] + channel_group * p->depth * c->x_step[1];
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
        int64_t channel_group = n / p->windows % p->c->channel_groups, image = n / p->windows / p->c->channel_groups;
        qn_outcome outcome = multiply_window(&w, image, channel_group, n % p->windows * p->window);
        if (outcome) atomic_store(&p->outcome, outcome);
    }
    window_free(&w);
}

static qn_outcome convolve_by_products(products *p, int64_t macs) {
    const qn_conv *c = p->c;
    if (!lanes_make(&p->lanes, c, 1, c->stride[1], c->out_width)) return QN_NO_MEMORY;
    p->line = p->lanes.count * (p->lanes.longest + QN_REACH);
    int64_t threads = qn_num_threads(), pieces = threads > 1 ? WINDOWS_A_THREAD * threads : 1;
    int64_t share = (times(p->pixels, c->images * c->channel_groups) + pieces - 1) / pieces,
            whole = round_up(p->pixels, QN_GATHERED);
    p->window = most(SMALLEST_WINDOW, WINDOW / most(p->k, 1) / QN_GATHERED * QN_GATHERED);
    p->window = least(whole, least(p->window, most(SMALLEST_WINDOW, round_up(share, QN_GATHERED))));
    p->windows = (p->pixels + p->window - 1) / p->window;
    int64_t above = (p->window + c->out_width - 2) / c->out_width;
    p->gap = common_divisor(c->stride[0], c->filter[0] > 1 ? c->dilation[0] : 0);
    p->rows = least(c->height, above * c->stride[0] + (c->filter[0] - 1) * c->dilation[0]) / p->gap + 1;
    bool alone = c->filter[0] == 1 && c->filter[1] == 1 && c->stride[0] == 1 && c->stride[1] == 1;
    p->in_place = alone && !c->top && !c->left && c->out_height == c->height && c->out_width == c->width &&
                  (c->height == 1 || c->x_step[2] == c->width * c->x_step[3]);
    qn_tiling tiling;
    qn_kernels()->matmul_tiling(&tiling);
    qn_parallel_for(c->images * c->channel_groups * p->windows, 1, macs / tiling.macs_a_byte, multiply_windows, p);
    free(p->lanes.first);
    return (qn_outcome)atomic_load(&p->outcome);
}

/* ---- sums over rows ---- */

typedef struct {
    const qn_conv *c;
    int64_t depth, outputs, k;
    lanes columns, rows;
    int step; /* from result to result in a lane: 2 with stride 2, which keeps its columns in one lane, else 1 */
    int64_t band, bands;   /* rows of results of a band; bands of each image and channel group */
    int64_t together;      /* channel groups laid out together, if one band has all rows */
    int64_t line, segment; /* elements from line to line; elements of one lane of columns in one lane of rows */
    int64_t plane;         /* elements of a channel */
    int64_t taps, *tap;    /* of an output channel; [taps] offset in the planes of its channel group */
    int64_t *even, *odd;   /* [k] index of a weight in the weights of all taps */
    atomic_int outcome;
} sums;

/* Buffers of one thread. */
typedef struct {
    int16_t *x; /* [together][depth][plane], 0 outside the image */
    int16_t *w; /* [together][outputs][taps][4] */
    void *flat; /* results of a channel, rows line / step apart: with wide padding less than out_width */
} buffers;

static int64_t band_capacity(const sums *s, int64_t elements) {
    return most(1, BAND / times(s->depth, times(elements, sizeof(int16_t))));
}

static bool plan_planes(sums *s) {
    const qn_conv *c = s->c;
    lanes *l = &s->columns;
    s->step = c->stride[1] == 2 ? 2 : 1;
    if (!lanes_make(l, c, 1, c->stride[1] / s->step, (c->out_width - 1) * s->step + 1)) return false;
    for (int64_t n = 0; n < l->count; n++) { /* the padding after a row is also that before the next */
        int64_t padding = l->begin[n] < l->end[n] ? least(l->begin[n], l->longest - l->end[n]) : 0;
        s->line = most(s->line, round_up(l->longest - padding, s->step));
    }
    int64_t height = times(l->count * s->line, least(c->filter[0], c->stride[0]));
    int64_t rows = least(c->out_height, most(FEWEST_ROWS, band_capacity(s, height)));
    s->bands = (c->out_height + rows - 1) / rows, s->band = (c->out_height + s->bands - 1) / s->bands;
    if (!lanes_make(&s->rows, c, 0, c->stride[0], s->band)) return false;
    int64_t lines = s->rows.longest, segments = s->rows.count * l->count;
    if (times(times(s->depth, segments), times(lines + 1, s->line + QN_REACH)) > INT64_MAX / 8) return false;
    s->segment = (lines - 1) * s->line + l->longest + QN_REACH, s->plane = segments * s->segment;
    s->together = s->bands == 1 ? band_capacity(s, s->plane) : 1;
    return true;
}

/* A tap adds x[0] w[0] + x[1] w[1] to an even result. An odd result lies one element further; the tap adds x[-1] w[2] +
 * x[0] w[3] to it, so that one load serves both. With step 2 all results are even. */
static bool plan_taps(sums *s) {
    const lanes *l = &s->columns;
    int64_t width = s->c->filter[1], height = s->c->filter[0], taps = 0;
    s->tap = allocate(s->k, 3 * sizeof *s->tap);
    if (!s->tap) return false;
    s->even = s->tap + s->k, s->odd = s->even + s->k;
    for (int64_t n = 0; n < l->count; n++)
        for (int64_t j = 0, last = -2; j < width; j++) {
            if (l->lane[j] != n) continue;
            int64_t at = l->start[j], in_lane = n * s->segment;
            if (at > last + 1) s->tap[taps++] = in_lane + (last = at);
            s->even[j] = s->odd[j] = 4 * (taps - 1) + at - last;
            if (s->step == 2) continue;
            if (at > last) s->tap[taps++] = in_lane + (last = at + 1);
            s->odd[j] = 4 * (taps - 1) + 3 + at - last;
        }
    for (int64_t m = 1; m < s->depth * height; m++) { /* the other rows of the filter like the first one */
        int64_t i = m % height;
        int64_t at = m / height * s->plane + s->rows.lane[i] * l->count * s->segment + s->rows.start[i] * s->line;
        for (int64_t t = 0; t < taps; t++) s->tap[m * taps + t] = at + s->tap[t];
        for (int64_t j = 0; j < width; j++) {
            s->even[m * width + j] = s->even[j] + m * taps * 4;
            s->odd[m * width + j] = s->odd[j] + m * taps * 4;
        }
    }
    s->taps = s->depth * height * taps;
    return true;
}

static void buffers_free(buffers *b) { free(b->x), free(b->w), free(b->flat); }

static bool buffers_make(buffers *b, const sums *s) {
    int64_t results = s->band * (s->line / s->step) + s->c->out_width; /* plan_planes checked the size */
    b->x = allocate(s->together * s->depth * s->plane + QN_REACH + 2 * QN_RESULTS, sizeof *b->x);
    b->w = allocate(times(s->together, s->outputs), times(s->taps, 4 * sizeof *b->w));
    b->flat = allocate(results + QN_RESULTS, s->c->type == QN_I32 ? sizeof(int32_t) : 1);
    if (b->x && b->w && b->flat) return true;
    return buffers_free(b), false;
}

/* Lays out planes of neighbouring channels, for rows of results from `row` on. */
static void lay_planes(const sums *s, const char *x, int64_t row, int64_t planes, int16_t *to) {
    const qn_conv *c = s->c;
    const lanes *l = &s->columns, *r = &s->rows;
    qn_wide_rows p = {.x_plane = c->x_step[1], .x_row = c->x_step[2], .x_step = l->stride * c->x_step[3]};
    p.is_signed = c->x_type == QN_I8, p.zero_point = c->x_zero, p.height = c->height, p.gap = r->stride;
    p.planes = planes, p.plane = s->plane, p.line = s->line;
    for (int64_t i = 0; i < r->count; i++)
        for (int64_t n = 0; n < l->count; n++) {
            int64_t column = (l->first[n] + l->begin[n] * l->stride) * c->x_step[3];
            p.n = l->end[n] - l->begin[n], p.row = row * c->stride[0] + r->first[i], p.lines = r->length[i];
            p.x = (const uint8_t *)x + column, p.room = c->x_bytes ? c->x_bytes - (x - c->x) - column : 0;
            p.to = to + (i * l->count + n) * s->segment + l->begin[n];
            if (p.n > 0) qn_kernels()->widen_image_rows(&p);
        }
}

static void lay_weights(const sums *s, int64_t channel, int64_t channels, int16_t *to) {
    const qn_conv *c = s->c;
    for (int64_t m = channel; m < channel + channels; m++, to += 4 * s->taps) {
        int32_t zero = c->w_zero.values[c->w_zero.count > 1 ? m : 0];
        const uint8_t *w = (const uint8_t *)c->w + m * s->k;
        for (int64_t k = 0; k < s->k; k++)
            to[s->even[k]] = to[s->odd[k]] = (int16_t)((c->w_type == QN_I8 ? (int8_t)w[k] : w[k]) - zero);
    }
}

static void sum_band(const sums *s, const buffers *b, int64_t image, int64_t channel_group, int64_t channel_groups,
                     int64_t row) {
    const qn_conv *c = s->c;
    int64_t channel = channel_group * s->outputs,
            at = ((image * c->outputs + channel) * c->out_height + row) * c->out_width;
    qn_dot_rows d = {.x = b->x, .x_step = s->depth * s->plane, .line = s->line, .step = s->step};
    d.w = b->w, d.tap = s->tap, d.taps = s->taps, d.inputs = channel_groups, d.outputs = s->outputs,
    d.start = c->bias ? c->bias + channel : NULL;
    d.rows = least(s->band, c->out_height - row), d.n = c->out_width, d.flat = b->flat;
    d.y = (char *)c->y + at * (c->type == QN_I32 ? (int64_t)sizeof(int32_t) : 1), d.y_step = c->out_height * d.n;
    d.type = c->type, d.scale = c->scale ? c->scale + channel : NULL;
    d.zero_point = c->zero_point, d.qmin = c->qmin, d.qmax = c->qmax;
    qn_kernels()->dot_rows(&d);
}

static void sum_bands(void *context, int64_t begin, int64_t end) {
    sums *s = context;
    const qn_conv *c = s->c;
    buffers b;
    if (!buffers_make(&b, s)) {
        atomic_store(&s->outcome, QN_NO_MEMORY);
        return;
    }
    uint64_t modes = qn_fp_begin();
    for (int64_t n = begin, count; n < end; n += count) {
        int64_t channel_group = n / s->bands % c->channel_groups, image = n / s->bands / c->channel_groups,
                row = n % s->bands * s->band;
        count = least(s->together, least(end - n, c->channel_groups - channel_group));
        const char *x = c->x + image * c->x_step[0] + channel_group * s->depth * c->x_step[1];
        lay_planes(s, x, row, count * s->depth, b.x);
        lay_weights(s, channel_group * s->outputs, count * s->outputs, b.w);
        sum_band(s, &b, image, channel_group, count, row);
    }
    qn_fp_end(modes);
    buffers_free(&b);
}

static qn_outcome convolve_by_sums(sums *s, int64_t macs) {
    const qn_conv *c = s->c;
    atomic_store(&s->outcome, QN_NO_MEMORY);
    if (plan_planes(s) && plan_taps(s)) {
        atomic_store(&s->outcome, QN_DONE);
        int64_t pixels = times(c->images * c->channel_groups, c->out_height * c->out_width);
        qn_parallel_for(c->images * c->channel_groups * s->bands, 1, most(macs / SUMS_A_BYTE, pixels), sum_bands, s);
    }
    free(s->columns.first), free(s->rows.first), free(s->tap);
    return (qn_outcome)atomic_load(&s->outcome);
}

/* ---- the choice ---- */

qn_outcome qn_convolve(const qn_conv *convolution) {
    qn_conv c = *convolution;
    int64_t pixels = c.out_height * c.out_width, bias = 0, depth = c.channels / c.channel_groups,
            outputs = c.outputs / c.channel_groups;
    if (c.images == 0 || c.outputs == 0 || pixels == 0) return QN_DONE;
    for (int d = 0; d < 2; d++)
        if ((d ? c.out_width : c.out_height) == 1) c.stride[d] = 1; /* the stride has no effect */
    for (int64_t m = 0; c.bias && m < c.outputs; m++) bias = most(bias, llabs((long long)c.bias[m]));
    bool one_zero = true;
    for (int64_t m = 1; m < c.w_zero.count; m++) one_zero = one_zero && c.w_zero.values[m] == c.w_zero.values[0];
    if (one_zero) c.w_zero.count = 1;
    int64_t k = depth * c.filter[0] * c.filter[1], macs = times(times(pixels, c.images), times(c.outputs, k));
    bool few = outputs <= FEW_OUTPUTS || outputs * depth <= FEW_PAIRS, tall = c.filter[0] > 1 || depth == 1;
    if (few && tall && k > 0 && k <= (INT32_MAX - bias) / LARGEST) {
        sums s = {.c = &c, .depth = depth, .outputs = outputs, .k = k};
        return convolve_by_sums(&s, macs);
    }
    products p = {.c = &c, .depth = depth, .outputs = outputs, .k = k, .pixels = pixels};
    return convolve_by_products(&p, macs);
}
