#include "grid_search.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "qparams.h"

enum {
    LANES = 4,   /* grids side by side; each sums over the weights in their order, so lanes are no part of the result */
    RUN = 8,     /* weights whose terms are added in float32, before they go to a sum in float64 */
    STAGE = 256, /* weights on the stack: a multiple of RUN */
    MOST = 128,  /* grids of one pass */
#ifndef STEPS
    STEPS = 24,
    ASIDE = 1,
    ROUNDS = 3,
#endif
};
static const float ROUNDER = 0x1.8p23f; /* added and taken away: rounds what is below 2^22, half to even */

typedef float lanes __attribute__((vector_size(16)));
typedef int32_t lane_mask __attribute__((vector_size(16)));
typedef float half_lanes __attribute__((vector_size(8)));
typedef double pair __attribute__((vector_size(16)));

/* The weights of a group, times a power of two that brings the largest one to [1, 2); the importance alike. */
typedef struct {
    const float *w, *importance;
    int64_t n;
    float w_unit, importance_unit;
    double low, high; /* the range, with 0 */
} samples;

/* Grids that are tried in one pass, and two sums over the weights of each. */
typedef struct {
    int count;
    int32_t zero[MOST];
    float scale[MOST], low[MOST], high[MOST]; /* codes less the zero point are in [low, high] */
    double dot[MOST], energy[MOST];
} trial;

static inline lanes clipped(lanes t, lanes low, lanes high) {
    lane_mask more = t > low;
    t = (lanes)(((lane_mask)t & more) | ((lane_mask)low & ~more));
    lane_mask less = t < high;
    return (lanes)(((lane_mask)t & less) | ((lane_mask)high & ~less));
}

static inline void add(pair sum[2], lanes x) {
    half_lanes parts[2];
    memcpy(parts, &x, sizeof x);
    sum[0] += __builtin_convertvector(parts[0], pair), sum[1] += __builtin_convertvector(parts[1], pair);
}

/* Steps of four grids from their zero points: round(w / scale), clipped. */
static inline lanes steps_of(float w, lanes scale, lanes low, lanes high) {
    return (clipped(w / scale, low, high) + ROUNDER) - ROUNDER;
}

/* Copies up to STAGE weights from `first` on; zeros fill the last run. Returns their number. */
static int64_t stage(const samples *s, int64_t first, float w[STAGE], float importance[STAGE]) {
    int64_t n = s->n - first < STAGE ? s->n - first : STAGE;
    for (int64_t i = 0; i < n; i++) {
        bool finite = fabsf(s->w[first + i]) <= FLT_MAX;
        w[i] = finite ? s->w[first + i] * s->w_unit : 0;
        importance[i] = !finite ? 0 : s->importance ? s->importance[first + i] * s->importance_unit : 1;
    }
    for (; n % RUN; n++) w[n] = importance[n] = 0;
    return n;
}

/* With the steps r of each grid: dot = sum importance w r, energy = sum importance r^2. The best scale for these codes
 * is dot / energy, and the error then sum importance w^2 - dot^2 / energy. */
static void fit(const samples *s, trial *t) {
    float w[STAGE], importance[STAGE];
    memset(t->dot, 0, sizeof t->dot), memset(t->energy, 0, sizeof t->energy);
    for (int64_t first = 0; first < s->n; first += STAGE) {
        int64_t n = stage(s, first, w, importance);
        for (int k = 0; k < t->count; k += LANES) {
            lanes scale, low, high;
            pair dot[2], energy[2];
            memcpy(&scale, t->scale + k, sizeof scale), memcpy(&low, t->low + k, sizeof low);
            memcpy(&high, t->high + k, sizeof high);
            memcpy(dot, t->dot + k, sizeof dot), memcpy(energy, t->energy + k, sizeof energy);
            for (int64_t i = 0; i < n; i += RUN) {
                lanes a = {0}, b = {0};
                for (int64_t j = i; j < i + RUN; j++) {
                    lanes r = steps_of(w[j], scale, low, high), weighted = r * importance[j];
                    a += weighted * w[j], b += weighted * r;
                }
                add(dot, a), add(energy, b);
            }
            memcpy(t->dot + k, dot, sizeof dot), memcpy(t->energy + k, energy, sizeof energy);
        }
    }
}

/* energy = sum importance (scale r - w)^2 of each grid: its error. */
static void judge(const samples *s, trial *t) {
    float w[STAGE], importance[STAGE];
    memset(t->energy, 0, sizeof t->energy);
    for (int64_t first = 0; first < s->n; first += STAGE) {
        int64_t n = stage(s, first, w, importance);
        for (int k = 0; k < t->count; k += LANES) {
            lanes scale, low, high;
            pair energy[2];
            memcpy(&scale, t->scale + k, sizeof scale), memcpy(&low, t->low + k, sizeof low);
            memcpy(&high, t->high + k, sizeof high), memcpy(energy, t->energy + k, sizeof energy);
            for (int64_t i = 0; i < n; i += RUN) {
                lanes a = {0};
                for (int64_t j = i; j < i + RUN; j++) {
                    lanes error = steps_of(w[j], scale, low, high) * scale - w[j];
                    a += error * importance[j] * error;
                }
                add(energy, a);
            }
            memcpy(t->energy + k, energy, sizeof energy);
        }
    }
}

static void offer(trial *t, const qn_levels *l, float scale, int32_t zero) {
    if (zero < l->zero_low || zero > l->zero_high || !(scale >= FLT_MIN) || t->count == MOST) return;
    int k = t->count++;
    t->scale[k] = scale, t->zero[k] = zero;
    t->low[k] = (float)(l->qmin - zero), t->high[k] = (float)(l->qmax - zero);
}

/* Fills the last lanes with the last grid. */
static void pad(trial *t) {
    for (int k = t->count; k % LANES; k++)
        t->scale[k] = t->scale[k - 1], t->low[k] = t->low[k - 1], t->high[k] = t->high[k - 1];
}

/* The grid whose codes, with the best scale for them, have the least error. Returns that scale. */
static int best_fit(const samples *s, trial *t, float *scale) {
    int best = 0;
    double most = -1;
    pad(t), fit(s, t);
    for (int k = 0; k < t->count; k++) {
        double gain = t->dot[k] > 0 ? t->dot[k] * t->dot[k] / t->energy[k] : 0;
        if (gain > most) most = gain, best = k;
    }
    *scale = t->dot[best] > 0 ? qn_scale_rounded(t->dot[best] / t->energy[best]) : t->scale[best];
    return best;
}

static int least_error(const samples *s, trial *t) {
    int best = 0;
    pad(t), judge(s, t);
    for (int k = 1; k < t->count; k++)
        if (t->energy[k] < t->energy[best]) best = k;
    return best;
}

/* The power of two that brings a positive number to [1, 2). */
static float unit_of(float largest) {
    int exponent;
    frexpf(largest, &exponent);
    return ldexpf(1, 1 - exponent > 127 ? 127 : 1 - exponent);
}

/* Returns whether a weight is not 0. */
static bool measure(const float *w, const float *importance, int64_t n, samples *s) {
    float least = 0, most = 0, weight = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(w[i]) <= FLT_MAX)) continue;
        least = w[i] < least ? w[i] : least, most = w[i] > most ? w[i] : most;
        if (importance) weight = importance[i] > weight ? importance[i] : weight;
    }
    if (least == most) return false;
    *s = (samples){w, weight > 0 ? importance : NULL, n, unit_of(fmaxf(-least, most)), 1, 0, 0};
    if (weight > 0) s->importance_unit = unit_of(weight);
    s->low = least * s->w_unit, s->high = most * s->w_unit;
    return true;
}

/* The scale that covers the range with this zero point. */
static double covering(const samples *s, const qn_levels *l, int32_t zero) {
    double up = s->high > 0 ? s->high / fmax(l->qmax - zero, 0.5) : 0;
    double down = s->low < 0 ? -s->low / fmax(zero - l->qmin, 0.5) : 0;
    return fmax(up, down);
}

static qn_qparams min_max_grid(const samples *s, const qn_levels *l) {
    double extent = (s->high - s->low) / (l->qmax - l->qmin);
    int32_t zero = (int32_t)fmin(fmax(rint(l->qmin - s->low / extent), l->zero_low), l->zero_high);
    bool affine = l->zero_low == l->qmin && l->zero_high == l->qmax;
    if (affine) return qn_qparams_of_range(s->low, s->high, false, l->qmin, l->qmax);
    return (qn_qparams){(float)covering(s, l, zero), zero};
}

void qn_grid_search(const float *w, const float *importance, int64_t n, const qn_levels *levels, float *scale,
                    int32_t *zero) {
    samples s;
    trial t = {.count = 0};
    *scale = 1, *zero = levels->zero_low > 0 ? levels->zero_low : levels->zero_high < 0 ? levels->zero_high : 0;
    if (!measure(w, importance, n, &s)) return;
    qn_qparams start = min_max_grid(&s, levels), best;
    const float first = 1.1f, last = 0.25f;
    for (int32_t d = -ASIDE; d <= ASIDE; d++)
        for (int k = 0; k < STEPS; k++)
            offer(&t, levels, start.scale * (first + (last - first) * (float)k / (STEPS - 1)), start.zero_point + d);
    best.zero_point = t.zero[best_fit(&s, &t, &best.scale)];
    trial final = {0};
    offer(&final, levels, start.scale, start.zero_point);
    offer(&final, levels, best.scale, best.zero_point);
    for (int round = 0; round < ROUNDS; round++) {
        t.count = 0;
        for (int32_t d = -1; d <= 1; d++) {
            offer(&t, levels, best.scale, best.zero_point + d);
#ifdef WIDE
            offer(&t, levels, best.scale * 1.03f, best.zero_point + d);
            offer(&t, levels, best.scale * .97f, best.zero_point + d);
#endif
        }
        best.zero_point = t.zero[best_fit(&s, &t, &best.scale)];
        offer(&final, levels, best.scale, best.zero_point);
    }
    int chosen = least_error(&s, &final);
    *scale = qn_scale_rounded((double) final.scale[chosen] / (double)s.w_unit), *zero = final.zero[chosen];
}
