/* The range of the least mean square error of values that are known one by one.
 *
 * Errors are those of the kernels: a float32 division, rounding half to even, saturation, a float32 product. So the
 * search compares candidates by what they really cost, and never loses to one that it tries: the range of the data, the
 * grids that reach from end to end of the data in equal steps, and the thresholds of search_mse.c. */
#include "qparams.h"
#include "search_private.h"

enum { OCTAVES = 40, STEPS = 16, POLISH = 3, LANES = QN_POINT_LANES, MANY = 256 };
static const double NEARLY = 1.25;   /* times the least error: a better step may make it the best */
static const double CLEAR = 0x1p-44; /* of the mean square: errors closer than this differ by roundings alone */

qn_points qn_points_of(const qn_sketch *r, const qn_distinct *d, int64_t k, qn_search_room *space) {
    qn_points v = {.narrow = true,
                   .values = space->values,
                   .counts = space->counts_of,
                   .floats = space->floats,
                   .codes = space->codes};
    outliers apart = outliers_of(r);
    for (int64_t i = d->offsets[k]; i < d->offsets[k + 1]; i++) {
        double x = d->values[i], n = (double)d->counts[i];
        if (apart.count > 0 && fabs(x) >= apart.from) continue;
        space->values[v.n] = x, space->counts_of[v.n] = n, space->floats[v.n] = (float)x;
        v.narrow &= (double)(float)x == x;
        v.total += n, v.square += n * x * x;
        v.n++;
    }
    v.clear = CLEAR * v.square;
    for (v.padded = v.n; v.padded % LANES; v.padded++) /* values that do not occur */
        space->values[v.padded] = space->counts_of[v.padded] = 0, space->floats[v.padded] = 0;
    return v;
}

/* ---- the error of a grid ---- */

/* Sums in LANES parts, so that the compiler may use vectors; the order of the additions is the same everywhere. */
static double sum_of(const double *lanes) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

/* Codes less the zero point. Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even; codes have 17 bits
 * at most. */
static void even_narrow(const qn_points *v, float scale, float least, float most) {
    for (int64_t i = 0; i < v->padded; i++) {
        float c = v->floats[i] / scale;
        c = c < least ? least : c, c = c > most ? most : c;
        v->codes[i] = (c + 0x1.8p23f) - 0x1.8p23f;
    }
}

static void even_wide(const qn_points *v, float scale, double least, double most) {
    for (int64_t i = 0; i < v->padded; i++) {
        double c = v->values[i] / (double)scale;
        c = c < least ? least : c, c = c > most ? most : c;
        v->codes[i] = (float)((c + 0x1.8p52) - 0x1.8p52);
    }
}

static void nearest_floats(const qn_points *v, float scale, const double *reals, int64_t n) {
    for (int64_t i = 0; i < v->padded; i++) {
        double u = v->narrow ? (double)(v->floats[i] / scale) : v->values[i] / (double)scale, magnitude = fabs(u);
        int64_t low = 0, high = n; /* the nearest number lies in [low, high] */
        while (low < high) {
            int64_t middle = (low + high) / 2;
            bool beyond = magnitude > (reals[middle] + reals[middle + 1]) / 2;
            low = beyond ? middle + 1 : low, high = beyond ? high : middle;
        }
        v->codes[i] = (float)copysign(reals[low], u);
    }
}

/* The sum of squared errors; leaves the codes in v->codes. */
static double cost_of(const qn_points *v, const qn_search_spec *p, float scale, int64_t below, int64_t above) {
    double lanes[LANES] = {0};
    if (p->reals) nearest_floats(v, scale, p->reals, p->qmax);
    else if (v->narrow) even_narrow(v, scale, (float)-below, (float)above);
    else even_wide(v, scale, (double)-below, (double)above);
    for (int64_t i = 0; i < v->padded; i += LANES)
        for (int k = 0; k < LANES; k++) {
            double d = v->values[i + k] - (double)(scale * v->codes[i + k]);
            lanes[k] += v->counts[i + k] * (d * d);
        }
    return sum_of(lanes);
}

/* The step of the least error for the codes in v->codes; 0 if all of them are 0. */
static double best_step(const qn_points *v) {
    double by_value[LANES] = {0}, by_code[LANES] = {0};
    for (int64_t i = 0; i < v->padded; i += LANES)
        for (int k = 0; k < LANES; k++) {
            double c = (double)v->codes[i + k], weighted = v->counts[i + k] * c;
            by_value[k] += weighted * v->values[i + k], by_code[k] += weighted * c;
        }
    double squares = sum_of(by_code);
    return squares > 0 ? sum_of(by_value) / squares : 0;
}

static double reach_of(const qn_search_spec *p) {
    return p->reals ? p->reals[p->qmax] : (double)((p->qmax - p->qmin) / 2);
}

double qn_points_mse(const qn_points *v, const qn_search_spec *p, double low, double high) {
    qn_qparams q = qn_qparams_of_range(low, high, p->symmetric, p->qmin, p->qmax);
    if (p->reals) q.scale = qn_scale_of_extent(fmax(-low, high), reach_of(p));
    int64_t half = (p->qmax - p->qmin) / 2;
    int64_t below = p->symmetric ? half : q.zero_point - p->qmin, above = p->symmetric ? half : p->qmax - q.zero_point;
    return cost_of(v, p, q.scale, below, above) / v->total;
}

/* ---- the search ---- */

typedef struct {
    const qn_points *v;
    const qn_search_spec *p;
    int64_t levels;
    double bottom, top; /* magnitudes of the ends, with zero inside */
    double low, high;   /* the best range */
    double error, step;
    int64_t below;
} search;

static int64_t above_of(const search *s, int64_t below) { return s->p->symmetric ? below : s->levels - below; }

/* Takes a grid if it is clearly better. If it is nearly as good as the best, its codes lead to the best step for these
 * codes, and so on. Returns the error of the grid itself. */
static double attempt(search *s, double step, int64_t below) {
    const double reach = s->p->reals ? reach_of(s->p) : 0;
    double first = INFINITY;
    if (step * reach > fmax(fmax(s->bottom, s->top), (double)FLT_MAX)) return first;
    for (int i = 0; i < POLISH; i++) {
        float scale = qn_scale_rounded(step);
        int64_t above = above_of(s, below);
        double error = cost_of(s->v, s->p, scale, below, above);
        if (i == 0) first = error;
        if (error < s->error - s->v->clear) {
            s->error = error, s->step = (double)scale, s->below = below;
            s->low = -(double)scale * (reach > 0 ? reach : (double)below);
            s->high = (double)scale * (reach > 0 ? reach : (double)above);
        }
        if (!(error < NEARLY * s->error)) break;
        step = best_step(s->v);
        if (!(step >= (double)FLT_MIN && step <= (double)FLT_MAX) || (float)step == scale) break;
    }
    return first;
}

/* The cost of clipping alone, at levels -below and above. */
static double clipping_cost(const qn_points *v, double below, double above) {
    double sum = 0;
    for (int64_t i = 0; i < v->n; i++) {
        double x = v->values[i], d = x > above ? x - above : x < -below ? x + below : 0;
        sum += v->counts[i] * d * d;
    }
    return sum;
}

/* The smallest difference of two neighbours, zero among them: the step of a grid of which two neighbours occur. */
static double smallest_gap(const qn_points *v) {
    double gap = INFINITY, last = v->values[0] > 0 ? 0 : v->values[0];
    for (int64_t i = v->values[0] > 0 ? 0 : 1; i < v->n; i++) {
        double x = v->values[i];
        if (last < 0 && x > 0) gap = fmin(gap, -last), last = 0;
        gap = fmin(gap, x - last), last = x;
    }
    if (last < 0) gap = fmin(gap, -last);
    return gap;
}

static void attempt_around(search *s, double step, int64_t below) {
    attempt(s, step, below);
    float scale = qn_scale_rounded(step);
    attempt(s, (double)nextafterf(scale, 0), below), attempt(s, (double)nextafterf(scale, FLT_MAX), below);
}

static void search_symmetric(search *s) {
    const qn_search_spec *p = s->p;
    const double reach = reach_of(p), widest = fmax(s->bottom, s->top), top = p->reals ? 2 * widest : widest;
    const double gap = smallest_gap(s->v);
    const int64_t half = (p->qmax - p->qmin) / 2;
    /* Grids with a level at the end of the data. One of m steps is among those of 2 m steps. */
    for (int64_t m = p->qmax; p->reals && m > 0 && p->reals[m] > reach / 4; m--) attempt(s, widest / p->reals[m], half);
    for (int64_t m = half; !p->reals && half < MANY && m > half / 2; m--) attempt(s, widest / (double)m, half);
    if (!p->reals && gap * (double)half <= 2 * widest) attempt(s, gap, half);
    for (int j = 0; j < STEPS * OCTAVES; j++) {
        double t = top * exp2(-j / (double)STEPS);
        if (clipping_cost(s->v, t, t) >= s->error) break;
        attempt(s, t / reach, half);
    }
    for (int fine = STEPS * 8; fine <= STEPS * 64; fine *= 8) {
        double center = s->step;
        for (int i = -7; i <= 7; i++) attempt(s, center * exp2(i / (double)fine), half);
    }
    attempt_around(s, s->step, half);
}

/* Zero has a code, and no code lies a whole step beyond the data. */
static bool fits(const search *s, double step, int64_t below) {
    return below >= 0 && below <= s->levels && (double)(below - 1) * step <= s->bottom &&
           (double)(s->levels - below - 1) * step <= s->top;
}

/* Moves to the best of eight neighbours in step and zero point until none is better, then halves the distance. */
static void descend_from(search *s, double step, int64_t below) {
    int64_t shift = s->levels / 8 > 0 ? s->levels / 8 : 1;
    double error = attempt(s, step, below);
    for (double octave = 0.25; octave > 1.0 / 1024;) {
        double best = error, best_step = step;
        int64_t best_below = below;
        for (int i = -1; i <= 1; i++)
            for (int64_t d = -shift; d <= shift; d += shift) {
                double near = step * exp2(i * octave), cost;
                if ((i == 0 && d == 0) || !fits(s, near, below + d)) continue;
                if ((cost = attempt(s, near, below + d)) < best) best = cost, best_step = near, best_below = below + d;
            }
        if (best < error) error = best, step = best_step, below = best_below;
        else octave /= 2, shift = shift > 1 ? shift / 2 : 1;
    }
}

static int64_t codes_below(const search *s, double step, double low) {
    return (int64_t)fmin(fmax(rint(low / step), 0), (double)s->levels);
}

static void search_affine(search *s) {
    const qn_points *v = s->v;
    const double extent = s->bottom + s->top, levels = (double)s->levels, gap = smallest_gap(v);
    for (int64_t m = s->levels; s->levels < MANY && m > s->levels / 2; m--) { /* see search_symmetric */
        double step = extent / (double)m;
        attempt(s, step, codes_below(s, step, s->bottom));
    }
    if (gap * levels <= 2 * extent) {
        attempt(s, gap, codes_below(s, gap, s->bottom));
        attempt(s, gap, (int64_t)fmax(levels - fmin(rint(s->top / gap), levels), 0));
    }
    double cost_low[4 * OCTAVES], cost_high[4 * OCTAVES], best = INFINITY, low = s->bottom, high = s->top;
    int lows = 0, highs = 0;
    do cost_low[lows] = clipping_cost(v, s->bottom * exp2(-lows / 4.0), s->top);
    while (cost_low[lows++] < s->error && lows < 4 * OCTAVES && s->bottom > 0);
    do cost_high[highs] = clipping_cost(v, s->bottom, s->top * exp2(-highs / 4.0));
    while (cost_high[highs++] < s->error && highs < 4 * OCTAVES && s->top > 0);
    for (int i = 0; i < highs; i++)
        for (int j = 0; j < lows; j++) {
            double h = s->top * exp2(-i / 4.0), l = s->bottom * exp2(-j / 4.0), step = (h + l) / levels;
            double cost = cost_high[i] + cost_low[j] + step * step / 12 * v->total;
            if (cost < best) best = cost, low = l, high = h;
        }
    descend_from(s, extent / levels, codes_below(s, extent / levels, s->bottom));
    if (low + high < extent) descend_from(s, (low + high) / levels, codes_below(s, (low + high) / levels, low));
    const int64_t center = s->below;
    for (int64_t below = center - 4; below <= center + 4; below++) { /* a code exactly at an end of the data */
        if (below < 0 || below > s->levels) continue;
        if (below > 0 && s->bottom > 0) attempt(s, s->bottom / (double)below, below);
        if (below < s->levels && s->top > 0) attempt(s, s->top / (double)(s->levels - below), below);
    }
    attempt_around(s, s->step, s->below);
}

void qn_search_points(const qn_sketch *r, const qn_points *v, const qn_search_spec *p, double *low, double *high,
                      double *error) {
    *low = -extreme(r, true), *high = extreme(r, false), *error = 0;
    if (!(fmax(-*low, *high) >= FLT_MIN)) return; /* no normal scale is that small: all elements become zero */
    search s = {.v = v, .p = p, .levels = p->qmax - p->qmin};
    s.bottom = fmax(-v->values[0], 0), s.top = fmax(v->values[v->n - 1], 0);
    s.low = -s.bottom, s.high = s.top;
    s.error = qn_points_mse(v, p, s.low, s.high) * v->total;
    qn_qparams q = qn_qparams_of_range(s.low, s.high, p->symmetric, p->qmin, p->qmax);
    if (p->reals) q.scale = qn_scale_of_extent(fmax(s.bottom, s.top), reach_of(p));
    s.step = (double)q.scale, s.below = p->symmetric ? s.levels / 2 : q.zero_point - p->qmin;
    if (p->symmetric) {
        double most = fmax(s.bottom, s.top);
        s.low = -most, s.high = most;
        search_symmetric(&s);
    } else {
        search_affine(&s);
    }
    *low = s.low, *high = s.high, *error = s.error / v->total;
}
