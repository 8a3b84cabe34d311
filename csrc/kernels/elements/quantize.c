#include "quantize.h"

#include "dispatch.h"
#include "walk.h"

static void put_floats(const qn_walk *w, int64_t start, int64_t n, const float *x) {
    if (w->out_type == QN_F64) qn_kernels()->widen_f32_f64(x, (double *)w->out + start, n, &qn_plain_cast);
    else qn_narrow(w->out_type, x, w->out + (size_t)start * w->out_size, n, &qn_plain_cast);
}

static void *out_at(const qn_walk *w, int64_t start) { return w->out + (size_t)start * w->out_size; }

static void put_codes(const qn_walk *w, void *q, int64_t n, const int32_t *codes) {
    switch (w->out_type) {
#define NARROW(_, tag, NAME, name, type, bits, is_signed, storage)                                                     \
    case QN_##NAME: qn_kernels()->narrow_i32_##storage(codes, q, n); break;
        QN_CODES(NARROW, _)
#undef NARROW
    default: break;
    }
}

/* The codes of a float type are the saturated quotients. */
static void narrow_quotient(const qn_walk *w, const float *quotient, void *q, int64_t n) {
    const qn_cast saturating = {.saturate = true};
    qn_narrow(w->out_type, quotient, q, n, &saturating);
}

static void quantize_floats(const qn_walk *w, const float *x, void *q, int64_t n, const qn_affine *p) {
    float quotient[QN_TILE];
    switch (w->out_type) {
#define QUANTIZE(_, tag, NAME, name, type, bits, is_signed, storage)                                                   \
    case QN_##NAME: qn_kernels()->quantize_f32_##storage(x, q, n, p); break;
        QN_CODES(QUANTIZE, _)
#undef QUANTIZE
    default: /* a float; then n is at most a tile */
        qn_kernels()->divide_f32(x, quotient, n, p);
        narrow_quotient(w, quotient, q, n);
    }
}

static void quantize_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    qn_tile_buffer t;
    float wide[QN_TILE];
    _Alignas(64) uint8_t codes_8[QN_TILE];
    bool packs = w->packed.width.bits;
    void *q = packs ? codes_8 : out_at(w, start);
    if (w->source->type == QN_F64 && qn_is_float(w->out_type)) {
        double quotient[QN_TILE];
        qn_kernels()->divide_f64(qn_source_raw(w->source, start, n, &t), quotient, n, p);
        qn_kernels()->odd_f64_f32(quotient, wide, n);
        narrow_quotient(w, wide, q, n);
    } else if (w->source->type == QN_F64) {
        int32_t codes[QN_TILE];
        qn_kernels()->quantize_f64_i32(qn_source_raw(w->source, start, n, &t), codes, n, p);
        put_codes(w, q, n, codes);
    } else {
        quantize_floats(w, qn_source_floats(w->source, start, n, &t, wide), q, n, p);
    }
    if (packs) qn_pack_span(&w->packed, codes_8, start, n);
}

static void pack_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    _Alignas(64) uint8_t codes[QN_ROWS_TILE]; /* full stores that cross no cache line */
    quantize_floats(w, (const float *)w->source->data + start, codes, n, p);
    qn_pack_span(&w->packed, codes, start, p->run ? n : n * p->rows);
}

static void quantize_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place) quantize_floats(w, (const float *)w->source->data + start, out_at(w, start), n, p);
    else if (w->by_codes) qn_by_code_tiles(w, start, n, p, pack_tile);
    else qn_by_tiles(w, start, n, p, quantize_tile);
}

static void dequantize_codes(qn_type q_type, const void *q, float *x, int64_t n, const qn_affine *p) {
    switch (q_type) {
#define DEQUANTIZE(_, tag, NAME, name, type, bits, is_signed, storage)                                                 \
    case QN_##NAME: qn_kernels()->dequantize_##tag##_f32(q, x, n, p); break;
        QN_INTEGERS(DEQUANTIZE, _)
#undef DEQUANTIZE
    default: break;
    }
}

static void dequantize_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    qn_tile_buffer t;
    float wide[QN_TILE];
    float *x = w->out_type == QN_F32 ? (float *)w->out + start : wide;
    if (qn_is_float(w->source->type)) {
        float codes[QN_TILE];
        qn_kernels()->multiply_f32(qn_source_floats(w->source, start, n, &t, codes), x, n, p);
    } else {
        dequantize_codes(w->source->type, qn_source_raw(w->source, start, n, &t), x, n, p);
    }
    if (x == wide) put_floats(w, start, n, wide);
}

static void unpack_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    _Alignas(64) uint8_t codes[QN_ROWS_TILE]; /* full stores that cross no cache line */
    qn_unpack_span(w->source, start, p->run ? n : n * p->rows, codes);
    dequantize_codes(w->source->type, codes, (float *)w->out + start, n, p);
}

static void dequantize_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    const qn_source *s = w->source;
    if (w->in_place) dequantize_codes(s->type, s->data + (size_t)start * s->itemsize, (float *)w->out + start, n, p);
    else if (w->by_codes) qn_by_code_tiles(w, start, n, p, unpack_tile);
    else qn_by_tiles(w, start, n, p, dequantize_tile);
}

static void fake_quantize_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    qn_tile_buffer t;
    float wide[QN_TILE], narrow[QN_TILE];
    float *y = w->out_type == QN_F32 ? (float *)w->out + start : narrow;
    if (w->source->type == QN_F64) {
        int32_t codes[QN_TILE];
        qn_kernels()->quantize_f64_i32(qn_source_raw(w->source, start, n, &t), codes, n, p);
        qn_kernels()->dequantize_i32_f32(codes, y, n, p);
    } else {
        qn_kernels()->fake_quantize_f32(qn_source_floats(w->source, start, n, &t, wide), y, n, p);
    }
    if (y == narrow) put_floats(w, start, n, narrow);
}

static void fake_quantize_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place)
        qn_kernels()->fake_quantize_f32((const float *)w->source->data + start, (float *)w->out + start, n, p);
    else qn_by_tiles(w, start, n, p, fake_quantize_tile);
}

static void requantize_acc(const qn_walk *w, const int32_t *acc, int64_t start, int64_t n, const qn_affine *p) {
    void *q = w->out + (size_t)start * w->out_size;
    switch (w->out_type) {
#define REQUANTIZE(_, tag, NAME, name, type, bits, is_signed, storage)                                                 \
    case QN_##NAME: qn_kernels()->requantize_i32_##storage(acc, q, n, p); break;
        QN_CODES(REQUANTIZE, _)
#undef REQUANTIZE
    default: break;
    }
}

static void requantize_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    qn_tile_buffer t;
    const int32_t *acc = qn_source_raw(w->source, start, n, &t);
    if (p->method == QN_FLOAT) {
        requantize_acc(w, acc, start, n, p);
    } else {
        int32_t codes[QN_TILE];
        qn_kernels()->requantize_fixed_i32(acc, codes, n, p);
        put_codes(w, out_at(w, start), n, codes);
    }
}

static void requantize_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->in_place) requantize_acc(w, (const int32_t *)w->source->data + start, start, n, p);
    else qn_by_tiles(w, start, n, p, requantize_tile);
}

/* For these scales neither part of the reciprocal overflows or underflows, so that it rounds as the division does. */
static bool scales_are_moderate(const float *scale, int64_t n) {
    bool all = true;
    for (int64_t i = 0; i < n; i++) all &= scale[i] >= 0x1p-90f && scale[i] <= 0x1p90f;
    return all;
}

static qn_walk quantize_walk(const qn_source *x, void *q, qn_type code, const qn_grid *grid, const qn_affine *params) {
    qn_walk w = qn_new_walk(x, grid, params, q, code, quantize_span);
    w.in_place = x->direct && x->type == QN_F32 && !qn_is_float(code);
    w.params.exact_inverse = qn_itemsize(code) == 1 && scales_are_moderate(params->scale, qn_grid_params(grid));
    return w;
}

void qn_quantize(const qn_source *x, void *q, qn_type code, const qn_grid *grid, const qn_affine *params) {
    qn_walk w = quantize_walk(x, q, code, grid, params);
    qn_walk_all(&w);
}

void qn_quantize_packed(const qn_source *x, const qn_byte_rows *q, qn_type code, const qn_grid *grid,
                        const qn_affine *params) {
    qn_walk w = quantize_walk(x, q->bytes, code, grid, params);
    w.by_codes = w.in_place, w.in_place = false, w.staged = true, w.packed = *q;
    qn_walk_all(&w);
}

void qn_dequantize(const qn_source *q, void *x, qn_type type, const qn_grid *grid, const qn_affine *params) {
    qn_walk w = qn_new_walk(q, grid, params, x, type, dequantize_span);
    w.in_place = q->direct && type == QN_F32 && !qn_is_float(q->type);
    w.by_codes = q->width.bits && type == QN_F32 && !qn_is_float(q->type);
    qn_walk_all(&w);
}

bool qn_exact_inverse(const qn_affine *params, const qn_grid *grid) {
    return params->qmin >= INT8_MIN && params->qmax <= UINT8_MAX &&
           scales_are_moderate(params->scale, qn_grid_params(grid));
}

void qn_fake_quantize(const qn_source *x, void *y, qn_type type, const qn_grid *grid, const qn_affine *params) {
    qn_walk w = qn_new_walk(x, grid, params, y, type, fake_quantize_span);
    w.in_place = x->direct && x->type == QN_F32 && type == QN_F32;
    w.params.exact_inverse = qn_exact_inverse(params, grid);
    qn_walk_all(&w);
}

void qn_requantize(const qn_source *acc, void *q, qn_type code, const qn_grid *grid, const qn_affine *params) {
    qn_walk w = qn_new_walk(acc, grid, params, q, code, requantize_span);
    w.in_place = acc->direct && params->method == QN_FLOAT;
    qn_walk_all(&w);
}
