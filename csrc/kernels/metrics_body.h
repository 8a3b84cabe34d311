/* What a report sums over an array and its approximation, and which codes occur.
 *
 * Eight partial sums, whatever the width of the vectors, folded in one order: the sums have the same bits on every ISA.
 * Plain C, which the compiler turns into vectors.
 */

enum { SUM_LANES = 8 };

typedef struct {
    double signal[SUM_LANES], energy[SUM_LANES], dot[SUM_LANES], noise[SUM_LANES], peak[SUM_LANES];
} v_sums;

V_INLINE void v_sums_add(v_sums *s, int k, double x, double y) {
    double error = x - y, size = fabs(error);
    s->signal[k] += x * x, s->energy[k] += y * y, s->dot[k] += x * y, s->noise[k] += error * error;
    s->peak[k] = size > s->peak[k] ? size : s->peak[k];
}

V_INLINE double v_fold(const double s[SUM_LANES]) {
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static void error_sums_f32(const float *x, const float *y, int64_t n, qn_error *e) {
    v_sums s = {{0}, {0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i < n - n % SUM_LANES; i += SUM_LANES)
        for (int k = 0; k < SUM_LANES; k++) v_sums_add(&s, k, (double)x[i + k], (double)y[i + k]);
    for (int k = 0; i < n; i++, k++) v_sums_add(&s, k, (double)x[i], (double)y[i]);
    e->signal += v_fold(s.signal), e->energy += v_fold(s.energy);
    e->dot += v_fold(s.dot), e->noise += v_fold(s.noise);
    for (int k = 0; k < SUM_LANES; k++) e->peak = s.peak[k] > e->peak ? s.peak[k] : e->peak;
}

static void codes_seen_8(const uint8_t *codes, int64_t n, uint8_t *seen) {
    for (int64_t i = 0; i < n; i++) seen[codes[i]] = 1;
}
