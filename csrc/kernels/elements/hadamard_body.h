/* Products with Hadamard matrices, by additions and subtractions in one order for every ISA. A block is `order` runs of
 * 2^k neighbours. Neighbours in different runs are combined first, then those of a run, far ones before near ones. */

/* y = C x with the symmetric conference matrix of order 6: zeros on the diagonal, C C = 5 I. */
V_INLINE void conference_6(const vf *x, vf *y) {
    vf e[5];
    QN_PRAGMA(GCC unroll 5)
    for (int j = 0; j < 5; j++) e[j] = vf_sub(x[1 + (j + 1) % 5], x[1 + (j + 2) % 5]);
    y[0] = vf_add(vf_add(vf_add(x[1], x[2]), vf_add(x[3], x[4])), x[5]);
    QN_PRAGMA(GCC unroll 5)
    for (int j = 0; j < 5; j++) y[1 + j] = vf_sub(vf_add(x[0], e[j]), e[(j + 2) % 5]);
}

/* The same of order 10, C C = 9 I: behind the first row, 3 x 3 numbers; those in one row or column have the sign +. */
V_INLINE void conference_10(const vf *x, vf *y) {
    vf others[9], rest[9];
    QN_PRAGMA(GCC unroll 9)
    for (int j = 0; j < 9; j++) {
        const int row = 1 + j / 3 * 3, i = j % 3;
        others[j] = vf_add(x[row + (i == 0)], x[row + (i == 2 ? 1 : 2)]);
        rest[j] = vf_sub(x[1 + j], others[j]);
    }
    QN_PRAGMA(GCC unroll 9)
    for (int j = 0; j < 9; j++) {
        const int i = j / 3, first = (i == 0) * 3 + j % 3, second = (i == 2 ? 1 : 2) * 3 + j % 3;
        y[1 + j] = vf_add(vf_add(x[0], others[j]), vf_add(rest[first], rest[second]));
    }
    y[0] = vf_add(vf_add(vf_add(x[1], others[0]), vf_add(x[4], others[3])), vf_add(x[7], others[6]));
}

/* Combines element i of every run, for each i: x is [order][run]. The matrix is [[C + I, C - I], [C - I, -C - I]]. The
 * factors are NULL, or multiply x. */
V_INLINE void combine_runs(const float *x, const float *factors, float *y, const int order, int64_t run) {
    enum { MOST = 10 };
    const int half = order / 2;
    for (int64_t i = 0; i < run; i += V_LANES) {
        vf sum[MOST], difference[MOST], to[MOST];
        QN_PRAGMA(GCC unroll 10)
        for (int j = 0; j < half; j++) {
            vf u = vf_load(x + j * run + i), v = vf_load(x + (half + j) * run + i);
            if (factors) u = vf_mul(u, vf_load(factors + j * run + i));
            if (factors) v = vf_mul(v, vf_load(factors + (half + j) * run + i));
            sum[j] = vf_add(u, v), difference[j] = vf_sub(u, v);
        }
        if (order == 12) conference_6(sum, to);
        else conference_10(sum, to);
        QN_PRAGMA(GCC unroll 10)
        for (int j = 0; j < half; j++) vf_store(y + j * run + i, vf_add(to[j], difference[j]));
        if (order == 12) conference_6(difference, to);
        else conference_10(difference, to);
        QN_PRAGMA(GCC unroll 10)
        for (int j = 0; j < half; j++) vf_store(y + (half + j) * run + i, vf_sub(to[j], sum[j]));
    }
}

/* The steps within a vector, where `mixed` neighbours are combined. */
V_INLINE vf combine_lanes(vf v, int64_t mixed) {
    if (V_LANES > 8 && mixed > 8) v = vf_sum_difference(v, 8);
    if (V_LANES > 4 && mixed > 4) v = vf_sum_difference(v, 4);
    if (V_LANES > 2 && mixed > 2) v = vf_sum_difference(v, 2);
    if (V_LANES > 1 && mixed > 1) v = vf_sum_difference(v, 1);
    return v;
}

/* a, b -> a + b, a - b of two vectors */
#define SUM_DIFFERENCE(a, b)                                                                                           \
    do {                                                                                                               \
        vf difference = vf_sub(a, b);                                                                                  \
        (a) = vf_add(a, b), (b) = difference;                                                                          \
    } while (0)

/* Combines the elements of each run of y[n] whose distance is span / 2 and span / 4. */
static void combine_far(float *y, int64_t n, int64_t span) {
    const int64_t step = span / 4;
    for (int64_t at = 0; at < n; at += span)
        for (float *p = y + at; p < y + at + step; p += V_LANES) {
            vf a = vf_load(p), b = vf_load(p + step), c = vf_load(p + 2 * step), d = vf_load(p + 3 * step);
            SUM_DIFFERENCE(a, c);
            SUM_DIFFERENCE(b, d);
            SUM_DIFFERENCE(a, b);
            SUM_DIFFERENCE(c, d);
            vf_store(p, a), vf_store(p + step, b), vf_store(p + 2 * step, c), vf_store(p + 3 * step, d);
        }
}

/* The last steps: groups of 1, 2 or 4 vectors. The factors are NULL, or multiply the result. */
V_INLINE void combine_near(float *y, const float *factors, int64_t n, const int vectors, int64_t mixed) {
    for (int64_t at = 0; at < n; at += vectors * V_LANES) {
        vf v[4];
        QN_PRAGMA(GCC unroll 4)
        for (int j = 0; j < vectors; j++) v[j] = vf_load(y + at + j * V_LANES);
        if (vectors == 4) {
            SUM_DIFFERENCE(v[0], v[2]);
            SUM_DIFFERENCE(v[1], v[3]);
            SUM_DIFFERENCE(v[2], v[3]);
        }
        if (vectors >= 2) SUM_DIFFERENCE(v[0], v[1]);
        QN_PRAGMA(GCC unroll 4)
        for (int j = 0; j < vectors; j++) {
            v[j] = combine_lanes(v[j], mixed);
            if (factors) v[j] = vf_mul(v[j], vf_load(factors + at + j * V_LANES));
            vf_store(y + at + j * V_LANES, v[j]);
        }
    }
}

/* A block whose runs are whole vectors; `mixed` neighbours of a run are combined. */
V_INLINE void transform_block(const float *x, const float *factors, float *y, int64_t n, int64_t order, int64_t run,
                              int64_t mixed, const bool inverse) {
    const float *before = inverse ? NULL : factors, *after = inverse ? factors : NULL;
    if (order == 12) combine_runs(x, before, y, 12, run);
    else if (order == 20) combine_runs(x, before, y, 20, run);
    else
        for (int64_t i = 0; i < n; i += V_LANES)
            vf_store(y + i, inverse ? vf_load(x + i) : vf_mul(vf_load(x + i), vf_load(factors + i)));
    int64_t span = run;
    for (; span >= 8 * V_LANES; span /= 4) combine_far(y, n, span);
    if (span == 4 * V_LANES) combine_near(y, after, n, 4, mixed);
    else if (span == 2 * V_LANES) combine_near(y, after, n, 2, mixed);
    else combine_near(y, after, n, 1, mixed);
}

/* A block whose runs are shorter than a vector: each lies in a vector of its own. */
V_INLINE void transform_short_runs(const float *x, const float *factors, float *y, int64_t order, int64_t run,
                                   const bool inverse) {
    enum { MOST = 20 };
    float wide[MOST * V_LANES] = {0}, wide_factors[MOST * V_LANES] = {0};
    for (int64_t j = 0; j < order; j++)
        for (int64_t i = 0; i < run; i++)
            wide[j * V_LANES + i] = x[j * run + i], wide_factors[j * V_LANES + i] = factors[j * run + i];
    transform_block(wide, wide_factors, wide, order * V_LANES, order, V_LANES, run, inverse);
    for (int64_t j = 0; j < order; j++)
        for (int64_t i = 0; i < run; i++) y[j * run + i] = wide[j * V_LANES + i];
}

V_INLINE void transform_row(const float *x, float *y, const qn_hadamard *h, const bool inverse) {
    const int64_t run = h->block / h->order;
    for (int64_t at = 0; at < h->size; at += h->block)
        if (run >= V_LANES) transform_block(x + at, h->factors + at, y + at, h->block, h->order, run, V_LANES, inverse);
        else transform_short_runs(x + at, h->factors + at, y + at, h->order, run, inverse);
}

static void hadamard_f32(const float *x, float *y, const qn_hadamard *h) {
    if (h->inverse) transform_row(x, y, h, true);
    else transform_row(x, y, h, false);
}
#undef SUM_DIFFERENCE
