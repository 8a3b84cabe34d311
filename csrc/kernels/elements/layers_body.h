/* Layers that stay in float32 between products: GELU, and LayerNormalization of a sum. */

/* erf(c / sqrt(2)) = c P(c c) / Q(c c), highest power first; beyond QN_GELU_END it rounds to 1. */
static const float v_gelu_p[] = {-1.5100910799592526e-10f, 1.056397067600301e-07f, 1.691324905550573e-05f,
                                 0.0003393857623450458f,   0.009604856371879578f,  0.06530629843473434f,
                                 0.7978845834732056f};
static const float v_gelu_q[] = {2.000344466068782e-06f, 8.185199840227142e-05f, 0.0019317388068884611f,
                                 0.028457004576921463f,  0.24851608276367188f,   1.0f};

V_INLINE vf v_horner(const float *coefficients, int count, vf t) {
    vf sum = vf_set1(coefficients[0]);
    QN_PRAGMA(GCC unroll 8)
    for (int k = 1; k < count; k++) sum = vf_add(vf_mul(sum, t), vf_set1(coefficients[k]));
    return sum;
}

V_INLINE vf v_hold(vf x, float bound) { return vf_min(vf_set1(bound), vf_max(vf_set1(-bound), x)); } /* NaN stays */

V_INLINE vf v_gelu(vf x) {
    const vf c = v_hold(x, QN_GELU_END), t = vf_mul(c, c);
    const vf erf = vf_div(vf_mul(c, v_horner(v_gelu_p, 7, t)), v_horner(v_gelu_q, 6, t));
    return vf_mul(vf_mul(x, vf_set1(0.5f)), vf_add(vf_set1(1.0f), v_hold(erf, 1.0f)));
}

static void gelu_f32(const float *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) vf_store(y + i, v_gelu(vf_load(x + i)));
    if (i == n) return;
    float last[V_LANES] = {0};
    memcpy(last, x + i, (size_t)(n - i) * sizeof *x);
    vf_store(last, v_gelu(vf_load(last)));
    memcpy(y + i, last, (size_t)(n - i) * sizeof *y);
}

/* ---- LayerNormalization ---- */

enum { PARTIAL_SUMS = 16, SUM_VECTORS = PARTIAL_SUMS / V_LANES };

V_INLINE float v_total(const vf *sums) {
    float sum[PARTIAL_SUMS];
    for (int v = 0; v < SUM_VECTORS; v++) vf_store(sum + v * V_LANES, sums[v]);
    for (int half = PARTIAL_SUMS / 2; half; half /= 2)
        for (int k = 0; k < half; k++) sum[k] += sum[k + half];
    return *sum;
}

V_INLINE void v_add_rows(const float *x, const float *residual, float *to, vf *sums) {
    QN_PRAGMA(GCC unroll 16)
    for (int v = 0; v < SUM_VECTORS; v++) {
        vf s = vf_add(vf_load(x + v * V_LANES), vf_load(residual + v * V_LANES));
        vf_store(to + v * V_LANES, s), sums[v] = vf_add(sums[v], s);
    }
}

V_INLINE void v_add_squares(const float *x, vf mean, vf *sums) {
    QN_PRAGMA(GCC unroll 16)
    for (int v = 0; v < SUM_VECTORS; v++) {
        vf d = vf_sub(vf_load(x + v * V_LANES), mean);
        sums[v] = vf_add(sums[v], vf_mul(d, d));
    }
}

V_INLINE vf v_normalized(const float *x, vf mean, vf inverse, const float *gamma, const float *beta) {
    vf y = vf_mul(vf_mul(vf_sub(vf_load(x), mean), inverse), vf_load(gamma));
    return beta ? vf_add(y, vf_load(beta)) : y;
}

static void add_norm_f32(const qn_norm *p) {
    const int64_t n = p->n, whole = n / PARTIAL_SUMS * PARTIAL_SUMS, rest = n - whole;
    const size_t bytes = (size_t)rest * sizeof(float);
    vf sums[SUM_VECTORS], squares[SUM_VECTORS];
    for (int v = 0; v < SUM_VECTORS; v++) sums[v] = squares[v] = vf_set1(0);
    for (int64_t i = 0; i < whole; i += PARTIAL_SUMS) v_add_rows(p->x + i, p->residual + i, p->sum + i, sums);
    float last[PARTIAL_SUMS] = {0}, other[PARTIAL_SUMS] = {0};
    if (rest) {
        memcpy(last, p->x + whole, bytes), memcpy(other, p->residual + whole, bytes);
        v_add_rows(last, other, last, sums);
        memcpy(p->sum + whole, last, bytes);
    }
    const float mean = v_total(sums) / (float)n;
    const vf middle = vf_set1(mean);
    for (int64_t i = 0; i < whole; i += PARTIAL_SUMS) v_add_squares(p->sum + i, middle, squares);
    for (int64_t i = rest; i < PARTIAL_SUMS; i++) last[i] = mean; /* no distance */
    if (rest) v_add_squares(last, middle, squares);
    const float inverse = 1.0f / sqrtf(v_total(squares) / (float)n + p->epsilon);
    const vf factor = vf_set1(inverse);
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES)
        vf_store(p->y + i, v_normalized(p->sum + i, middle, factor, p->gamma + i, p->beta ? p->beta + i : NULL));
    for (; i < n; i++) {
        const float y = (p->sum[i] - mean) * inverse * p->gamma[i];
        p->y[i] = p->beta ? y + p->beta[i] : y;
    }
}
