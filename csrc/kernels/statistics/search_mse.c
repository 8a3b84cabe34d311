/* The range of the least mean square error. */
#include "qparams.h"
#include "search_private.h"

enum {
    OCTAVES = 40, /* below the largest magnitude: smaller elements round to zero on every grid tried */
    EXACT = 256,  /* cells of a side that are summed one by one; bins beyond them are wider than cells */
    STEPS = 16,   /* thresholds tried in each octave */
};
static const double CLEAR = 2; /* times the uncertainty of an error that is estimated from bins: a gain that counts */

/* Fills room[QN_BINS / 2 + 2] with the cells of a side. Elements beyond the bin `cut` are left out. */
static side side_of(const qn_sketch *r, bool symmetric, bool negative, int64_t cut, int exponent, cell *room) {
    const int drop = 7 - r->bits;
    side s = {.cells = room, .shift = 52 - r->bits};
    int64_t lowest = ((cut >> 7) - OCTAVES) << 7, highest = -1, first = cut, m;
    double count, total = 0, n = 0, sum = 0, square = 0;
    bool sign;
    if (lowest < 128) lowest = 128;
    for (descent d = descent_of(r, symmetric, negative); descend(&d, &m, &count, &sign);)
        if (m >= lowest && m <= cut) highest = m > highest ? m : highest, first = m < first ? m : first;
    if (highest < 0) first = highest = lowest;
    s.count = ((highest - first) >> drop) + 1;
    s.base = ((int64_t)((first >> 7) + 1023 - 127 - exponent) << r->bits) + ((first & 127) >> drop);
    for (int64_t i = 0; i < s.count + 2; i++) room[i] = (cell){0};
    for (descent d = descent_of(r, symmetric, negative); descend(&d, &m, &count, &sign);) {
        if (m > cut) continue;
        total += count;
        if (m >= first) room[1 + ((m - first) >> drop)].q += count;
    }
    double largest = symmetric ? fmax(extreme(r, false), extreme(r, true)) : extreme(r, negative);
    for (int64_t i = 1; i <= s.count; i++) n += room[i].q;
    n = total - n; /* zeros, and elements that round to zero */
    room[0].p = n;
    for (int64_t i = 1; i <= s.count; i++) {
        double from, to, c = room[i].q;
        ends(r, first + ((i - 1) << drop), c, largest, &from, &to);
        from = ldexp(from, -exponent), to = ldexp(to, -exponent);
        double q = c / (to - from);
        room[i] = (cell){n - q * from, q, sum - q * from * from / 2, square - q * from * from * from / 3, from};
        n += c, sum += c * (from + to) / 2, square += c * (from * from + from * to + to * to) / 3;
        if (c > 0) s.top = to;
    }
    room[s.count + 1] = (cell){n, 0, sum, square, s.top};
    return s;
}

static const cell *all_of(const side *s) { return s->cells + s->count + 1; }

/* The cell of x; raises x to its lower end. */
static const cell *cell_of(const side *s, double *x) {
    if (*x >= s->top) return all_of(s);
    int64_t bits, i;
    memcpy(&bits, x, sizeof bits);
    i = (bits >> s->shift) - s->base + 1;
    const cell *c = s->cells + (i < 0 ? 0 : i < s->count ? i : s->count); /* the last bin may end beyond float32 */
    *x = fmax(*x, c->from);
    return c;
}

/* The sum of (x - t)^2 over x > t, which is the cost of clipping at t. */
static double clipping_cost(const side *s, double t) {
    double x = t;
    const cell *all = all_of(s), *c = cell_of(s, &x);
    double n = all->p - (c->p + c->q * x), sum = all->r - (c->r + c->q * x * x / 2);
    double square = all->s - (c->s + c->q * x * x * x / 3);
    return fmax(square - 2 * t * sum + t * t * n, 0);
}

/* The sum of squared errors of one side on the grid 0, step, ..., levels * step; larger elements saturate.
 *
 * Summed by parts, with t_k = (k - 1/2) step: the sum over the cells of k (F1(t_k+1) - F1(t_k)) is K F1(oo) less the
 * sum of F1(t_k), and likewise for k^2 and F0. From the EXACT-th cell on, bins are wider than cells: step^2 / 12 for
 * each element. */
static double side_error(const side *s, double step, int64_t levels) {
    const cell *all = all_of(s);
    int64_t last = levels < EXACT ? levels : EXACT, k = 1;
    double sum0 = 0, sum1 = 0, t = 0.5 * step;
    for (; k <= last && t < s->top; t = ((double)++k - 0.5) * step) {
        const cell *c = cell_of(s, &t);
        sum0 += (double)(2 * k - 1) * (c->p + c->q * t);
        sum1 += c->r + 0.5 * c->q * t * t;
    }
    if (k <= last || last == levels) { /* all elements lie below the boundaries from t_k on */
        double left = (double)(last - k + 1), top = (double)last;
        sum1 += left * all->r;
        sum0 += (top * top - (double)(k - 1) * (double)(k - 1)) * all->p;
        return fmax(all->s - 2 * step * (top * all->r - sum1) + step * step * (top * top * all->p - sum0), 0);
    }
    const double m = EXACT, end = (double)levels * step;
    double from = (m - 0.5) * step, to = ((double)levels - 0.5) * step;
    const cell *c = cell_of(s, &from), *d = cell_of(s, &to);
    double n = c->p + c->q * from, n1 = c->r + 0.5 * c->q * from * from, n2 = c->s + c->q * from * from * from / 3;
    double inner = n2 - 2 * step * (m * n1 - sum1) + step * step * (m * m * n - sum0);
    /* the last boundary belongs to both sums: m F(t_m) less all F(t_k) leaves (m - 1) F(t_m) less those before it */
    double e = d->p + d->q * to, e1 = d->r + 0.5 * d->q * to * to, e2 = d->s + d->q * to * to * to / 3;
    double outer = all->s - e2 - 2 * end * (all->r - e1) + end * end * (all->p - e);
    return fmax(inner, 0) + step * step / 12 * (e - n) + fmax(outer, 0);
}

/* The same of the numbers of a float times step, [0] = 0, each with the magnitudes up to the middle between two of
 * them: by parts again, with the differences of the numbers and of their squares. */
static double float_error(const side *s, double step, const double *real, int64_t n) {
    const cell *all = all_of(s);
    double sum0 = 0, sum1 = 0, last = 0;
    for (int64_t k = 1; k <= n; k++) {
        double t = (last + real[k]) / 2 * step;
        if (t >= s->top) break;
        const cell *c = cell_of(s, &t);
        sum0 += (real[k] * real[k] - last * last) * (c->p + c->q * t);
        sum1 += (real[k] - last) * (c->r + 0.5 * c->q * t * t);
        last = real[k];
    }
    return fmax(all->s - 2 * step * (last * all->r - sum1) + step * step * (last * last * all->p - sum0), 0);
}

qn_sides qn_sides_of(const qn_sketch *r, bool symmetric, qn_search_room *space) {
    qn_sides s = {.cut = outliers_of(r).cut};
    frexp(value(s.cut), &s.exponent);
    s.high = side_of(r, symmetric, false, s.cut, s.exponent, space->high);
    s.kept = all_of(&s.high)->p;
    if (!symmetric) {
        s.low = side_of(r, false, true, s.cut, s.exponent, space->low);
        s.kept += all_of(&s.low)->p;
    }
    return s;
}

/* The largest level of a symmetric grid, in steps. */
static double reach_of(const qn_search_spec *p) {
    return p->reals ? p->reals[p->qmax] : (double)((p->qmax - p->qmin) / 2);
}

static double affine_error(const qn_sides *s, double step, int64_t below, int64_t above) {
    return side_error(&s->high, step, above) + side_error(&s->low, step, below);
}

static double symmetric_error(const qn_sides *s, const qn_search_spec *p, double step) {
    if (p->reals) return float_error(&s->high, step, p->reals, p->qmax);
    return side_error(&s->high, step, (p->qmax - p->qmin) / 2);
}

/* Tries thresholds from the top down, STEPS in each octave, until clipping alone costs more than the best; then
 * thresholds around the best. For a float type it starts at twice the top, because its numbers repeat themselves in
 * each octave. */
static double search_symmetric(const qn_sides *s, const qn_search_spec *p, double *best_step) {
    const double reach = reach_of(p), top = s->high.top * (p->reals ? 2 : 1);
    double best = INFINITY, threshold = top, center;
    for (int j = 0; j < STEPS * OCTAVES; j++) {
        double t = top * exp2(-j / (double)STEPS);
        if (clipping_cost(&s->high, t) >= best) break;
        double error = symmetric_error(s, p, t / reach);
        if (error < best) best = error, threshold = t;
    }
    for (int fine = STEPS * 8; fine <= STEPS * 64; fine *= 8) {
        center = threshold;
        for (int i = -7; i <= 7; i++) {
            double t = center * exp2(i / (double)fine), error;
            if (i == 0 || t > top) continue;
            if ((error = symmetric_error(s, p, t / reach)) < best) best = error, threshold = t;
        }
    }
    *best_step = threshold / reach;
    return best;
}

typedef struct {
    double step, error;
    int64_t below;
} affine;

/* Zero has a code, and no code lies a whole step beyond the data. */
static bool fits(const qn_sides *s, int64_t levels, const affine *a) {
    return a->step > 0 && a->below >= 0 && a->below <= levels && (double)(a->below - 1) * a->step <= s->low.top &&
           (double)(levels - a->below - 1) * a->step <= s->high.top;
}

/* Moves to the best of eight neighbours in step and zero point until none is better, then halves the distance. */
static affine descend_affine(const qn_sides *s, int64_t levels, affine a) {
    int64_t shift = levels / 8 > 0 ? levels / 8 : 1;
    for (double octave = 0.25; octave > 1.0 / 1024;) {
        affine best = a;
        for (int i = -1; i <= 1; i++)
            for (int64_t d = -shift; d <= shift; d += shift) {
                affine next = {a.step * exp2(i * octave), 0, a.below + d};
                if ((i == 0 && d == 0) || !fits(s, levels, &next)) continue;
                next.error = affine_error(s, next.step, next.below, levels - next.below);
                if (next.error < best.error) best = next;
            }
        if (best.error < a.error) a = best;
        else octave /= 2, shift = shift > 1 ? shift / 2 : 1;
    }
    return a;
}

static affine start_affine(const qn_sides *s, int64_t levels, double low, double high) {
    affine a = {.step = (low + high) / (double)levels};
    double below = rint(low / a.step);
    a.below = (int64_t)fmin(fmax(below, 0), (double)levels);
    a.error = affine_error(s, a.step, a.below, levels - a.below);
    return a;
}

/* Starts from the whole range, from the best by the estimate "cost of clipping on both sides, step^2 / 12 inside", and,
 * near their result, from grids with a code at an end of the data. */
static affine search_affine(const qn_sides *s, int64_t levels) {
    affine whole = start_affine(s, levels, s->low.top, s->high.top);
    double cost_low[4 * OCTAVES], cost_high[4 * OCTAVES], best = INFINITY, low = s->low.top, high = s->high.top;
    double inside = s->kept - s->high.cells[0].p - s->low.cells[0].p;
    int lows = s->low.top > 0 ? 4 * OCTAVES : 1, highs = s->high.top > 0 ? 4 * OCTAVES : 1;
    for (int i = 0; i < lows; i++) cost_low[i] = clipping_cost(&s->low, s->low.top * exp2(-i / 4.0));
    for (int i = 0; i < highs; i++) cost_high[i] = clipping_cost(&s->high, s->high.top * exp2(-i / 4.0));
    for (int i = 0; i < highs && cost_high[i] < best; i++)
        for (int j = 0; j < lows && cost_high[i] + cost_low[j] < best; j++) {
            double h = s->high.top * exp2(-i / 4.0), l = s->low.top * exp2(-j / 4.0), step = (h + l) / (double)levels;
            double cost = cost_high[i] + cost_low[j] + step * step / 12 * inside;
            if (cost < best) best = cost, low = l, high = h;
        }
    affine a = descend_affine(s, levels, whole);
    affine b = descend_affine(s, levels, start_affine(s, levels, low, high));
    if (b.error < a.error) a = b;
    for (int64_t below = a.below - 4, last = a.below + 4; below <= last; below++)
        for (int end = 0; end < 2; end++) { /* a code exactly at the end, where many elements may lie */
            int64_t codes = end ? levels - below : below;
            if (codes <= 0) continue;
            b = (affine){(end ? s->high.top : s->low.top) / (double)codes, 0, below};
            if (!fits(s, levels, &b)) continue;
            b.error = affine_error(s, b.step, below, levels - below);
            if (b.error < 1.1 * a.error) b = descend_affine(s, levels, b);
            if (b.error < a.error) a = b;
        }
    return a;
}

/* The width of the widest bin by that of the grid's widest cell, at most 1. */
static double bin_by_cell(const qn_sketch *r, const qn_search_spec *p, double low, double high) {
    double cells = p->symmetric ? reach_of(p) : (p->qmax - p->qmin) * fmax(-low, high) / (high - low);
    if (p->reals) cells /= p->reals[p->qmax] - p->reals[p->qmax - 1];
    return fmin(ldexp(2 * cells, -r->bits), 1);
}

/* Whether the range of the data is as good as a range of this error, as far as bins can tell. The error of n elements
 * that lie anywhere in their cells varies by about 1 / sqrt(n) of itself; narrower bins know more. */
static bool whole_is_as_good(const qn_sketch *r, const qn_sides *s, const qn_search_spec *p, double error, double low,
                             double high, double *whole) {
    double n = s->kept - s->high.cells[0].p - (p->symmetric ? 0 : s->low.cells[0].p);
    *whole = qn_mse(s, p, low, high);
    return outliers_of(r).count == 0 && error >= *whole * (1 - CLEAR * bin_by_cell(r, p, low, high) / sqrt(n));
}

void qn_search_mse(const qn_sketch *r, const qn_search_spec *p, qn_search_room *space, double *low, double *high,
                   double *error) {
    *low = -extreme(r, true), *high = extreme(r, false), *error = 0;
    if (!(fmax(-*low, *high) >= FLT_MIN)) return; /* no normal scale is that small: all elements become zero */
    qn_sides s = qn_sides_of(r, p->symmetric, space);
    double unit = ldexp(1, s.exponent), whole;
    if (p->symmetric) {
        double step, most = fmax(-*low, *high);
        *error = search_symmetric(&s, p, &step) / s.kept * unit * unit;
        if (whole_is_as_good(r, &s, p, *error, -most, most, &whole)) {
            *low = -most, *high = most, *error = whole;
            return;
        }
        most = fmin(step * reach_of(p) * unit, p->reals ? fmax(most, FLT_MAX) : most);
        *high = most, *low = -most;
        return;
    }
    affine a = search_affine(&s, p->qmax - p->qmin);
    double scale = qn_scale_rounded(a.step * unit); /* a float32, so that the ends give exactly this grid again */
    *error = a.error / s.kept * unit * unit;
    if (whole_is_as_good(r, &s, p, *error, *low, *high, &whole)) {
        *error = whole;
        return;
    }
    if (scale <= FLT_MIN || scale >= FLT_MAX) return;
    *low = -scale * (double)a.below, *high = scale * (double)(p->qmax - p->qmin - a.below);
}

double qn_mse(const qn_sides *s, const qn_search_spec *p, double low, double high) {
    qn_qparams q = qn_qparams_of_range(low, high, p->symmetric, p->qmin, p->qmax);
    if (p->reals) q.scale = qn_scale_of_extent(fmax(-low, high), reach_of(p));
    double unit = ldexp(1, s->exponent), step = (double)q.scale / unit;
    double error = p->symmetric ? symmetric_error(s, p, step)
                                : affine_error(s, step, q.zero_point - p->qmin, p->qmax - q.zero_point);
    return error / s->kept * unit * unit;
}

double qn_mean_square(const qn_sides *s, bool symmetric) {
    double unit = ldexp(1, s->exponent), square = all_of(&s->high)->s + (symmetric ? 0 : all_of(&s->low)->s);
    return square / s->kept * unit * unit;
}
