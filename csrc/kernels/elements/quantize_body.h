/* Quantize, dequantize, fake-quantize, requantize: element loops over spans of contiguous elements.
 *
 * Every loop has the shape: four vectors at a time (one full store of 8-bit codes), then single vectors, then the last
 * few elements through a padded copy. `per_element` is a compile-time constant: false = one parameter for the whole
 * segment, true = parameter arrays that advance with the elements.
 */

typedef struct {
    const float *scale;
    const int32_t *zero_point;
    vf s, i, j, b, zf; /* the parameters as vectors when they are the same for all elements */
    vi z;
    int64_t ahead; /* prefetch distance in elements */
} v_params;

V_INLINE v_params v_params_set(float scale, int32_t zero_point) {
    float inverse = 1.0f / scale;
    return (v_params){
        .s = vf_set1(scale),
        .i = vf_set1(inverse),
        .j = vf_set1(V_FUSED_INVERSE ? qn_low(scale, inverse) : 0.0f),
        .b = vf_set1(scale * (float)QN_BOUND),
        .zf = vf_set1((float)zero_point),
        .z = vi_set1(zero_point),
    };
}

V_INLINE vf v_scale(const v_params *p, int64_t i, bool per_element) {
    return per_element ? vf_load(p->scale + i) : p->s;
}
V_INLINE vi v_zero(const v_params *p, int64_t i, bool per_element) {
    return per_element ? vi_load(p->zero_point + i) : p->z;
}

/* x times the reciprocal in two parts: for 8-bit codes it rounds as x / S does. */
V_INLINE vf v_product(vf x, const v_params *p) { return vf_fma(x, p->i, vf_mul(x, p->j)); }

V_INLINE vf v_limited(vf x) { return vf_clamp_abs(x, vf_set1((float)QN_WIDEST_CODE)); } /* to the range of int32 */

/* x / S, or the product above. */
V_INLINE vf v_quotient(vf x, const v_params *p, int64_t i, bool per_element, bool fused) {
    return fused ? v_product(vf_clamp_abs(x, p->b), p) : v_limited(vf_div(x, v_scale(p, i, per_element)));
}

/* round(x / S) by the convention, before Z is added, 0 for NaN; GUIDE returns round(x / S + Z) - Z. */
V_INLINE vi v_code(vf x, const v_params *p, int64_t i, bool per_element, qn_convention convention, bool fused) {
    if (convention == QN_TORCH) {
        vf inverse = per_element ? vf_div(vf_set1(1), v_scale(p, i, per_element)) : p->i;
        return vi_zero_nan(vi_round(v_limited(vf_mul(x, inverse))), x);
    }
    vf v = v_quotient(x, p, i, per_element, fused);
    if (convention == QN_GUIDE) {
        vi z = v_zero(p, i, per_element);
        return vi_zero_nan(vi_sub(vi_round(vf_add(v, per_element ? vf_from_vi(z) : p->zf)), z), x);
    }
    /* v plus the largest float below a half, truncated, is v rounded half away from zero. */
    if (convention == QN_TFLITE) return vi_zero_nan(vi_truncate(vf_add(v, vf_copysign(vf_set1(0x1.fffffep-2f), v))), x);
    return vi_zero_nan(vi_round(v), x);
}

/* Four vectors of codes at x + i. Fast path of the ONNX convention: convert without a clamp and without a test for NaN.
 * NaN and out-of-range lanes become INT32_MIN; vi_any_lost detects that, and the four vectors are converted again with
 * the clamp. Quotients from 2^18 to 2^30 saturate with and without the clamp. */
V_INLINE void v_code4(vi c[4], const float *x, const v_params *p, int64_t i, bool per_element, qn_convention convention,
                      bool fused) {
    const bool quick = V_LOST_SHOWS && convention == QN_ONNX;
    _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
        int64_t j = i + k * V_LANES;
        vf v = vf_load(x + j);
        c[k] = quick ? vi_round(fused ? v_product(v, p) : vf_div(v, v_scale(p, j, per_element)))
                     : v_code(v, p, j, per_element, convention, fused);
    }
    if (quick && __builtin_expect(vi_any_lost(c[0], c[1], c[2], c[3]), 0))
        for (int k = 0; k < 4; k++) {
            int64_t j = i + k * V_LANES;
            c[k] = v_code(vf_load(x + j), p, j, per_element, convention, fused);
        }
}

V_INLINE void v_add_zero4(vi c[4], const v_params *p, int64_t i) {
    _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) c[k] = vi_add(c[k], v_zero(p, i + k * V_LANES, true));
}

V_INLINE vi v_saturate(vi code, vi zero, int32_t lo, int32_t hi) {
    return vi_min(vi_max(vi_add(code, zero), vi_set1(lo)), vi_set1(hi));
}

/* The number of elements before `p` is aligned for a streaming store. */
V_INLINE int64_t v_misaligned(const void *p, size_t itemsize, int64_t n) {
    int64_t head = (int64_t)((-(uintptr_t)p & 63) / itemsize);
    return head < n ? head : n;
}

/* Into the L1 cache; into the L2 cache if `later`, for rows that are read later. */
V_INLINE void v_prefetch(const void *p, int64_t bytes, bool later) {
    for (int64_t k = 0; k < bytes; k += 64)
        if (later) __builtin_prefetch((const char *)p + k, 0, 2);
        else __builtin_prefetch((const char *)p + k);
}

/* The parameters for the tail of a segment, padded so that whole vectors can be read. */
typedef struct {
    float scale[V_LANES];
    int32_t zero_point[V_LANES];
} v_tail;

V_INLINE v_params v_tail_set(v_tail *t, const v_params *p, int64_t i, int64_t count) {
    for (int k = 0; k < V_LANES; k++) t->scale[k] = 1.0f, t->zero_point[k] = 0;
    memcpy(t->scale, p->scale + i, (size_t)count * sizeof(float));
    memcpy(t->zero_point, p->zero_point + i, (size_t)count * sizeof(int32_t));
    v_params tail = *p;
    tail.scale = t->scale, tail.zero_point = t->zero_point;
    return tail;
}

/* The segments of a span: its runs. The segments of a rectangle, in which each element has its own parameters, are
 * QN_COLUMNS wide and come V_ROWS rows at a time, so that their parameters stay in the L1 cache however wide the rows
 * are. `head` elements stand before the output is aligned: the second column of segments starts there. */
typedef struct {
    v_params v;
    int64_t at, count, next, k;
    int64_t top, row, column;
    int32_t z;
} v_segment;

enum { V_ROWS = 4 };

V_INLINE bool v_next_of_rectangle(v_segment *segment, int64_t n, const qn_affine *p, int64_t head) {
    int64_t bottom = p->rows - segment->top < V_ROWS ? p->rows : segment->top + V_ROWS;
    if (segment->count && ++segment->row == bottom) {
        segment->row = segment->top, segment->column += segment->count;
        if (segment->column == n) segment->column = 0, segment->row = segment->top = bottom;
    }
    if (segment->row == p->rows || n == 0) return false;
    int64_t c = segment->column, wide = QN_COLUMNS + (c == 0 ? head : 0);
    segment->count = p->rows == 1 || wide > n - c ? n - c : wide;
    segment->at = segment->row * p->stride + c;
    segment->v.scale = p->scale + c, segment->v.zero_point = p->zero_point + c;
    /* Prefetch the next rows in the order of their addresses, as hardware prefetchers do. */
    int64_t below = segment->top + V_ROWS, along = V_ROWS * c + (segment->row - segment->top) * segment->count;
    for (; along >= n; along -= n) below++;
    segment->v.ahead = p->rows == 1 ? p->ahead : below * p->stride + along - segment->at;
    return true;
}

V_INLINE bool v_next(v_segment *segment, int64_t n, const qn_affine *p, int64_t head) {
    if (p->run == 0) return v_next_of_rectangle(segment, n, p, head);
    int64_t at = segment->next;
    if (at >= n) return false;
    int64_t k = at == 0 ? p->phase / p->run : segment->k + 1;
    int64_t left = at == 0 ? p->run - p->phase % p->run : p->run;
    segment->at = at;
    segment->k = k;
    segment->count = left < n - at ? left : n - at;
    segment->z = p->zero_point[k];
    segment->v = v_params_set(p->scale[k], p->zero_point[k]);
    segment->v.ahead = p->ahead;
    segment->next = at + segment->count;
    return true;
}

/* The element of the first streaming store of a span. */
V_INLINE int64_t v_head(const void *out, size_t itemsize, int64_t n, const qn_affine *p) {
    return p->stream ? v_misaligned(out, itemsize, n) : 0;
}

/* The loop over the n elements of a segment, written to `to`: up to V_LANES elements at a time until streaming stores
 * are aligned, four vectors at a time (a full store of 8-bit codes), single vectors, and the rest. The statements use
 * i, the element, and `some` uses count, how many elements it takes. */
#define V_SEGMENT(to, n, stream, some, four, one)                                                                      \
    int64_t i = 0;                                                                                                     \
    if (stream)                                                                                                        \
        for (int64_t head = v_misaligned(to, sizeof *to, n); i < head;) {                                              \
            int64_t count = head - i < V_LANES ? head - i : V_LANES;                                                   \
            some;                                                                                                      \
            i += count;                                                                                                \
        }                                                                                                              \
    for (; i + 4 * V_LANES <= n; i += 4 * V_LANES) {                                                                   \
        four;                                                                                                          \
    }                                                                                                                  \
    for (; i + V_LANES <= n; i += V_LANES) {                                                                           \
        one;                                                                                                           \
    }                                                                                                                  \
    if (i < n) {                                                                                                       \
        int64_t count = n - i;                                                                                         \
        some;                                                                                                          \
    }

/* Quantize a segment of f32 to T. */
#define QUANTIZE(_, tag, NAME, name, type, bits, is_signed, storage)                                                   \
    V_INLINE void quantize_some_##tag(const float *x, type *q, int64_t n, const qn_affine *p, const v_params *v,       \
                                      int64_t at, bool per_element, qn_convention convention, bool fused) {            \
        float in[V_LANES] = {0};                                                                                       \
        int32_t out[V_LANES];                                                                                          \
        v_tail t;                                                                                                      \
        memcpy(in, x, (size_t)n * sizeof *in);                                                                         \
        v_params tail = per_element ? v_tail_set(&t, v, at, n) : *v;                                                   \
        vi c = v_code(vf_load(in), &tail, 0, per_element, convention, fused);                                          \
        vi_store(out, v_saturate(c, v_zero(&tail, 0, per_element), p->qmin, p->qmax));                                 \
        for (int64_t k = 0; k < n; k++) q[k] = (type)out[k];                                                           \
    }                                                                                                                  \
    V_INLINE void quantize_segment_##tag(const float *x, type *q, int64_t n, const qn_affine *p, const v_params *v,    \
                                         int32_t z, bool per_element, qn_convention convention, bool fused) {          \
        const v_narrow narrow = v_narrow_set(z, p->qmin, p->qmax);                                                     \
        const int64_t ahead = v->ahead;                                                                                \
        const bool stream = p->stream;                                                                                 \
        V_SEGMENT(                                                                                                     \
            q, n, stream, quantize_some_##tag(x + i, q + i, count, p, v, i, per_element, convention, fused),           \
            {                                                                                                          \
                vi c[4];                                                                                               \
                v_prefetch(x + i + ahead, 16 * V_LANES, per_element);                                                  \
                v_code4(c, x, v, i, per_element, convention, fused);                                                   \
                if (per_element) v_add_zero4(c, v, i);                                                                 \
                vi_store4_##tag(q + i, c[0], c[1], c[2], c[3], &narrow, stream);                                       \
            },                                                                                                         \
            {                                                                                                          \
                vi c = v_code(vf_load(x + i), v, i, per_element, convention, fused);                                   \
                vi_store_##tag(q + i, v_saturate(c, v_zero(v, i, per_element), p->qmin, p->qmax));                     \
            })                                                                                                         \
    }                                                                                                                  \
    V_INLINE void quantize_span_##tag(const float *x, type *q, int64_t n, const qn_affine *p,                          \
                                      qn_convention convention, bool fused) {                                          \
        for (v_segment s = {0}; v_next(&s, n, p, v_head(q, sizeof *q, n, p));)                                         \
            if (p->run == 0) quantize_segment_##tag(x + s.at, q + s.at, s.count, p, &s.v, 0, true, convention, false); \
            else quantize_segment_##tag(x + s.at, q + s.at, s.count, p, &s.v, s.z, false, convention, fused);          \
    }                                                                                                                  \
    static void quantize_f32_##tag(const float *x, type *q, int64_t n, const qn_affine *p) {                           \
        bool fused = V_FUSED_INVERSE && p->exact_inverse && sizeof(type) == 1;                                         \
        switch (p->convention) {                                                                                       \
        case QN_GUIDE: quantize_span_##tag(x, q, n, p, QN_GUIDE, false); break;                                        \
        case QN_TORCH: quantize_span_##tag(x, q, n, p, QN_TORCH, false); break;                                        \
        case QN_TFLITE: quantize_span_##tag(x, q, n, p, QN_TFLITE, false); break;                                      \
        default:                                                                                                       \
            if (fused) quantize_span_##tag(x, q, n, p, QN_ONNX, true);                                                 \
            else quantize_span_##tag(x, q, n, p, QN_ONNX, false);                                                      \
        }                                                                                                              \
        if (p->stream) v_fence();                                                                                      \
    }

QN_WHOLE_CODES(QUANTIZE, _)

/* float64: plain C, one division in float64. */
V_INLINE int32_t code_f64(double x, float scale, int32_t z, const qn_affine *p, qn_convention convention) {
    const double widest = QN_WIDEST_CODE, magic = 0x1.8p52; /* adding 1.5 * 2^52 rounds half to even at the units */
    if (x != x) return z;
    double v = convention == QN_TORCH ? x * (1.0 / (double)scale) : x / (double)scale;
    if (convention == QN_GUIDE) v += z;
    v = v > widest ? widest : v < -widest ? -widest : v;
    double r = convention == QN_TFLITE ? trunc(v + copysign(0x1.fffffffffffffp-2, v)) : (v + magic) - magic;
    int32_t code = (int32_t)r + (convention == QN_GUIDE ? 0 : z);
    return code < p->qmin ? p->qmin : code > p->qmax ? p->qmax : code;
}

V_INLINE void quantize_span_f64(const double *x, int32_t *q, int64_t n, const qn_affine *p, qn_convention convention) {
    if (p->run == 0) {
        for (int64_t i = 0; i < n; i++) q[i] = code_f64(x[i], p->scale[i], p->zero_point[i], p, convention);
        return;
    }
    int64_t k = p->phase / p->run, left = p->run - p->phase % p->run;
    for (int64_t at = 0; at < n; k++, left = p->run) {
        int64_t end = left < n - at ? at + left : n;
        for (; at < end; at++) q[at] = code_f64(x[at], p->scale[k], p->zero_point[k], p, convention);
    }
}

static void quantize_f64_i32(const double *x, int32_t *q, int64_t n, const qn_affine *p) {
    switch (p->convention) {
    case QN_GUIDE: quantize_span_f64(x, q, n, p, QN_GUIDE); break;
    case QN_TORCH: quantize_span_f64(x, q, n, p, QN_TORCH); break;
    case QN_TFLITE: quantize_span_f64(x, q, n, p, QN_TFLITE); break;
    default: quantize_span_f64(x, q, n, p, QN_ONNX);
    }
}

#define NARROW(_, tag, NAME, name, type, bits, is_signed, storage)                                                     \
    static void narrow_i32_##tag(const int32_t *restrict x, type *restrict q, int64_t n) {                             \
        for (int64_t i = 0; i < n; i++) q[i] = (type)x[i];                                                             \
    }
QN_WHOLE_CODES(NARROW, _)

/* load_<tag>: one vector of codes as int32. */
#define LOAD_WHOLE(_, tag, NAME, name, type, bits, is_signed, storage)                                                 \
    V_INLINE vi load_##tag(const type *q) { return vi_load_##tag(q); }
#define LOAD_SUB_BYTE(_, tag, NAME, name, type, bits, is_signed, storage)                                              \
    V_INLINE vi load_##tag(const type *q) {                                                                            \
        return is_signed ? vi_low_signed(vi_load_u8(q), bits) : vi_low_unsigned(vi_load_u8(q), bits);                  \
    }
V_INLINE vi load_i32(const int32_t *q) { return vi_load(q); }
QN_WHOLE_CODES(LOAD_WHOLE, _)
QN_SUB_BYTE_CODES(LOAD_SUB_BYTE, _)

V_INLINE void put_f32(float *p, vf v, bool stream) {
    if (stream) vf_stream(p, v);
    else vf_store(p, v);
}

V_INLINE void put4_f32(float *p, const vf v[4], bool stream) {
    if (stream)
        for (int k = 0; k < 4; k++) vf_stream(p + k * V_LANES, v[k]);
    else
        for (int k = 0; k < 4; k++) vf_store(p + k * V_LANES, v[k]);
}

#define DEQUANTIZE(_, tag, NAME, name, type, bits, is_signed, storage)                                                 \
    V_INLINE vf dequantize_one_##tag(const type *q, const v_params *v, int64_t i, bool per_element) {                  \
        return vf_mul(vf_from_vi(vi_sub(load_##tag(q), v_zero(v, i, per_element))), v_scale(v, i, per_element));       \
    }                                                                                                                  \
    V_INLINE void dequantize_some_##tag(const type *q, float *x, int64_t n, const v_params *v, int64_t at,             \
                                        bool per_element) {                                                            \
        type in[V_LANES] = {0};                                                                                        \
        float out[V_LANES];                                                                                            \
        v_tail t;                                                                                                      \
        memcpy(in, q, (size_t)n * sizeof *in);                                                                         \
        v_params tail = per_element ? v_tail_set(&t, v, at, n) : *v;                                                   \
        vf_store(out, dequantize_one_##tag(in, &tail, 0, per_element));                                                \
        memcpy(x, out, (size_t)n * sizeof *out);                                                                       \
    }                                                                                                                  \
    V_INLINE void dequantize_four_##tag(vf y[4], const type *q, const v_params *v, int64_t i, bool per_element) {      \
        _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) y[k] =                                                     \
            dequantize_one_##tag(q + i + k * V_LANES, v, i + k * V_LANES, per_element);                                \
    }                                                                                                                  \
    V_INLINE void dequantize_segment_##tag(const type *q, float *x, int64_t n, const qn_affine *p, const v_params *v,  \
                                           bool per_element) {                                                         \
        const int64_t ahead = v->ahead;                                                                                \
        const bool stream = p->stream;                                                                                 \
        V_SEGMENT(                                                                                                     \
            x, n, stream, dequantize_some_##tag(q + i, x + i, count, v, i, per_element),                               \
            {                                                                                                          \
                vf y[4];                                                                                               \
                v_prefetch(q + i + ahead, 4 * V_LANES * (int64_t)sizeof *q, per_element);                              \
                dequantize_four_##tag(y, q, v, i, per_element);                                                        \
                put4_f32(x + i, y, stream);                                                                            \
            },                                                                                                         \
            put_f32(x + i, dequantize_one_##tag(q + i, v, i, per_element), stream))                                    \
    }                                                                                                                  \
    static void dequantize_##tag##_f32(const type *q, float *x, int64_t n, const qn_affine *p) {                       \
        for (v_segment s = {0}; v_next(&s, n, p, v_head(x, sizeof *x, n, p));)                                         \
            if (p->run == 0) dequantize_segment_##tag(q + s.at, x + s.at, s.count, p, &s.v, true);                     \
            else dequantize_segment_##tag(q + s.at, x + s.at, s.count, p, &s.v, false);                                \
        if (p->stream) v_fence();                                                                                      \
    }

QN_INTEGERS(DEQUANTIZE, _)

/* Fake-quantize: quantize, saturate and dequantize in registers. */
V_INLINE vf fake_value(vi steps, const v_params *v, int64_t i, bool per_element, const qn_affine *p) {
    vi z = v_zero(v, i, per_element); /* [qmin - Z, qmax - Z] is loop-invariant when Z is */
    steps = vi_min(vi_max(steps, vi_sub(vi_set1(p->qmin), z)), vi_sub(vi_set1(p->qmax), z));
    return vf_mul(vf_from_vi(steps), v_scale(v, i, per_element));
}

V_INLINE vf fake_one(vf x, const v_params *v, int64_t i, bool per_element, const qn_affine *p, qn_convention convention,
                     bool fused) {
    return fake_value(v_code(x, v, i, per_element, convention, fused), v, i, per_element, p);
}

V_INLINE void fake_some(const float *x, float *y, int64_t n, const qn_affine *p, const v_params *v, int64_t at,
                        bool per_element, qn_convention convention, bool fused) {
    float in[V_LANES] = {0}, out[V_LANES];
    v_tail t;
    memcpy(in, x, (size_t)n * sizeof *in);
    v_params tail = per_element ? v_tail_set(&t, v, at, n) : *v;
    vf_store(out, fake_one(vf_load(in), &tail, 0, per_element, p, convention, fused));
    memcpy(y, out, (size_t)n * sizeof *out);
}

V_INLINE void fake_value4(vf y[4], const vi steps[4], const v_params *v, int64_t i, bool per_element,
                          const qn_affine *p) {
    _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) y[k] = fake_value(steps[k], v, i + k * V_LANES, per_element, p);
}

V_INLINE void fake_segment(const float *x, float *y, int64_t n, const qn_affine *p, const v_params *v, bool per_element,
                           qn_convention convention, bool fused) {
    const int64_t ahead = v->ahead;
    const bool stream = p->stream;
    V_SEGMENT(
        y, n, stream, fake_some(x + i, y + i, count, p, v, i, per_element, convention, fused),
        {
            vi steps[4];
            vf out[4];
            v_prefetch(x + i + ahead, 16 * V_LANES, per_element);
            v_code4(steps, x, v, i, per_element, convention, fused);
            fake_value4(out, steps, v, i, per_element, p);
            put4_f32(y + i, out, stream);
        },
        put_f32(y + i, fake_one(vf_load(x + i), v, i, per_element, p, convention, fused), stream))
}

V_INLINE void fake_span(const float *x, float *y, int64_t n, const qn_affine *p, qn_convention convention, bool fused) {
    for (v_segment s = {0}; v_next(&s, n, p, v_head(y, sizeof *y, n, p));)
        if (p->run == 0) fake_segment(x + s.at, y + s.at, s.count, p, &s.v, true, convention, false);
        else fake_segment(x + s.at, y + s.at, s.count, p, &s.v, false, convention, fused);
}

static void fake_quantize_f32(const float *x, float *y, int64_t n, const qn_affine *p) {
    switch (p->convention) {
    case QN_GUIDE: fake_span(x, y, n, p, QN_GUIDE, false); break;
    case QN_TORCH: fake_span(x, y, n, p, QN_TORCH, false); break;
    case QN_TFLITE: fake_span(x, y, n, p, QN_TFLITE, false); break;
    default:
        if (V_FUSED_INVERSE && p->exact_inverse) fake_span(x, y, n, p, QN_ONNX, true);
        else fake_span(x, y, n, p, QN_ONNX, false);
    }
    if (p->stream) v_fence();
}

/* Requantize, method "float": p->scale is the multiplier M. */
V_INLINE vf requantize_value(vi acc, const v_params *v, int64_t i, bool per_element) {
    return vf_mul(vf_from_vi(acc), v_scale(v, i, per_element));
}

V_INLINE vi requantize_one(vi acc, const v_params *v, int64_t i, bool per_element) {
    return vi_round(v_limited(requantize_value(acc, v, i, per_element)));
}

/* Four vectors, with the fast path of v_code4. */
V_INLINE void requantize4(vi c[4], const vi acc[4], const v_params *v, int64_t i, bool per_element) {
    _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
        int64_t j = i + k * V_LANES;
        c[k] = V_LOST_SHOWS ? vi_round(requantize_value(acc[k], v, j, per_element))
                            : requantize_one(acc[k], v, j, per_element);
    }
    if (V_LOST_SHOWS && __builtin_expect(vi_any_lost(c[0], c[1], c[2], c[3]), 0))
        for (int k = 0; k < 4; k++) c[k] = requantize_one(acc[k], v, i + k * V_LANES, per_element);
}

#define REQUANTIZE(_, tag, NAME, name, type, bits, is_signed, storage)                                                 \
    V_INLINE void requantize_some_##tag(const int32_t *acc, type *q, int64_t n, const qn_affine *p, const v_params *v, \
                                        int64_t at, bool per_element) {                                                \
        int32_t in[V_LANES] = {0}, out[V_LANES];                                                                       \
        v_tail t;                                                                                                      \
        memcpy(in, acc, (size_t)n * sizeof *in);                                                                       \
        v_params tail = per_element ? v_tail_set(&t, v, at, n) : *v;                                                   \
        vi c = requantize_one(vi_load(in), &tail, 0, per_element);                                                     \
        vi_store(out, v_saturate(c, v_zero(&tail, 0, per_element), p->qmin, p->qmax));                                 \
        for (int64_t k = 0; k < n; k++) q[k] = (type)out[k];                                                           \
    }                                                                                                                  \
    V_INLINE void requantize_segment_##tag(const int32_t *acc, type *q, int64_t n, const qn_affine *p,                 \
                                           const v_params *v, int32_t z, bool per_element) {                           \
        const v_narrow narrow = v_narrow_set(z, p->qmin, p->qmax);                                                     \
        const int64_t ahead = v->ahead;                                                                                \
        const bool stream = p->stream;                                                                                 \
        V_SEGMENT(                                                                                                     \
            q, n, stream, requantize_some_##tag(acc + i, q + i, count, p, v, i, per_element),                          \
            {                                                                                                          \
                vi a[4];                                                                                               \
                vi c[4];                                                                                               \
                v_prefetch(acc + i + ahead, 16 * V_LANES, per_element);                                                \
                for (int k = 0; k < 4; k++) a[k] = vi_load(acc + i + k * V_LANES);                                     \
                requantize4(c, a, v, i, per_element);                                                                  \
                if (per_element) v_add_zero4(c, v, i);                                                                 \
                vi_store4_##tag(q + i, c[0], c[1], c[2], c[3], &narrow, stream);                                       \
            },                                                                                                         \
            {                                                                                                          \
                vi c = requantize_one(vi_load(acc + i), v, i, per_element);                                            \
                vi_store_##tag(q + i, v_saturate(c, v_zero(v, i, per_element), p->qmin, p->qmax));                     \
            })                                                                                                         \
    }                                                                                                                  \
    static void requantize_i32_##tag(const int32_t *acc, type *q, int64_t n, const qn_affine *p) {                     \
        for (v_segment s = {0}; v_next(&s, n, p, v_head(q, sizeof *q, n, p));)                                         \
            if (p->run == 0) requantize_segment_##tag(acc + s.at, q + s.at, s.count, p, &s.v, 0, true);                \
            else requantize_segment_##tag(acc + s.at, q + s.at, s.count, p, &s.v, s.z, false);                         \
        if (p->stream) v_fence();                                                                                      \
    }
QN_WHOLE_CODES(REQUANTIZE, _)

/* Requantize in integers. gemmlowp's form takes the rounded high half of the doubled product, then a rounding shift. */
V_INLINE int32_t fixed_one(int32_t acc, int32_t m, int32_t shift, int32_t z, const qn_affine *p, bool twice) {
    int64_t code;
    if (!twice) {
        code = ((int64_t)acc * m + ((int64_t)1 << (shift - 1))) >> shift;
    } else {
        int left = shift < 31 ? 31 - shift : 0, right = shift > 31 ? shift - 31 : 0;
        int64_t shifted = (int64_t)acc * ((int64_t)1 << left); /* saturated to int32, as in gemmlowp */
        shifted = shifted > INT32_MAX ? INT32_MAX : shifted < INT32_MIN ? INT32_MIN : shifted;
        int64_t product = shifted * m, nudge = product >= 0 ? (int64_t)1 << 30 : 1 - ((int64_t)1 << 30);
        int64_t high = (product + nudge) / ((int64_t)1 << 31);
        int64_t mask = ((int64_t)1 << right) - 1, rest = high & mask;
        code = (high >> right) + (rest > (mask >> 1) + (high < 0));
    }
    code += z;
    return (int32_t)(code < p->qmin ? p->qmin : code > p->qmax ? p->qmax : code);
}

V_INLINE void fixed_span(const int32_t *acc, int32_t *q, int64_t n, const qn_affine *p, bool twice) {
    if (p->run == 0) {
        for (int64_t i = 0; i < n; i++)
            q[i] = fixed_one(acc[i], p->multiplier[i], p->shift[i], p->zero_point[i], p, twice);
        return;
    }
    int64_t k = p->phase / p->run, left = p->run - p->phase % p->run;
    for (int64_t at = 0; at < n; k++, left = p->run) {
        int64_t end = left < n - at ? at + left : n;
        for (; at < end; at++) q[at] = fixed_one(acc[at], p->multiplier[k], p->shift[k], p->zero_point[k], p, twice);
    }
}

static void requantize_fixed_i32(const int32_t *acc, int32_t *q, int64_t n, const qn_affine *p) {
    if (p->method == QN_FIXED_DOUBLE) fixed_span(acc, q, n, p, true);
    else fixed_span(acc, q, n, p, false);
}
