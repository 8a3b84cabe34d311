/* Fake-quantization for training: where the codes saturate, and gradients. The contracts stand in qn_kernels.h. */

/* All bits of a lane where the code lies below qmin, above qmax, or between; none of the three for NaN. */
typedef struct {
    vi inside, below, above;
} v_sides;

V_INLINE v_sides v_sides_of(vi steps, vf x, const v_params *v, int64_t i, bool per_element, const qn_affine *p) {
    const vi none = vi_set1(0), all = vi_set1(-1), z = v_zero(v, i, per_element);
    const vi below = vi_if_less(steps, vi_sub(vi_set1(p->qmin), z), all, none);
    const vi above = vi_if_less(vi_sub(vi_set1(p->qmax), z), steps, all, none);
    return (v_sides){
        .inside = vi_zero_nan(vi_xor(vi_or(below, above), all), x),
        .below = vi_zero_nan(below, x),
        .above = vi_zero_nan(above, x),
    };
}

V_INLINE vf v_keep(vf g, vi mask) { return vf_from_bits(vi_and(vi_from_bits(g), mask)); }

/* ---- the values and where they saturate ---- */

V_INLINE vi v_same(vi a, vi b, vf x) { /* 1 where a is b and x is no NaN */
    const vi one = vi_set1(1);
    return vi_zero_nan(vi_sub(one, vi_min_unsigned(vi_xor(a, b), one)), x);
}

#ifndef V_MARKS /* a row may have its own */
V_INLINE void v_put4_same(uint8_t *p, const vi a[4], const vi b[4], const vf x[4]) {
    vi same[4];
    for (int k = 0; k < 4; k++) same[k] = v_same(a[k], b[k], x[k]);
    vi_put4_u8(p, same[0], same[1], same[2], same[3], false);
}
#endif

V_INLINE vi v_held(vi steps, const v_params *v, int64_t i, bool per_element, vi qmin, vi qmax) {
    const vi z = v_zero(v, i, per_element);
    return vi_min(vi_max(steps, vi_sub(qmin, z)), vi_sub(qmax, z));
}

V_INLINE vf v_real(vi steps, const v_params *v, int64_t i, bool per_element) {
    return vf_mul(vf_from_vi(steps), v_scale(v, i, per_element));
}

V_INLINE void inside_some(const float *x, float *y, uint8_t *inside, int64_t n, const qn_affine *p, const v_params *v,
                          int64_t at, bool per_element, qn_convention convention, bool fused) {
    float in[V_LANES] = {0}, out[V_LANES];
    int32_t marks[V_LANES];
    v_tail t;
    memcpy(in, x, (size_t)n * sizeof *in);
    v_params tail = per_element ? v_tail_set(&t, v, at, n) : *v;
    const vi steps = v_code(vf_load(in), &tail, 0, per_element, convention, fused);
    const vi held = v_held(steps, &tail, 0, per_element, vi_set1(p->qmin), vi_set1(p->qmax));
    vf_store(out, v_real(held, &tail, 0, per_element));
    vi_store(marks, v_same(steps, held, vf_load(in)));
    memcpy(y, out, (size_t)n * sizeof *out);
    for (int64_t k = 0; k < n; k++) inside[k] = (uint8_t)marks[k];
}

V_INLINE void inside_segment(const float *x, float *y, uint8_t *restrict inside, int64_t n, const qn_affine *p,
                             const v_params *v, bool per_element, qn_convention convention, bool fused) {
    const int64_t ahead = v->ahead;
    const bool stream = p->stream;
    const vi qmin = vi_set1(p->qmin), qmax = vi_set1(p->qmax); /* a byte that is stored may lie in *p */
    V_SEGMENT(
        y, n, stream, inside_some(x + i, y + i, inside + i, count, p, v, i, per_element, convention, fused),
        {
            vf in[4];
            vf out[4];
            vi steps[4];
            vi held[4];
            v_prefetch(x + i + ahead, 16 * V_LANES, per_element);
            v_code4(steps, x, v, i, per_element, convention, fused);
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
                in[k] = vf_load(x + i + k * V_LANES);
                held[k] = v_held(steps[k], v, i + k * V_LANES, per_element, qmin, qmax);
                out[k] = v_real(held[k], v, i + k * V_LANES, per_element);
            }
            put4_f32(y + i, out, stream);
            v_put4_same(inside + i, steps, held, in);
        },
        inside_some(x + i, y + i, inside + i, V_LANES, p, v, i, per_element, convention, fused))
}

V_INLINE void inside_span(const float *x, float *y, uint8_t *inside, int64_t n, const qn_affine *p,
                          qn_convention convention, bool fused) {
    for (v_segment s = {0}; v_next(&s, n, p, v_head(y, sizeof *y, n, p));)
        if (p->run == 0) inside_segment(x + s.at, y + s.at, inside + s.at, s.count, p, &s.v, true, convention, false);
        else inside_segment(x + s.at, y + s.at, inside + s.at, s.count, p, &s.v, false, convention, fused);
}

static void fake_quantize_inside_f32(const float *x, float *y, uint8_t *inside, int64_t n, const qn_affine *p) {
    switch (p->convention) {
    case QN_GUIDE: inside_span(x, y, inside, n, p, QN_GUIDE, false); break;
    case QN_TORCH: inside_span(x, y, inside, n, p, QN_TORCH, false); break;
    case QN_TFLITE: inside_span(x, y, inside, n, p, QN_TFLITE, false); break;
    default:
        if (V_FUSED_INVERSE && p->exact_inverse) inside_span(x, y, inside, n, p, QN_ONNX, true);
        else inside_span(x, y, inside, n, p, QN_ONNX, false);
    }
    if (p->stream) v_fence();
}

/* ---- the gradient of x ---- */

V_INLINE vf keep_one(const float *g, const uint8_t *inside) {
    return v_keep(vf_load(g), vi_sub(vi_set1(0), vi_load_u8(inside)));
}

V_INLINE void keep_some(const float *g, const uint8_t *inside, float *y, int64_t n) {
    float in[V_LANES] = {0}, out[V_LANES];
    uint8_t marks[V_LANES < 8 ? 8 : V_LANES] = {0};
    memcpy(in, g, (size_t)n * sizeof *in);
    memcpy(marks, inside, (size_t)n);
    vf_store(out, keep_one(in, marks));
    memcpy(y, out, (size_t)n * sizeof *out);
}

static void keep_f32(const float *g, const uint8_t *inside, float *y, int64_t n, bool stream) {
    V_SEGMENT(
        y, n, stream, keep_some(g + i, inside + i, y + i, count),
        {
            vf out[4];
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) out[k] =
                keep_one(g + i + k * V_LANES, inside + i + k * V_LANES);
            put4_f32(y + i, out, stream);
        },
        put_f32(y + i, keep_one(g + i, inside + i), stream))
    if (stream) v_fence();
}

/* ---- the gradients of scale, zero point and range ---- */

enum { V_GRADIENTS = 64 }; /* elements whose terms lie in the L1 cache; a multiple of every V_LANES */

/* What is added up of some elements: the step's rounding error where the code lies inside, g where it saturates. */
typedef struct {
    float error[V_GRADIENTS], below[V_GRADIENTS], above[V_GRADIENTS];
    bool saturates;
} v_terms;

/* x / S as v_code has it before it rounds. */
V_INLINE vf v_before(vf x, const v_params *v, int64_t i, bool per_element, qn_convention convention) {
    if (convention != QN_TORCH) return v_quotient(x, v, i, per_element, false);
    return v_limited(vf_mul(x, per_element ? vf_div(vf_set1(1), v_scale(v, i, per_element)) : v->i));
}

V_INLINE vi terms_one(vf x, vf g, float *dx, v_terms *t, int64_t at, const qn_affine *p, const v_params *v, int64_t i,
                      bool per_element, qn_convention convention) {
    const vi steps = v_code(x, v, i, per_element, convention, false);
    const v_sides sides = v_sides_of(steps, x, v, i, per_element, p);
    const vf error = vf_sub(vf_from_vi(steps), v_before(x, v, i, per_element, convention));
    vf_store(t->error + at, v_keep(error, sides.inside));
    vf_store(t->below + at, v_keep(g, sides.below));
    vf_store(t->above + at, v_keep(g, sides.above));
    vf_store(dx, v_keep(g, sides.inside));
    return vi_or(sides.below, sides.above);
}

/* The terms of n <= V_GRADIENTS elements at i; those of the elements behind them, up to a whole vector, are 0. */
V_INLINE void terms_of(const float *x, const float *g, float *dx, int64_t n, v_terms *t, const qn_affine *p,
                       const v_params *v, int64_t i, bool per_element, qn_convention convention) {
    vi any = vi_set1(0);
    int64_t k = 0;
    for (; k + V_LANES <= n; k += V_LANES)
        any = vi_or(any, terms_one(vf_load(x + k), vf_load(g + k), dx + k, t, k, p, v, i + k, per_element, convention));
    if (k < n) {
        float in[V_LANES] = {0}, gradient[V_LANES] = {0}, out[V_LANES];
        v_tail padded;
        memcpy(in, x + k, (size_t)(n - k) * sizeof *in);
        memcpy(gradient, g + k, (size_t)(n - k) * sizeof *in);
        v_params tail = per_element ? v_tail_set(&padded, v, i + k, n - k) : *v;
        any = vi_or(any, terms_one(vf_load(in), vf_load(gradient), out, t, k, p, &tail, 0, per_element, convention));
        memcpy(dx + k, out, (size_t)(n - k) * sizeof *out);
    }
    int32_t lanes[V_LANES];
    vi_store(lanes, any);
    t->saturates = false;
    for (int l = 0; l < V_LANES; l++) t->saturates |= lanes[l] != 0;
}

enum { V_SUMS = 16 };

V_INLINE double v_halves(double sum[V_SUMS]) {
    for (int half = V_SUMS / 2; half; half /= 2)
        for (int j = 0; j < half; j++) sum[j] += sum[j + half];
    return sum[0];
}

/* Adding a zero changes no sum, since none is -0: the sums of what saturates may be left out where nothing does. */
V_INLINE void gradient_of(const float *x, const float *g, float *dx, int64_t n, const qn_affine *p, qn_gradient *sums,
                          qn_convention convention) {
    const v_params v = v_params_set(p->scale[0], p->zero_point[0]);
    double error[V_SUMS] = {0}, below[V_SUMS] = {0}, above[V_SUMS] = {0};
    v_terms t;
    for (int64_t i = 0; i < n; i += V_GRADIENTS) {
        const int64_t count = n - i < V_GRADIENTS ? n - i : V_GRADIENTS, whole = count & ~(int64_t)(V_SUMS - 1);
        terms_of(x + i, g + i, dx + i, count, &t, p, &v, 0, false, convention);
        for (int64_t k = 0; k < whole; k += V_SUMS)
            for (int j = 0; j < V_SUMS; j++) error[j] += (double)g[i + k + j] * (double)t.error[k + j];
        for (int64_t k = whole; k < count; k++) error[k - whole] += (double)g[i + k] * (double)t.error[k];
        if (!t.saturates) continue;
        for (int64_t k = 0; k < whole; k += V_SUMS)
            for (int j = 0; j < V_SUMS; j++) below[j] += (double)t.below[k + j], above[j] += (double)t.above[k + j];
        for (int64_t k = whole; k < count; k++)
            below[k - whole] += (double)t.below[k], above[k - whole] += (double)t.above[k];
    }
    sums->error += v_halves(error), sums->below += v_halves(below), sums->above += v_halves(above);
}

static void gradient_f32(const float *x, const float *g, float *dx, int64_t n, const qn_affine *p, qn_gradient *sums) {
    switch (p->convention) {
    case QN_GUIDE: gradient_of(x, g, dx, n, p, sums, QN_GUIDE); break;
    case QN_TORCH: gradient_of(x, g, dx, n, p, sums, QN_TORCH); break;
    case QN_TFLITE: gradient_of(x, g, dx, n, p, sums, QN_TFLITE); break;
    default: gradient_of(x, g, dx, n, p, sums, QN_ONNX);
    }
}

V_INLINE void gradient_columns_of(const float *x, const float *g, float *dx, int64_t n, const qn_affine *p,
                                  double *restrict error, double *restrict below, double *restrict above,
                                  qn_convention convention) {
    const v_params v = {.scale = p->scale, .zero_point = p->zero_point};
    v_terms t;
    for (int64_t i = 0; i < n; i += V_GRADIENTS) {
        const int64_t count = n - i < V_GRADIENTS ? n - i : V_GRADIENTS;
        terms_of(x + i, g + i, dx + i, count, &t, p, &v, i, true, convention);
        for (int64_t k = 0; k < count; k++) error[i + k] += (double)g[i + k] * (double)t.error[k];
        if (!t.saturates) continue;
        for (int64_t k = 0; k < count; k++) below[i + k] += (double)t.below[k], above[i + k] += (double)t.above[k];
    }
}

static void gradient_columns_f32(const float *x, const float *g, float *dx, int64_t n, const qn_affine *p,
                                 double *error, double *below, double *above) {
    switch (p->convention) {
    case QN_GUIDE: gradient_columns_of(x, g, dx, n, p, error, below, above, QN_GUIDE); break;
    case QN_TORCH: gradient_columns_of(x, g, dx, n, p, error, below, above, QN_TORCH); break;
    case QN_TFLITE: gradient_columns_of(x, g, dx, n, p, error, below, above, QN_TFLITE); break;
    default: gradient_columns_of(x, g, dx, n, p, error, below, above, QN_ONNX);
    }
}
