/* Sums over an array and its approximation, and which codes occur.
 *
 * There are eight partial sums, whatever the width of the vectors, and one order of adding them up: the sums have the
 * same bits on every ISA. They are written in vectors of GCC of two doubles, which every ISA has, because the compiler
 * does not vectorize the plain loop.
 */

enum { SUM_PAIRS = 4, SUM_LANES = 2 * SUM_PAIRS };

typedef float v_float2 __attribute__((vector_size(8)));
typedef double v_pair __attribute__((vector_size(16)));
typedef int64_t v_mask2 __attribute__((vector_size(16)));

V_INLINE double v_fold(const v_pair s[SUM_PAIRS]) {
    v_pair sum = (s[0] + s[1]) + (s[2] + s[3]);
    return sum[0] + sum[1];
}

static void error_sums_f32(const float *x, const float *y, int64_t n, qn_error *e) {
    v_pair signal[SUM_PAIRS] = {{0}}, energy[SUM_PAIRS] = {{0}}, dot[SUM_PAIRS] = {{0}}, noise[SUM_PAIRS] = {{0}};
    v_pair peak[SUM_PAIRS] = {{0}};
    for (int64_t i = 0; i < n; i += SUM_LANES) {
        v_float2 in[2][SUM_PAIRS];
        if (n - i >= SUM_LANES) {
            memcpy(in[0], x + i, sizeof in[0]);
            memcpy(in[1], y + i, sizeof in[1]);
        } else { /* zeros add nothing */
            memset(in, 0, sizeof in);
            memcpy(in[0], x + i, (size_t)(n - i) * sizeof *x);
            memcpy(in[1], y + i, (size_t)(n - i) * sizeof *y);
        }
        _Pragma("GCC unroll 4") for (int k = 0; k < SUM_PAIRS; k++) {
            v_pair a = __builtin_convertvector(in[0][k], v_pair), b = __builtin_convertvector(in[1][k], v_pair);
            v_pair error = a - b, size = (v_pair)((v_mask2)error & INT64_MAX);
            v_mask2 more = size > peak[k];
            signal[k] += a * a, energy[k] += b * b, dot[k] += a * b, noise[k] += error * error;
            peak[k] = (v_pair)(((v_mask2)size & more) | ((v_mask2)peak[k] & ~more));
        }
    }
    e->signal += v_fold(signal), e->energy += v_fold(energy), e->dot += v_fold(dot), e->noise += v_fold(noise);
    for (int k = 0; k < SUM_LANES; k++) {
        double size = peak[k / 2][k % 2];
        e->peak = size > e->peak ? size : e->peak;
    }
}

static void codes_seen_8(const uint8_t *codes, int64_t n, uint8_t *seen) {
    for (int64_t i = 0; i < n; i++) seen[codes[i]] = 1;
}
