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
    MOST = 172,  /* grids of one pass: a multiple of LANES */
    /* the first pass */
    SCALES = 40,      /* of each zero point, if there are a few */
    FEW = 3,          /* zero points */
    ENDS = 9,         /* lower ends of the range, each with so many upper ends; zero points are rounded */
    OFFSET_ENDS = 13, /* the same; offsets are not rounded, and more of them differ */
    /* the next ones, around the best grid */
    ROUNDS = 3,
    ASIDE = 2, /* scales below it, and above */
};
/* A range is tried from a part above its own, whose fewer levels may fit better, to a quarter. */
static const double WIDEST = 1.3, NARROWEST = 0.25;
static const double STEP = 0.04;        /* between the scales of the first round; each round halves it */
static const double SHIFT = 1.0 / 3;    /* of a step, between the offsets of a round */
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
    double low, high; /* the range */
} samples;

/* Grids that are tried in one pass, and sums over the weights of each. A level is scale (q - zero) or scale q + offset;
 * the steps of a weight, q - zero or q, are in [low, high]. */
typedef struct {
    int count;
    int32_t zero[MOST];
    float scale[MOST], offset[MOST], low[MOST], high[MOST];
    double sum[MOST], energy[MOST], dot[MOST];
} trial;

/* ---- sums ---- */

/* The smaller and the larger one of the bounds where t is beyond them; `low` where t is NaN. */
static inline lanes clipped(lanes t, lanes low, lanes high) {
    lane_mask more = t > low;
    t = (lanes)(((lane_mask)t & more) | ((lane_mask)low & ~more));
    lane_mask less = t < high;
    return (lanes)(((lane_mask)t & less) | ((lane_mask)high & ~less));
}

static inline lanes rounded(lanes t) { return (t + ROUNDER) - ROUNDER; }

static inline lanes load(const float *from) {
    lanes x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void add(double sum[LANES], lanes x) {
    half_lanes parts[2];
    pair sums[2];
    memcpy(parts, &x, sizeof x), memcpy(sums, sum, sizeof sums);
    sums[0] += __builtin_convertvector(parts[0], pair), sums[1] += __builtin_convertvector(parts[1], pair);
    memcpy(sum, sums, sizeof sums);
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

/* Which sums a pass makes of the steps r of each grid and h = importance. */
typedef enum {
    FIT_GRID,   /* energy = sum h r^2, dot = sum h r w */
    FIT_OFFSET, /* the same, and sum = sum h r; w and the offset less `center` */
    ERROR_GRID, /* energy = sum h (level - w)^2 */
    ERROR_OFFSET
} pass;

static inline __attribute__((always_inline)) void sum_run(const float *w, const float *importance, trial *t, int k,
                                                          pass kind, float center) {
    const lanes scale = load(t->scale + k), low = load(t->low + k), high = load(t->high + k);
    const lanes offset = kind == FIT_OFFSET || kind == ERROR_OFFSET ? load(t->offset + k) : scale;
    lanes sum = {0}, energy = {0}, dot = {0};
    for (int j = 0; j < RUN; j++) {
        lanes x = {w[j], w[j], w[j], w[j]}, r;
        if (kind == FIT_OFFSET) x -= center;
        if (kind == FIT_OFFSET || kind == ERROR_OFFSET) r = rounded(clipped((w[j] - offset) / scale, low, high));
        else r = rounded(clipped(x / scale, low, high));
        if (kind == FIT_GRID || kind == FIT_OFFSET) {
            lanes weighted = r * importance[j];
            if (kind == FIT_OFFSET) sum += weighted;
            energy += weighted * r, dot += weighted * x;
        } else {
            lanes level = r * scale;
            if (kind == ERROR_OFFSET) level += offset;
            energy += (level - x) * importance[j] * (level - x);
        }
    }
    if (kind == FIT_OFFSET) add(t->sum + k, sum);
    if (kind == FIT_GRID || kind == FIT_OFFSET) add(t->dot + k, dot);
    add(t->energy + k, energy);
}

static inline __attribute__((always_inline)) void sum_pass(const samples *s, trial *t, pass kind, float center) {
    float w[STAGE], importance[STAGE];
    int count = t->count;
    for (; t->count % LANES; t->count++) { /* the last lanes repeat a grid */
        int k = t->count;
        t->scale[k] = t->scale[0], t->offset[k] = t->offset[0], t->low[k] = t->low[0], t->high[k] = t->high[0];
    }
    for (int k = 0; k < t->count; k++) t->sum[k] = t->energy[k] = t->dot[k] = 0;
    for (int64_t first = 0; first < s->n; first += STAGE) {
        int64_t n = stage(s, first, w, importance);
        for (int k = 0; k < t->count; k += LANES)
            for (int64_t i = 0; i < n; i += RUN) sum_run(w + i, importance + i, t, k, kind, center);
    }
    t->count = count;
}

/* ---- a group ---- */

/* The power of two that brings a positive number to [1, 2); 2^127 for those below 2^-127. */
static float unit_of(float positive) {
    int exponent;
    frexpf(positive, &exponent);
    return ldexpf(1, 1 - exponent > 127 ? 127 : 1 - exponent);
}

/* Returns false if the weights are all one value, which is in s->low and s->high. */
static bool measure(const float *w, const float *importance, int64_t n, samples *s) {
    float least = FLT_MAX, most = -FLT_MAX, weight = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(w[i]) <= FLT_MAX)) continue;
        least = w[i] < least ? w[i] : least, most = w[i] > most ? w[i] : most;
        if (importance) weight = importance[i] > weight ? importance[i] : weight;
    }
    if (least > most) least = most = 0;
    *s = (samples){w, weight > 0 ? importance : NULL, n, 1, 1, least, most};
    if (weight > 0) s->importance_unit = unit_of(weight);
    if (least != 0 || most != 0) s->w_unit = unit_of(fmaxf(-least, most));
    s->low *= s->w_unit, s->high *= s->w_unit;
    return least < most;
}

/* The scale of the weights themselves. */
static double weight_scale(const samples *s, double scale) { return scale / (double)s->w_unit; }

/* Whether scales around this one are normal and their levels finite. */
static bool is_ordinary(const samples *s, double scale, int32_t qmin, int32_t qmax) {
    return weight_scale(s, scale) >= 16 * (double)FLT_MIN && weight_scale(s, scale) <= FLT_MAX / (4.0 * (qmax - qmin));
}

static void offer(trial *t, double scale, float offset, int32_t zero, int32_t qmin, int32_t qmax) {
    int k = t->count;
    if (k == MOST || !(scale >= FLT_MIN)) return;
    t->scale[k] = (float)scale, t->offset[k] = offset, t->zero[k] = zero;
    t->low[k] = (float)(qmin - zero), t->high[k] = (float)(qmax - zero), t->count++;
}

static int least_error(const trial *t) {
    int best = 0;
    for (int k = 1; k < t->count; k++)
        if (t->energy[k] < t->energy[best]) best = k;
    return best;
}

/* The part of a range that is tried at place i of n. */
static double part(int i, int n) { return WIDEST - (WIDEST - NARROWEST) * i / (n - 1); }

/* ---- zero points ---- */

static void offer_grid(trial *t, const qn_levels *l, double scale, int32_t zero) {
    if (zero >= l->zero_low && zero <= l->zero_high) offer(t, scale, 0, zero, l->qmin, l->qmax);
}

/* The zero point of a range that starts at `low`, before it is rounded: `least` if no steps are below it. */
static int32_t zero_of(const qn_levels *l, double low, double scale) {
    return (int32_t)fmin(fmax(rint(l->qmin - low / scale), l->zero_low), l->zero_high);
}

/* The grid of the range from minimum to maximum: that of qn_qparams_of_range if every code is a zero point; else the
 * codes reach both ends. */
static void min_max_grid(const samples *s, const qn_levels *l, double *scale, int32_t *zero) {
    if (l->zero_low == l->qmin && l->zero_high == l->qmax) {
        qn_qparams p = qn_qparams_of_range(s->low, s->high, false, l->qmin, l->qmax);
        *scale = (double)p.scale, *zero = p.zero_point;
        return;
    }
    *zero = zero_of(l, s->low, (s->high - s->low) / (l->qmax - l->qmin));
    double up = s->high > 0 ? s->high / fmax(l->qmax - *zero, 0.5) : 0;
    double down = s->low < 0 ? -s->low / fmax(*zero - l->qmin, 0.5) : 0;
    *scale = (double)qn_scale_rounded(fmax(up, down));
}

/* Of a few zero points: the grid whose codes reach the end of largest magnitude alone, on its longer side. */
static void offer_longer_side(trial *t, const samples *s, const qn_levels *l) {
    const bool below = -s->low >= s->high;
    const int32_t zero = below ? l->zero_high : l->zero_low, steps = below ? zero - l->qmin : l->qmax - zero;
    if (l->zero_low < l->zero_high && steps > 0) offer_grid(t, l, fmax(-s->low, s->high) / steps, zero);
}

/* Replaces a grid by the one whose codes, with the best scale for them, have the least error, and that scale: for the
 * codes of a grid it is dot / energy, with an error of sum h w^2 - dot^2 / energy. */
static void fit_grid(const samples *s, trial *t, double *scale, int32_t *zero) {
    double most = 0;
    sum_pass(s, t, FIT_GRID, 0);
    for (int k = 0; k < t->count; k++) {
        double gain = t->dot[k] > 0 ? t->dot[k] / t->energy[k] * t->dot[k] : 0;
        if (gain > most) most = gain, *zero = t->zero[k], *scale = (float)(t->dot[k] / t->energy[k]);
    }
}

void qn_grid_search(const float *w, const float *importance, int64_t n, const qn_levels *l, float *scale,
                    int32_t *zero) {
    samples s;
    trial t, kept;
    double step;
    int32_t center;
    measure(w, importance, n, &s);
    s.low = fmin(s.low, 0), s.high = fmax(s.high, 0);
    *scale = 1, *zero = l->zero_low == l->qmin ? l->qmin : l->zero_high;
    if (s.low == s.high) return;
    min_max_grid(&s, l, &step, &center);
    *scale = qn_scale_rounded(weight_scale(&s, step)), *zero = center;
    if (!is_ordinary(&s, step, l->qmin, l->qmax)) return;
    t.count = kept.count = 0;
    offer_grid(&kept, l, step, center);
    if (l->zero_high - l->zero_low < FEW) {
        offer_longer_side(&kept, &s, l);
        for (int32_t z = l->zero_low; z <= l->zero_high; z++)
            for (int i = 0; i < SCALES; i++) offer_grid(&t, l, step * part(i, SCALES), z);
    } else {
        for (int i = 0; i < ENDS; i++)
            for (int j = 0; j < ENDS; j++) {
                double low = s.low * part(i, ENDS), width = s.high * part(j, ENDS) - low;
                offer_grid(&t, l, width / (l->qmax - l->qmin), zero_of(l, low, width / (l->qmax - l->qmin)));
            }
    }
    fit_grid(&s, &t, &step, &center);
    for (int round = 0; round < ROUNDS; round++) {
        offer_grid(&kept, l, step, center);
        t.count = 0;
        for (int32_t z = -1; z <= 1; z++)
            for (int i = -ASIDE; i <= ASIDE; i++) offer_grid(&t, l, step * (1 + ldexp(STEP, -round) * i), center + z);
        fit_grid(&s, &t, &step, &center);
    }
    offer_grid(&kept, l, step, center);
    sum_pass(&s, &kept, ERROR_GRID, 0);
    int best = least_error(&kept);
    *scale = (float)weight_scale(&s, (double)kept.scale[best]), *zero = kept.zero[best];
}

/* ---- offsets ---- */

typedef struct {
    double scale, offset;
} line;

static void offer_line(trial *t, line l, int32_t qmin, int32_t qmax) {
    offer(t, l.scale, (float)l.offset, 0, qmin, qmax);
}

/* Replaces a line by the one whose codes, with the best scale and offset for them, have the least error, and those. */
static void fit_offset(const samples *s, trial *t, double weight, double sum, float center, line *best) {
    double most = 0;
    sum_pass(s, t, FIT_OFFSET, center);
    for (int k = 0; k < t->count; k++) {
        double dot = t->dot[k] - t->sum[k] / weight * sum, energy = t->energy[k] - t->sum[k] / weight * t->sum[k];
        double gain = dot > 0 && energy > 0 ? dot / energy * dot : 0;
        if (!(gain > most)) continue;
        most = gain, best->scale = dot / energy;
        best->offset = (double)center + (sum - best->scale * t->sum[k]) / weight;
    }
}

/* weight = sum h, *sum = sum h (w - *center), with the weighted mean of w rounded as the center. */
static double center_of(const samples *s, float *center, double *sum) {
    float w[STAGE], importance[STAGE];
    double weight = 0, total = 0;
    for (int64_t first = 0; first < s->n; first += STAGE) {
        int64_t n = stage(s, first, w, importance);
        for (int64_t i = 0; i < n; i++) weight += (double)importance[i], total += (double)importance[i] * (double)w[i];
    }
    *center = (float)(total / weight), *sum = total - weight * (double)*center;
    return weight;
}

void qn_offset_search(const float *w, const float *importance, int64_t n, int32_t qmin, int32_t qmax, float *scale,
                      float *offset) {
    samples s;
    trial t, kept;
    float center;
    double sum;
    *scale = 1;
    if (!measure(w, importance, n, &s)) {
        *offset = (float)(s.low / (double)s.w_unit);
        return;
    }
    const double weight = center_of(&s, &center, &sum), width = s.high - s.low;
    line best = {width / (qmax - qmin), s.low - width / (qmax - qmin) * qmin};
    *scale = qn_scale_rounded(weight_scale(&s, best.scale)), *offset = (float)(best.offset / (double)s.w_unit);
    if (!is_ordinary(&s, best.scale, qmin, qmax)) return;
    t.count = kept.count = 0;
    offer_line(&kept, best, qmin, qmax);
    for (int i = 0; i < OFFSET_ENDS; i++)
        for (int j = 0; j < OFFSET_ENDS; j++) {
            double low = center + (s.low - center) * part(i, OFFSET_ENDS);
            double step = (center + (s.high - center) * part(j, OFFSET_ENDS) - low) / (qmax - qmin);
            offer_line(&t, (line){step, low - step * qmin}, qmin, qmax);
        }
    fit_offset(&s, &t, weight, sum, center, &best);
    for (int round = 0; round < ROUNDS; round++) {
        offer_line(&kept, best, qmin, qmax);
        t.count = 0;
        for (int z = -1; z <= 1; z++)
            for (int i = -ASIDE; i <= ASIDE; i++) {
                double times = 1 + ldexp(STEP, -round) * i;
                double offset = center + (best.offset - center) * times + z * SHIFT * best.scale;
                offer_line(&t, (line){best.scale * times, offset}, qmin, qmax);
            }
        fit_offset(&s, &t, weight, sum, center, &best);
    }
    offer_line(&kept, best, qmin, qmax);
    sum_pass(&s, &kept, ERROR_OFFSET, 0);
    int k = least_error(&kept);
    *scale = (float)weight_scale(&s, (double)kept.scale[k]),
    *offset = (float)((double)kept.offset[k] / (double)s.w_unit);
}
