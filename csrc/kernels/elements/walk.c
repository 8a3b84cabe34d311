#include "walk.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "threads.h"

enum {
    TILE = QN_TILE,
    WIDE = 4096,     /* columns whose parameters are laid out, or whose ranges are kept, at a time */
    AHEAD = 2048,    /* prefetch distance in elements: two pages of float32 */
    SHORT_RUN = 32,  /* channels with fewer neighbours are walked with one parameter for each element */
    GRAIN = 1 << 14, /* elements below which a piece is not worth handing to another thread */
};

typedef struct walk walk;
typedef struct {
    qn_type type;
    const qn_float_limits *limits;
    qn_float_error *sums;
} float_error;
typedef void (*span_function)(const walk *w, int64_t start, int64_t n, const qn_affine *p);

struct walk {
    const qn_source *source;
    qn_grid grid;
    qn_affine params;
    int64_t total;
    qn_type out_type;
    char *out;
    size_t out_size;
    span_function span;
    bool in_place;       /* the kernel reads the input and writes the output where they lie; else tile by tile */
    qn_range *ranges;    /* min/max only */
    atomic_bool *lack;   /* of memory, min/max only */
    const qn_cast *cast; /* casts only */
    const float_error *error;
    pthread_mutex_t *merge;
    int64_t row; /* elements after which the parameters start again or move on */
    int64_t columns_begin, columns_end;
};

static const size_t itemsizes[QN_TYPE_COUNT] = {
#define ITEMSIZE(_, tag, NAME, name, bits, exponent, mantissa, bias, kind) [QN_##NAME] = bits / 8,
    QN_FLOATS(ITEMSIZE, _)
#undef ITEMSIZE
        [QN_I8] = 1,
    [QN_U8] = 1,
    [QN_I16] = 2,
    [QN_U16] = 2,
    [QN_I32] = 4,
    [QN_I4] = 1,
    [QN_U4] = 1,
    [QN_I2] = 1,
    [QN_U2] = 1,
};

size_t qn_itemsize(qn_type type) { return itemsizes[type]; }

static int64_t blocks(const qn_grid *g) { return g->block ? (g->channels + g->block - 1) / g->block : 0; }

int64_t qn_grid_params(const qn_grid *g) { return g->block ? g->outer * blocks(g) * g->inner : g->channels; }

/* ---- staging ---- */

static void copy_strided(char *to, const char *from, int64_t stride, int64_t n, size_t size) {
#define COPY(type)                                                                                                     \
    for (int64_t i = 0; i < n; i++) memcpy(to + (size_t)i * sizeof(type), from + i * stride, sizeof(type))
    switch (size) {
    case 1: COPY(uint8_t); break;
    case 2: COPY(uint16_t); break;
    case 4: COPY(uint32_t); break;
    default: COPY(uint64_t);
    }
#undef COPY
}

static void swap_bytes(char *p, int64_t n, size_t size) {
#define SWAP(type, swap)                                                                                               \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
        type v;                                                                                                        \
        memcpy(&v, p + (size_t)i * sizeof v, sizeof v);                                                                \
        v = (type)swap(v);                                                                                             \
        memcpy(p + (size_t)i * sizeof v, &v, sizeof v);                                                                \
    }
    if (size == 2) SWAP(uint16_t, __builtin_bswap16)
    else if (size == 4) SWAP(uint32_t, __builtin_bswap32)
    else if (size == 8) SWAP(uint64_t, __builtin_bswap64)
#undef SWAP
}

void qn_gather(const qn_source *s, int64_t start, int64_t n, void *tile) {
    int64_t index[QN_MAX_DIMS], rest = start;
    const char *p = s->data;
    char *to = tile;
    for (int d = s->ndim - 1; d >= 0; d--) {
        index[d] = rest % s->shape[d];
        rest /= s->shape[d];
        p += index[d] * s->strides[d];
    }
    int last = s->ndim - 1;
    for (int64_t left = n; left > 0;) {
        int64_t run = last < 0 ? 1 : s->shape[last] - index[last];
        if (run > left) run = left;
        copy_strided(to, p, last < 0 ? 0 : s->strides[last], run, s->itemsize);
        to += (size_t)run * s->itemsize;
        left -= run;
        for (int d = last; d >= 0 && left > 0; d--) { /* carry into the outer indices */
            int64_t step = d == last ? run : 1;
            p += step * s->strides[d];
            if ((index[d] += step) < s->shape[d]) break;
            p -= index[d] * s->strides[d];
            index[d] = 0;
        }
    }
    if (s->swapped) swap_bytes(tile, n, s->itemsize);
}

typedef union {
    double align;
    char bytes[TILE * sizeof(double)];
} tile;

/* Elements [start, start + n) of the source in their own type: in place, or gathered. */
static const void *raw(const walk *w, int64_t start, int64_t n, tile *t) {
    if (w->source->direct) return w->source->data + (size_t)start * w->source->itemsize;
    qn_gather(w->source, start, n, t);
    return t;
}

static void widen(qn_type type, const void *h, float *x, int64_t n, const qn_cast *p) {
    switch (type) {
#define WIDEN(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                                \
    case QN_##NAME: qn_kernels()->widen_##tag##_f32(h, x, n, p); break;
        QN_NARROW_FLOATS(WIDEN, _)
#undef WIDEN
    default: break;
    }
}

void qn_narrow(qn_type type, const float *x, void *h, int64_t n, const qn_cast *p) {
    switch (type) {
#define NARROW(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                               \
    case QN_##NAME: qn_kernels()->narrow_f32_##tag(x, h, n, p); break;
        QN_NARROW_FLOATS(NARROW, _)
#undef NARROW
    default: break;
    }
}

static const qn_cast plain_cast = {0};

/* The same, widened to float32 where the type is narrower. */
static const float *floats(const walk *w, int64_t start, int64_t n, tile *t, float *wide) {
    const void *x = raw(w, start, n, t);
    if (w->source->type == QN_F32) return x;
    widen(w->source->type, x, wide, n, &plain_cast);
    return wide;
}

static void put_floats(const walk *w, int64_t start, int64_t n, const float *x) {
    if (w->out_type == QN_F64) qn_kernels()->widen_f32_f64(x, (double *)w->out + start, n, &plain_cast);
    else qn_narrow(w->out_type, x, w->out + (size_t)start * w->out_size, n, &plain_cast);
}

const float *qn_floats_at(const qn_source *source, int64_t start, int64_t n, float *buffer) {
    tile t;
    const walk w = {.source = source};
    if (source->type == QN_F32) {
        if (source->direct) return (const float *)source->data + start;
        qn_gather(source, start, n, buffer);
    } else {
        const void *x = raw(&w, start, n, &t);
        if (source->type == QN_F64) qn_kernels()->odd_f64_f32(x, buffer, n);
        else widen(source->type, x, buffer, n, &plain_cast);
    }
    return buffer;
}

static qn_affine advanced(const qn_affine *p, int64_t by) {
    qn_affine a = *p;
    if (a.run) {
        a.phase += by;
    } else {
        a.scale += by, a.zero_point += by;
        if (a.multiplier) a.multiplier += by, a.shift += by;
    }
    return a;
}

/* Calls function(w, start, n, p) on tiles of a span of one row. */
static void by_tiles(const walk *w, int64_t start, int64_t n, const qn_affine *p, span_function function) {
    for (int64_t at = 0; at < n; at += TILE) {
        qn_affine a = advanced(p, at);
        function(w, start + at, n - at < TILE ? n - at : TILE, &a);
    }
}

/* ---- spans: one for each operation ---- */

static void put_codes(const walk *w, int64_t start, int64_t n, const int32_t *codes) {
    switch (w->out_type) {
    case QN_I16: qn_kernels()->narrow_i32_i16(codes, (int16_t *)w->out + start, n); break;
    case QN_U16: qn_kernels()->narrow_i32_u16(codes, (uint16_t *)w->out + start, n); break;
    case QN_U8: qn_kernels()->narrow_i32_u8(codes, (uint8_t *)w->out + start, n); break;
    default: qn_kernels()->narrow_i32_i8(codes, (int8_t *)w->out + start, n);
    }
}

static bool is_float(qn_type type) { return type < QN_I8; }

/* Codes that are floats: the quotient, saturated. */
static void narrow_quotient(const walk *w, const float *quotient, int64_t start, int64_t n) {
    const qn_cast saturating = {.saturate = true};
    qn_narrow(w->out_type, quotient, w->out + start, n, &saturating);
}

static void quantize_floats(const walk *w, const float *x, int64_t start, int64_t n, const qn_affine *p) {
    const qn_table *k = qn_kernels();
    if (is_float(w->out_type)) { /* then n is at most a tile */
        float quotient[TILE];
        k->divide_f32(x, quotient, n, p);
        narrow_quotient(w, quotient, start, n);
        return;
    }
    switch (w->out_type) {
    case QN_I16: k->quantize_f32_i16(x, (int16_t *)w->out + start, n, p); break;
    case QN_U16: k->quantize_f32_u16(x, (uint16_t *)w->out + start, n, p); break;
    case QN_U8: k->quantize_f32_u8(x, (uint8_t *)w->out + start, n, p); break;
    default: k->quantize_f32_i8(x, (int8_t *)w->out + start, n, p);
    }
}

static void quantize_tile(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    tile t;
    float wide[TILE];
    if (w->source->type == QN_F64 && is_float(w->out_type)) {
        double quotient[TILE];
        qn_kernels()->divide_f64(raw(w, start, n, &t), quotient, n, p);
        qn_kernels()->odd_f64_f32(quotient, wide, n);
        narrow_quotient(w, wide, start, n);
    } else if (w->source->type == QN_F64) {
        int32_t codes[TILE];
        qn_kernels()->quantize_f64_i32(raw(w, start, n, &t), codes, n, p);
        put_codes(w, start, n, codes);
    } else {
        quantize_floats(w, floats(w, start, n, &t, wide), start, n, p);
    }
}

static void quantize_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place) quantize_floats(w, (const float *)w->source->data + start, start, n, p);
    else by_tiles(w, start, n, p, quantize_tile);
}

static void dequantize_codes(qn_type type, const void *q, float *x, int64_t n, const qn_affine *p) {
    const qn_table *k = qn_kernels();
    switch (type) {
    case QN_U8: k->dequantize_u8_f32(q, x, n, p); break;
    case QN_I16: k->dequantize_i16_f32(q, x, n, p); break;
    case QN_U16: k->dequantize_u16_f32(q, x, n, p); break;
    case QN_I32: k->dequantize_i32_f32(q, x, n, p); break;
    case QN_I4: k->dequantize_i4_f32(q, x, n, p); break;
    case QN_U4: k->dequantize_u4_f32(q, x, n, p); break;
    case QN_I2: k->dequantize_i2_f32(q, x, n, p); break;
    case QN_U2: k->dequantize_u2_f32(q, x, n, p); break;
    default: k->dequantize_i8_f32(q, x, n, p);
    }
}

static void dequantize_tile(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    tile t;
    float wide[TILE];
    float *x = w->out_type == QN_F32 ? (float *)w->out + start : wide;
    if (is_float(w->source->type)) {
        float codes[TILE];
        qn_kernels()->multiply_f32(floats(w, start, n, &t, codes), x, n, p);
    } else {
        dequantize_codes(w->source->type, raw(w, start, n, &t), x, n, p);
    }
    if (x == wide) put_floats(w, start, n, wide);
}

static void dequantize_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place)
        dequantize_codes(w->source->type, w->source->data + (size_t)start * w->source->itemsize,
                         (float *)w->out + start, n, p);
    else by_tiles(w, start, n, p, dequantize_tile);
}

static void fake_quantize_tile(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    tile t;
    float wide[TILE], narrow[TILE];
    float *y = w->out_type == QN_F32 ? (float *)w->out + start : narrow;
    if (w->source->type == QN_F64) {
        int32_t codes[TILE];
        qn_kernels()->quantize_f64_i32(raw(w, start, n, &t), codes, n, p);
        qn_kernels()->dequantize_i32_f32(codes, y, n, p);
    } else {
        qn_kernels()->fake_quantize_f32(floats(w, start, n, &t, wide), y, n, p);
    }
    if (y == narrow) put_floats(w, start, n, narrow);
}

static void fake_quantize_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place)
        qn_kernels()->fake_quantize_f32((const float *)w->source->data + start, (float *)w->out + start, n, p);
    else by_tiles(w, start, n, p, fake_quantize_tile);
}

static void requantize_acc(const walk *w, const int32_t *acc, int64_t start, int64_t n, const qn_affine *p) {
    const qn_table *k = qn_kernels();
    switch (w->out_type) {
    case QN_I16: k->requantize_i32_i16(acc, (int16_t *)w->out + start, n, p); break;
    case QN_U16: k->requantize_i32_u16(acc, (uint16_t *)w->out + start, n, p); break;
    case QN_U8: k->requantize_i32_u8(acc, (uint8_t *)w->out + start, n, p); break;
    default: k->requantize_i32_i8(acc, (int8_t *)w->out + start, n, p);
    }
}

static void requantize_tile(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    tile t;
    const int32_t *acc = raw(w, start, n, &t);
    if (p->method == QN_FLOAT) {
        requantize_acc(w, acc, start, n, p);
    } else {
        int32_t codes[TILE];
        qn_kernels()->requantize_fixed_i32(acc, codes, n, p);
        put_codes(w, start, n, codes);
    }
}

static void requantize_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place) requantize_acc(w, (const int32_t *)w->source->data + start, start, n, p);
    else by_tiles(w, start, n, p, requantize_tile);
}

/* ---- casts: all but float64 to itself by way of float32 ---- */

static qn_cast cast_of(const walk *w, int64_t start, const qn_affine *p) {
    qn_cast c = *w->cast;
    c.index = start, c.stream = p->stream;
    return c;
}

static void cast_floats(const walk *w, const float *x, int64_t start, int64_t n, const qn_cast *c) {
    void *out = w->out + (size_t)start * w->out_size;
    if (w->out_type == QN_F64) qn_kernels()->widen_f32_f64(x, out, n, c);
    else if (w->out_type == QN_F32) qn_kernels()->copy_f32_f32(x, out, n, c);
    else qn_narrow(w->out_type, x, out, n, c);
}

static double largest_of(qn_float_kind kind, int exponent, int mantissa, int bias) {
    int field = (1 << exponent) - (kind == QN_IEEE || kind == QN_SCALE ? 2 : 1);
    return ldexp(2 - ldexp(kind == QN_FN ? 2 : 1, -mantissa), field - bias);
}

static double largest(qn_type type) {
    switch (type) {
#define LARGEST(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                              \
    case QN_##NAME: return largest_of(kind, exponent, mantissa, bias);
        QN_NARROW_FLOATS(LARGEST, _)
#undef LARGEST
    default: return INFINITY;
    }
}

/* The first of two steps to a format, both by chance: the mean is still x. Beyond the largest number to odd instead, as
 * the second step is to the nearest there and what overflows must not depend on chance. */
static void random_f64_f32(const double *x, float *wide, int64_t n, qn_type type, const qn_cast *c) {
    const double most = largest(type);
    qn_kernels()->narrow_f64_f32(x, wide, n, c);
    for (int64_t i = 0; i < n; i++)
        if (fabs(x[i]) > most) qn_kernels()->odd_f64_f32(x + i, wide + i, 1);
}

static void cast_tile(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    tile t;
    float wide[TILE];
    const qn_cast c = cast_of(w, start, p);
    const qn_table *k = qn_kernels();
    void *out = w->out + (size_t)start * w->out_size;
    if (w->source->type != QN_F64) {
        cast_floats(w, floats(w, start, n, &t, wide), start, n, &c);
        return;
    }
    const double *x = raw(w, start, n, &t);
    if (w->out_type == QN_F64) k->copy_f64_f64(x, out, n, &c);
    else if (w->out_type == QN_F32) k->narrow_f64_f32(x, out, n, &c);
    else {
        if (c.stochastic) random_f64_f32(x, wide, n, w->out_type, &c);
        else k->odd_f64_f32(x, wide, n);
        qn_narrow(w->out_type, wide, out, n, &c);
    }
}

static void cast_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    const qn_source *s = w->source;
    const qn_cast c = cast_of(w, start, p);
    const void *x = s->data + (size_t)start * s->itemsize;
    if (s->direct && s->type == QN_F32 && w->out_type != QN_F32 && w->out_type != QN_F64)
        qn_narrow(w->out_type, x, w->out + (size_t)start * w->out_size, n, &c);
    else if (s->direct && s->type != QN_F32 && s->type != QN_F64 && w->out_type == QN_F32 && !c.saturate)
        widen(s->type, x, (float *)w->out + start, n, &c);
    else by_tiles(w, start, n, p, cast_tile);
}

/* ---- what a float type does to numbers ---- */

static void float_error_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    const qn_table *k = qn_kernels();
    const qn_type type = w->error->type;
    qn_float_error part = {.least = INFINITY}, *all = w->error->sums;
    tile t, codes;
    float wide[TILE], result[TILE];
    (void)p;
    for (int64_t end = start + n; start < end; start += TILE) {
        int64_t count = end - start < TILE ? end - start : TILE;
        bool f64 = w->source->type == QN_F64;
        const void *x = f64 ? raw(w, start, count, &t) : floats(w, start, count, &t, wide);
        const float *y = x;
        if (type != QN_F32) {
            if (f64) k->odd_f64_f32(x, wide, count);
            qn_narrow(type, f64 ? wide : x, &codes, count, &plain_cast);
            widen(type, &codes, result, count, &plain_cast);
            y = result;
        } else if (f64) {
            k->narrow_f64_f32(x, result, count, &plain_cast);
            y = result;
        }
        if (f64) k->float_error_f64(x, y, count, w->error->limits, &part);
        else k->float_error_f32(x, y, count, w->error->limits, &part);
    }
    pthread_mutex_lock(w->merge);
    all->nan += part.nan, all->infinite += part.infinite, all->overflow += part.overflow, all->zero += part.zero;
    all->subnormal += part.subnormal, all->kept += part.kept, all->relative += part.relative;
    if (part.worst > all->worst) all->worst = part.worst;
    if (part.peak > all->peak) all->peak = part.peak;
    if (part.least < all->least) all->least = part.least;
    pthread_mutex_unlock(w->merge);
}

/* ---- minimum and maximum ---- */

static const qn_range empty_range = {INFINITY, -INFINITY, 0, 0};

static void merge(const walk *w, int64_t k, const qn_range *r) {
    qn_range *to = w->ranges + k;
    if (r->min < to->min) to->min = r->min;
    if (r->max > to->max) to->max = r->max;
    to->nan += r->nan;
    to->infinite += r->infinite;
}

static void min_max_piece(const walk *w, int64_t start, int64_t n, qn_range *r) {
    tile t;
    float wide[TILE];
    const qn_source *s = w->source;
    for (int64_t end = start + n, count; start < end; start += count) {
        bool f64 = s->type == QN_F64, in_place = s->direct && (f64 || s->type == QN_F32);
        count = in_place || end - start < TILE ? end - start : TILE;
        const void *x = f64 ? raw(w, start, count, &t) : floats(w, start, count, &t, wide);
        if (f64) qn_kernels()->min_max_f64(x, count, r);
        else qn_kernels()->min_max_f32(x, count, r);
    }
}

/* Only what is a part of a run waits for the mutex, and that no more than twice. */
static void min_max_span(const walk *w, int64_t start, int64_t n, const qn_affine *p) {
    for (int64_t at = 0, count; at < n; at += count) {
        int64_t pos = p->phase + at, k = pos / p->run;
        qn_range part = empty_range;
        count = p->run - pos % p->run;
        if (count > n - at) count = n - at;
        if (count == p->run) {
            min_max_piece(w, start + at, count, w->ranges + k);
            continue;
        }
        min_max_piece(w, start + at, count, &part);
        pthread_mutex_lock(w->merge);
        merge(w, k, &part);
        pthread_mutex_unlock(w->merge);
    }
}

static void min_max_rectangle(const walk *w, int64_t r0, int64_t r1, int64_t c0, int64_t count, int64_t offset,
                              qn_range *ranges) {
    tile t;
    float wide[TILE];
    const qn_source *s = w->source;
    int64_t start = r0 * w->row + c0;
    for (int64_t i = 0; i < count; i++) ranges[i] = empty_range;
    if (s->direct && s->type == QN_F32) {
        qn_kernels()->min_max_columns_f32((const float *)s->data + start, r1 - r0, w->row, count, ranges);
    } else if (s->direct && s->type == QN_F64) {
        qn_kernels()->min_max_columns_f64((const double *)s->data + start, r1 - r0, w->row, count, ranges);
    } else {
        for (int64_t r = r0; r < r1; r++, start += w->row) {
            if (s->type == QN_F64) qn_kernels()->min_max_columns_f64(raw(w, start, count, &t), 1, 0, count, ranges);
            else qn_kernels()->min_max_columns_f32(floats(w, start, count, &t, wide), 1, 0, count, ranges);
        }
    }
    int64_t repeat = w->grid.block ? 1 : w->grid.inner;
    pthread_mutex_lock(w->merge);
    for (int64_t i = 0; i < count; i++) merge(w, offset + (c0 + i) / repeat, ranges + i);
    pthread_mutex_unlock(w->merge);
}

/* For the columns of a strip; on the stack of a thread they might not fit. */
static qn_range *strip_ranges(const walk *w) {
    int64_t columns = w->columns_end - w->columns_begin;
    qn_range *room = malloc((size_t)(columns < WIDE ? columns : WIDE) * sizeof *room);
    if (!room) atomic_store(w->lack, true);
    return room;
}

/* Rows [r0, r1) of which all share the ranges at `offset`, strip by strip: as wide as a tile where a row is staged. */
static void min_max_strips(const walk *w, int64_t r0, int64_t r1, int64_t offset, qn_range *room) {
    const qn_source *s = w->source;
    int64_t widest = s->direct && (s->type == QN_F32 || s->type == QN_F64) ? WIDE : TILE;
    for (int64_t c0 = w->columns_begin; c0 < w->columns_end; c0 += widest)
        min_max_rectangle(w, r0, r1, c0, w->columns_end - c0 < widest ? w->columns_end - c0 : widest, offset, room);
}

/* ---- the walk ---- */

/* Runs: elements [begin, end) in C order, one parameter for each run of neighbours. */
static void walk_runs(void *context, int64_t begin, int64_t end) {
    const walk *w = context;
    uint64_t saved = qn_fp_begin();
    int64_t params_a_row = w->grid.block ? blocks(&w->grid) : 0;
    for (int64_t at = begin; at < end;) {
        int64_t row = at / w->row, pos = at - row * w->row, n = w->row - pos;
        if (n > end - at) n = end - at;
        qn_affine p = w->params;
        int64_t skip = row * params_a_row;
        if (p.scale) p.scale += skip, p.zero_point += skip;
        if (p.multiplier) p.multiplier += skip, p.shift += skip;
        p.phase = pos + (w->ranges ? skip * p.run : 0);
        w->span(w, at, n, &p);
        at += n;
    }
    qn_fp_end(saved);
}

/* Rows [r0, r1) of which all share the parameters at `offset`, strip by strip. */
static void walk_strips(const walk *w, int64_t r0, int64_t r1, int64_t offset) {
    _Alignas(64) float scale[WIDE];
    _Alignas(64) int32_t zero[WIDE], multiplier[WIDE], shift[WIDE];
    int64_t repeat = w->grid.block ? 1 : w->grid.inner;
    for (int64_t c0 = w->columns_begin; c0 < w->columns_end; c0 += WIDE) {
        int64_t count = w->columns_end - c0 < WIDE ? w->columns_end - c0 : WIDE;
        qn_affine p = w->params;
        for (int64_t i = 0; i < count; i++) {
            int64_t k = offset + (c0 + i) / repeat;
            scale[i] = p.scale[k];
            zero[i] = p.zero_point[k];
            if (p.multiplier) multiplier[i] = p.multiplier[k], shift[i] = p.shift[k];
        }
        p.scale = scale, p.zero_point = zero;
        if (p.multiplier) p.multiplier = multiplier, p.shift = shift;
        p.run = 0, p.rows = 1, p.stride = w->row;
        bool alike = !p.stream || (size_t)w->row * w->out_size % 64 == 0; /* every row is aligned as the first one */
        if (w->in_place && alike) {
            p.rows = r1 - r0;
            w->span(w, r0 * w->row + c0, count, &p);
            continue;
        }
        p.ahead = count < w->row ? w->row : AHEAD; /* what is read next stands one row on */
        for (int64_t r = r0; r < r1; r++) w->span(w, r * w->row + c0, count, &p);
    }
}

static void walk_rows(void *context, int64_t begin, int64_t end) {
    const walk *w = context;
    const qn_grid *g = &w->grid;
    qn_range *room = w->ranges ? strip_ranges(w) : NULL;
    if (w->ranges && !room) return;
    uint64_t saved = qn_fp_begin();
    for (int64_t r = begin; r < end;) {
        int64_t last = end, offset = 0;
        if (g->block) { /* rows of one block share their parameters */
            int64_t outer = r / g->channels, d = r % g->channels, block = d / g->block;
            int64_t block_end = (block + 1) * g->block < g->channels ? (block + 1) * g->block : g->channels;
            if (outer * g->channels + block_end < last) last = outer * g->channels + block_end;
            offset = (outer * blocks(g) + block) * g->inner;
        }
        if (w->ranges) min_max_strips(w, r, last, offset, room);
        else walk_strips(w, r, last, offset);
        r = last;
    }
    qn_fp_end(saved);
    free(room);
}

static void walk_columns(void *context, int64_t begin, int64_t end) {
    walk part = *(const walk *)context;
    part.columns_begin = begin, part.columns_end = end;
    walk_rows(&part, 0, part.total / part.row);
}

static void walk_all(walk *w) {
    const qn_grid *g = &w->grid;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    w->merge = &mutex;
    w->total = g->outer * g->channels * g->inner;
    if (w->total == 0) return;
    int64_t bytes = w->total * (int64_t)(w->source->itemsize + w->out_size);
    w->params.ahead = AHEAD;
    bool staged = w->out_type != QN_F32 && is_float(w->out_type) && !w->cast;
    w->params.stream = !staged && w->total * (int64_t)w->out_size >= qn_stream_bytes();
    if (g->block ? g->inner == 1 : g->inner >= SHORT_RUN || g->channels == 1) {
        w->params.run = g->block ? g->block : g->inner;
        bool even = g->block && g->channels % g->block == 0;
        w->row = even ? w->total : g->channels * g->inner;
        qn_parallel_for(w->total, GRAIN, bytes, walk_runs, w);
        return;
    }
    w->row = g->block ? g->inner : g->channels * g->inner;
    w->columns_begin = 0, w->columns_end = w->row;
    int64_t rows = w->total / w->row;
    if (rows >= 4 * (int64_t)qn_num_threads()) qn_parallel_for(rows, 1 + GRAIN / w->row, bytes, walk_rows, w);
    else qn_parallel_for(w->row, GRAIN, bytes, walk_columns, w);
}

/* The reciprocal in two parts equals the division where neither can overflow or lose bits to underflow. */
static bool scales_are_moderate(const float *scale, int64_t n) {
    bool all = true;
    for (int64_t i = 0; i < n; i++) all &= scale[i] >= 0x1p-90f && scale[i] <= 0x1p90f;
    return all;
}

static walk new_walk(const qn_source *source, const qn_grid *grid, const qn_affine *params, void *out, qn_type type,
                     span_function span) {
    walk w = {.source = source, .grid = *grid, .params = *params, .out = out, .out_type = type, .span = span};
    w.out_size = itemsizes[type];
    return w;
}

void qn_quantize(const qn_source *x, void *q, qn_type code, const qn_grid *grid, const qn_affine *params) {
    walk w = new_walk(x, grid, params, q, code, quantize_span);
    w.in_place = x->direct && x->type == QN_F32 && !is_float(code);
    w.params.exact_inverse = itemsizes[code] == 1 && scales_are_moderate(params->scale, qn_grid_params(grid));
    walk_all(&w);
}

void qn_dequantize(const qn_source *q, void *x, qn_type type, const qn_grid *grid, const qn_affine *params) {
    walk w = new_walk(q, grid, params, x, type, dequantize_span);
    w.in_place = q->direct && type == QN_F32 && !is_float(q->type);
    walk_all(&w);
}

void qn_fake_quantize(const qn_source *x, void *y, qn_type type, const qn_grid *grid, const qn_affine *params) {
    walk w = new_walk(x, grid, params, y, type, fake_quantize_span);
    w.in_place = x->direct && x->type == QN_F32 && type == QN_F32;
    w.params.exact_inverse = params->qmin >= INT8_MIN && params->qmax <= UINT8_MAX &&
                             scales_are_moderate(params->scale, qn_grid_params(grid));
    walk_all(&w);
}

void qn_requantize(const qn_source *acc, void *q, qn_type code, const qn_grid *grid, const qn_affine *params) {
    walk w = new_walk(acc, grid, params, q, code, requantize_span);
    w.in_place = acc->direct && params->method == QN_FLOAT;
    walk_all(&w);
}

static int64_t elements(const qn_source *x) {
    int64_t n = 1;
    for (int d = 0; d < x->ndim; d++) n *= x->shape[d];
    return n;
}

void qn_cast_array(const qn_source *x, void *y, qn_type type, const qn_cast *cast) {
    const qn_affine none = {0};
    const qn_grid whole = {1, 1, elements(x), 0};
    walk w = new_walk(x, &whole, &none, y, type, cast_span);
    w.cast = cast;
    walk_all(&w);
}

void qn_find_float_error(const qn_source *x, qn_type type, double overflow, float normal, qn_float_error *sums) {
    qn_float_limits limits = {overflow, (float)overflow, normal};
    if ((double)limits.overflow_f32 < overflow) limits.overflow_f32 = nextafterf(limits.overflow_f32, INFINITY);
    const qn_affine none = {0};
    const qn_grid whole = {1, 1, elements(x), 0};
    const float_error error = {type, &limits, sums};
    walk w = new_walk(x, &whole, &none, NULL, QN_F32, float_error_span);
    w.out_size = 0;
    w.error = &error;
    *sums = (qn_float_error){.least = INFINITY};
    walk_all(&w);
}

bool qn_min_max(const qn_source *x, const qn_grid *grid, qn_range *ranges) {
    const qn_affine none = {0};
    atomic_bool lack = false;
    walk w = new_walk(x, grid, &none, NULL, QN_F32, min_max_span);
    w.out_size = 0;
    w.ranges = ranges, w.lack = &lack;
    for (int64_t k = 0, n = qn_grid_params(grid); k < n; k++) ranges[k] = empty_range;
    walk_all(&w);
    return !atomic_load(&lack);
}
