/* Every cast passes through float32, except float64 to float64. */
#include "cast.h"

#include <math.h>

#include "dispatch.h"
#include "walk.h"

static qn_cast cast_of(const qn_walk *w, int64_t start, const qn_affine *p) {
    qn_cast c = *(const qn_cast *)w->own;
    c.index = start, c.stream = p->stream;
    return c;
}

static void cast_floats(const qn_walk *w, const float *x, int64_t start, int64_t n, const qn_cast *c) {
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

/* float64 to float32, the first of two stochastic roundings: their expected value is still x. Beyond the largest number
 * of the type, the second step rounds to nearest, so the first rounds to odd: overflow does not depend on chance. */
static void random_f64_f32(const double *x, float *wide, int64_t n, qn_type type, const qn_cast *c) {
    const double most = largest(type);
    qn_kernels()->narrow_f64_f32(x, wide, n, c);
    for (int64_t i = 0; i < n; i++)
        if (fabs(x[i]) > most) qn_kernels()->odd_f64_f32(x + i, wide + i, 1);
}

static void cast_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    qn_tile_buffer t;
    float wide[QN_TILE];
    const qn_cast c = cast_of(w, start, p);
    const qn_table *k = qn_kernels();
    void *out = w->out + (size_t)start * w->out_size;
    if (w->source->type != QN_F64) {
        cast_floats(w, qn_source_floats(w->source, start, n, &t, wide), start, n, &c);
        return;
    }
    const double *x = qn_source_raw(w->source, start, n, &t);
    if (w->out_type == QN_F64) k->copy_f64_f64(x, out, n, &c);
    else if (w->out_type == QN_F32) k->narrow_f64_f32(x, out, n, &c);
    else {
        if (c.stochastic) random_f64_f32(x, wide, n, w->out_type, &c);
        else k->odd_f64_f32(x, wide, n);
        qn_narrow(w->out_type, wide, out, n, &c);
    }
}

static void cast_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    const qn_source *s = w->source;
    const qn_cast c = cast_of(w, start, p);
    const void *x = s->data + (size_t)start * s->itemsize;
    if (s->direct && s->type == QN_F32 && w->out_type != QN_F32 && w->out_type != QN_F64)
        qn_narrow(w->out_type, x, w->out + (size_t)start * w->out_size, n, &c);
    else if (s->direct && s->type != QN_F32 && s->type != QN_F64 && w->out_type == QN_F32 && !c.saturate)
        qn_widen(s->type, x, (float *)w->out + start, n, &c);
    else qn_by_tiles(w, start, n, p, cast_tile);
}

void qn_cast_array(const qn_source *x, void *y, qn_type type, const qn_cast *cast) {
    const qn_affine none = {0};
    const qn_grid whole = {1, 1, qn_elements(x), 0};
    qn_walk w = qn_new_walk(x, &whole, &none, y, type, cast_span);
    w.own = cast, w.staged = false;
    qn_walk_all(&w);
}
