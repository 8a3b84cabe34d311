#include "source.h"

#include <string.h>

#include "dispatch.h"
#include "packing.h"

static const size_t itemsizes[QN_TYPE_COUNT] = {
#define ITEMSIZE(_, tag, NAME, name, bits, exponent, mantissa, bias, kind) [QN_##NAME] = bits / 8,
    QN_FLOATS(ITEMSIZE, _)
#undef ITEMSIZE
#define ITEMSIZE(_, tag, NAME, name, type, bits, is_signed, storage) [QN_##NAME] = sizeof(type),
        QN_INTEGERS(ITEMSIZE, _)
#undef ITEMSIZE
};

size_t qn_itemsize(qn_type type) { return itemsizes[type]; }

int64_t qn_grid_groups(const qn_grid *g) { return g->group ? (g->channels + g->group - 1) / g->group : 0; }

int64_t qn_grid_params(const qn_grid *g) { return g->group ? g->outer * qn_grid_groups(g) * g->inner : g->channels; }

int64_t qn_elements(const qn_source *x) {
    int64_t n = 1;
    for (int d = 0; d < x->ndim; d++) n *= x->shape[d];
    return n;
}

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
    if (s->width.bits) {
        qn_unpack_span(s, start, n, tile);
        return;
    }
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

const void *qn_source_raw(const qn_source *s, int64_t start, int64_t n, qn_tile_buffer *t) {
    if (s->direct) return s->data + (size_t)start * s->itemsize;
    qn_gather(s, start, n, t);
    return t;
}

void qn_widen(qn_type type, const void *h, float *x, int64_t n, const qn_cast *p) {
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

const qn_cast qn_plain_cast = {0};

const float *qn_source_floats(const qn_source *s, int64_t start, int64_t n, qn_tile_buffer *t, float *wide) {
    const void *x = qn_source_raw(s, start, n, t);
    if (s->type == QN_F32) return x;
    qn_widen(s->type, x, wide, n, &qn_plain_cast);
    return wide;
}

const float *qn_floats_at(const qn_source *source, int64_t start, int64_t n, float *buffer) {
    qn_tile_buffer t;
    if (source->type == QN_F32) {
        if (source->direct) return (const float *)source->data + start;
        qn_gather(source, start, n, buffer);
    } else {
        const void *x = qn_source_raw(source, start, n, &t);
        if (source->type == QN_F64) qn_kernels()->odd_f64_f32(x, buffer, n);
        else qn_widen(source->type, x, buffer, n, &qn_plain_cast);
    }
    return buffer;
}
