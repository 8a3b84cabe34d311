#include "search.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "threads.h"

enum {
    OCTAVES = 40, /* below the top: what is smaller rounds to zero on any grid that is tried */
    GAP = 16,     /* octaves of nothing that set outliers apart: no grid of 16 bits holds both sides; more for floats */
    EXACT = 256,  /* levels of a side whose cells are summed one by one; the bins beyond are wider than a cell */
    LINEAR = 2048,          /* bins of the entropy search */
    STRIDE = 64,            /* the coarsest step of its ends */
    FIRST = 128,            /* and the fewest it keeps */
    STEPS = 16,             /* thresholds tried in an octave */
    SEARCH_BYTES = 1 << 18, /* traffic that a parameter's search weighs as */
};
static const double APART = 1e-5; /* the largest share of what is not zero that may be set apart */
static const double TAIL = 1e-3;  /* the share that has no say in the width of the entropy bins */

/* ---- the histogram of one parameter ---- */

typedef struct {
    const uint16_t *keys;
    const int64_t *counts;
    int64_t bins, zero; /* bins [0, zero) are negative */
    double min, max, total;
    double least; /* no magnitude is smaller; 0 where both signs occur */
    int bits, gap;
} row;

static row row_of(const qn_histogram *h, const qn_search_spec *spec, int64_t k) {
    row r = {.keys = h->keys + h->offsets[k], .counts = h->counts + h->offsets[k], .bits = spec->bits, .gap = GAP};
    if (spec->reals) r.gap = (int)fmin(fmax(GAP, ceil(log2(spec->reals[spec->qmax] / spec->reals[1]))), 512);
    r.bins = h->offsets[k + 1] - h->offsets[k];
    r.min = fmax(h->ranges[k].min, -0x1p150), r.max = fmin(h->ranges[k].max, 0x1p150); /* beyond any float32 scale */
    r.least = fmax(fmax(r.min, -r.max), 0);
    for (int64_t i = 0; i < r.bins; i++) {
        r.zero += r.keys[i] < QN_ZERO_BIN;
        r.total += (double)r.counts[i];
    }
    return r;
}

static int64_t magnitude(uint16_t key) { return key < QN_ZERO_BIN ? QN_ZERO_BIN - 1 - key : key - QN_ZERO_BIN; }

static double value(int64_t magnitude) {
    uint32_t bits = (uint32_t)magnitude << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return magnitude == 0x7F80 ? 0x1p128 : (double)x;
}

/* Ends of the bin of a magnitude; `extreme` is the largest magnitude on its side, and where it is alone in its bin that is
 * where it lies. A bin never quite vanishes. */
static void ends(const row *r, int64_t m, double count, double extreme, double *from, double *to) {
    double start = value(m), end = value(m + (1 << (7 - r->bits))), narrowest = (end - start) * 0x1p-16;
    *from = r->least > start ? r->least : start;
    *to = extreme < end || end == 0x1p128 ? extreme : end;
    if (count == 1 && *to == extreme) *from = extreme;
    if (!(*to - *from > narrowest)) *to = *from + narrowest;
}

static double extreme(const row *r, bool negative) {
    double x = negative ? -r->min : r->max;
    return x > 0 ? x : 0;
}

/* Bins in falling order of magnitude; of two signs, those of one magnitude together. */
typedef struct {
    const row *r;
    int64_t low, high; /* bins not yet taken: [low, high) */
} descent;

static bool descend(descent *d, int64_t *m, double *count, bool *negative) {
    if (d->low == d->high) return false;
    const row *r = d->r;
    int64_t at_low = d->low < r->zero ? magnitude(r->keys[d->low]) : -1;
    int64_t at_high = d->high > r->zero ? magnitude(r->keys[d->high - 1]) : -1;
    *negative = at_low > at_high, *m = *negative ? at_low : at_high, *count = 0;
    if (at_low == *m) *count += (double)r->counts[d->low++];
    if (at_high == *m && d->low < d->high) *count += (double)r->counts[--d->high];
    return true;
}

static descent descent_of(const row *r, bool symmetric, bool negative) {
    if (symmetric) return (descent){r, 0, r->bins};
    return negative ? (descent){r, 0, r->zero} : (descent){r, r->zero, r->bins};
}

/* The magnitude beyond which `tail` elements lie, interpolated inside its bin; 0 if that is all of them. */
static double quantile(const row *r, bool symmetric, bool negative, double tail) {
    descent d = descent_of(r, symmetric, negative);
    double seen = 0, count;
    bool sign;
    for (int64_t m; descend(&d, &m, &count, &sign); seen += count) {
        if (seen + count < tail) continue;
        double from, to, top = symmetric ? fmax(extreme(r, false), extreme(r, true)) : extreme(r, sign);
        ends(r, m, count, top, &from, &to);
        double x = to - (tail - seen) / count * (to - from);
        return x < top ? x : top;
    }
    return 0;
}

/* Elements of one side beyond a magnitude. */
static double beyond(const row *r, bool negative, double x) {
    descent d = descent_of(r, false, negative);
    double seen = 0, count, top = extreme(r, negative);
    bool sign;
    if (x >= top) return 0;
    for (int64_t m; descend(&d, &m, &count, &sign); seen += count) {
        double from, to;
        ends(r, m, count, top, &from, &to);
        if (x >= to) break;
        if (x > from) return seen + count * (to - x) / (to - from);
    }
    return seen;
}

/* What lies beyond a gap that no grid spans. */
typedef struct {
    int64_t cut;        /* the bin that holds the largest element which is no outlier */
    double count, from; /* outliers, and where their lowest bin begins */
} outliers;

/* Beyond a gap that no grid spans, at most the share APART of the elements that are not zero. */
static outliers outliers_of(const row *r) {
    descent d = descent_of(r, true, false);
    double seen = 0, count, filled = 0;
    int64_t above = -1;
    outliers o = {.cut = -1};
    bool sign;
    for (int64_t i = 0; i < r->bins; i++)
        if (magnitude(r->keys[i]) >= 128) filled += (double)r->counts[i]; /* zeros and subnormals have no say */
    for (int64_t m; descend(&d, &m, &count, &sign) && seen <= APART * filled; seen += count, above = m) {
        if (m < 128 && o.cut >= 0) break; /* nor are they the lower side of a gap */
        if (o.cut < 0) o.cut = m;
        else if ((above >> 7) - (m >> 7) >= r->gap) o = (outliers){m, seen, value(above)};
    }
    return o;
}

/* ---- mean square error ---- */

/* F0 = p + q x, F1 = r + q x^2 / 2, F2 = s + q x^3 / 3: count, sum and sum of squares of the elements below x >= from. */
typedef struct {
    double p, q, r, s, from;
} cell;

/* Magnitudes of one sign, or of both, scaled by 2^-exponent so that no square overflows. */
typedef struct {
    cell *cells;  /* [count + 2]: what lies below the first bin, the bins, what lies above the last */
    int64_t base; /* bits of a float64 >> shift, of the first bin */
    int64_t count;
    int shift;
    double top;
} side;

/* Counts of the bins of a side, above the first; room[QN_BINS / 2 + 2] cells. `cut` is the highest bin that counts. */
static side side_of(const row *r, bool symmetric, bool negative, int64_t cut, int exponent, cell *room) {
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
    n = total - n; /* zeros, and what is as good as zero */
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

/* The cell of x, which is raised to where its elements begin. */
static const cell *cell_of(const side *s, double *x) {
    if (*x >= s->top) return all_of(s);
    int64_t bits, i;
    memcpy(&bits, x, sizeof bits);
    i = (bits >> s->shift) - s->base + 1;
    const cell *c = s->cells + (i < 0 ? 0 : i < s->count ? i : s->count); /* the last bin may reach beyond float32 */
    *x = fmax(*x, c->from);
    return c;
}

/* The sum over x > t of (x - t)^2: what clipping at t costs. */
static double clipped(const side *s, double t) {
    double x = t;
    const cell *all = all_of(s), *c = cell_of(s, &x);
    double n = all->p - (c->p + c->q * x), sum = all->r - (c->r + c->q * x * x / 2);
    double square = all->s - (c->s + c->q * x * x * x / 3);
    return fmax(square - 2 * t * sum + t * t * n, 0);
}

/* The sum of squared errors of one side on the grid 0, step, ..., levels * step; what lies beyond saturates.
 *
 * Summed by parts, with t_k = (k - 1/2) step: the sum over the cells of k (F1(t_k+1) - F1(t_k)) is K F1(oo) less the sum of
 * F1(t_k), and likewise for k^2 and F0. From the EXACT-th cell on, bins are wider than cells: step^2 / 12 for each element. */
static double side_error(const side *s, double step, int64_t levels) {
    const cell *all = all_of(s);
    int64_t last = levels < EXACT ? levels : EXACT, k = 1;
    double sum0 = 0, sum1 = 0, t = 0.5 * step;
    for (; k <= last && t < s->top; t = ((double)++k - 0.5) * step) {
        const cell *c = cell_of(s, &t);
        sum0 += (double)(2 * k - 1) * (c->p + c->q * t);
        sum1 += c->r + 0.5 * c->q * t * t;
    }
    if (k <= last || last == levels) { /* every boundary from t_k on lies beyond the last element */
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

/* The same of the numbers of a float times step, [0] = 0, each with the magnitudes up to the middle between two of them: by
 * parts again, with the differences of the numbers and of their squares. */
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

/* Both sides of a grid, or the magnitudes alone where it is symmetric. */
typedef struct {
    side high, low;
    double kept;
    int exponent;
    int64_t cut;
} sides;

typedef struct {
    cell high[QN_BINS / 2 + 2], low[QN_BINS / 2 + 2];
    double counts[2 * LINEAR], sums[3 * (2 * LINEAR + 1)];
} room;

static sides sides_of(const row *r, bool symmetric, room *space) {
    sides s = {.cut = outliers_of(r).cut};
    frexp(value(s.cut), &s.exponent);
    s.high = side_of(r, symmetric, false, s.cut, s.exponent, space->high);
    s.kept = all_of(&s.high)->p;
    if (!symmetric) {
        s.low = side_of(r, false, true, s.cut, s.exponent, space->low);
        s.kept += all_of(&s.low)->p;
    }
    return s;
}

/* The grid of a range, as QParams.from_range makes it; low <= 0 <= high. */
typedef struct {
    double scale;
    int64_t below, above; /* levels below and above zero */
} grid;

static double rounded(double scale) { return scale < FLT_MIN ? FLT_MIN : scale > FLT_MAX ? FLT_MAX : (float)scale; }

/* The largest number of a symmetric grid, in steps. */
static double reach_of(const qn_search_spec *p) {
    return p->reals ? p->reals[p->qmax] : (double)((p->qmax - p->qmin) / 2);
}

static grid grid_of(const qn_search_spec *p, double low, double high) {
    double steps = (double)p->qmax - p->qmin;
    if (p->symmetric) {
        double most = fmax(-low, high);
        int64_t levels = (p->qmax - p->qmin) / 2;
        return (grid){most > 0 ? rounded(most / reach_of(p)) : 1, levels, levels};
    }
    double scale = high > low ? rounded((high - low) / steps) : 1, zero = rint(p->qmin - low / scale);
    zero = fmin(fmax(zero, p->qmin), p->qmax);
    return (grid){scale, (int64_t)zero - p->qmin, p->qmax - (int64_t)zero};
}

static double grid_error(const sides *s, double step, int64_t below, int64_t above) {
    return side_error(&s->high, step, above) + side_error(&s->low, step, below);
}

static double symmetric_error(const sides *s, const qn_search_spec *p, double step) {
    if (p->reals) return float_error(&s->high, step, p->reals, p->qmax);
    return side_error(&s->high, step, (p->qmax - p->qmin) / 2);
}

/* Thresholds fall from the top by STEPS an octave until clipping alone costs more than the best; then around the best. Those
 * of a float from twice the top, as its numbers repeat themselves octave by octave. */
static double search_symmetric(const sides *s, const qn_search_spec *p, double *best_step) {
    const double reach = reach_of(p), top = s->high.top * (p->reals ? 2 : 1);
    double best = INFINITY, at = top, center;
    for (int j = 0; j < STEPS * OCTAVES; j++) {
        double t = top * exp2(-j / (double)STEPS);
        if (clipped(&s->high, t) >= best) break;
        double error = symmetric_error(s, p, t / reach);
        if (error < best) best = error, at = t;
    }
    for (int fine = STEPS * 8; fine <= STEPS * 64; fine *= 8) {
        center = at;
        for (int i = -7; i <= 7; i++) {
            double t = center * exp2(i / (double)fine), error;
            if (i == 0 || t > top) continue;
            if ((error = symmetric_error(s, p, t / reach)) < best) best = error, at = t;
        }
    }
    *best_step = at / reach;
    return best;
}

typedef struct {
    double step, error;
    int64_t below;
} affine;

/* Zero is among the codes, and none lies a whole step beyond the data. */
static bool fits(const sides *s, int64_t levels, const affine *a) {
    return a->step > 0 && a->below >= 0 && a->below <= levels && (double)(a->below - 1) * a->step <= s->low.top &&
           (double)(levels - a->below - 1) * a->step <= s->high.top;
}

/* Eight neighbours of step and zero point, the best taken until none is better; then half the distance. */
static affine descend_affine(const sides *s, int64_t levels, affine a) {
    int64_t shift = levels / 8 > 0 ? levels / 8 : 1;
    for (double octave = 0.25; octave > 1.0 / 1024;) {
        affine found = a;
        for (int i = -1; i <= 1; i++)
            for (int64_t d = -shift; d <= shift; d += shift) {
                affine next = {a.step * exp2(i * octave), 0, a.below + d};
                if ((i == 0 && d == 0) || !fits(s, levels, &next)) continue;
                next.error = grid_error(s, next.step, next.below, levels - next.below);
                if (next.error < found.error) found = next;
            }
        if (found.error < a.error) a = found;
        else octave /= 2, shift = shift > 1 ? shift / 2 : 1;
    }
    return a;
}

static affine start_affine(const sides *s, int64_t levels, double low, double high) {
    affine a = {.step = (low + high) / (double)levels};
    double below = rint(low / a.step);
    a.below = (int64_t)fmin(fmax(below, 0), (double)levels);
    a.error = grid_error(s, a.step, a.below, levels - a.below);
    return a;
}

/* Starts: the whole range; the best by the estimate "clipping on either side, step^2 / 12 inside"; near what that finds,
 * grids with a code at an end. */
static affine search_affine(const sides *s, int64_t levels) {
    affine whole = start_affine(s, levels, s->low.top, s->high.top);
    double cost_low[4 * OCTAVES], cost_high[4 * OCTAVES], best = INFINITY, low = s->low.top, high = s->high.top;
    double inside = s->kept - s->high.cells[0].p - s->low.cells[0].p;
    int lows = s->low.top > 0 ? 4 * OCTAVES : 1, highs = s->high.top > 0 ? 4 * OCTAVES : 1;
    for (int i = 0; i < lows; i++) cost_low[i] = clipped(&s->low, s->low.top * exp2(-i / 4.0));
    for (int i = 0; i < highs; i++) cost_high[i] = clipped(&s->high, s->high.top * exp2(-i / 4.0));
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
        for (int end = 0; end < 2; end++) { /* a code just at the end, where many elements may lie */
            int64_t codes = end ? levels - below : below;
            if (codes <= 0) continue;
            b = (affine){(end ? s->high.top : s->low.top) / (double)codes, 0, below};
            if (!fits(s, levels, &b)) continue;
            b.error = grid_error(s, b.step, below, levels - below);
            if (b.error < 1.1 * a.error) b = descend_affine(s, levels, b);
            if (b.error < a.error) a = b;
        }
    return a;
}

static void search_mse(const row *r, const qn_search_spec *p, room *space, double *low, double *high, double *error) {
    *low = -extreme(r, true), *high = extreme(r, false), *error = 0;
    if (!(fmax(-*low, *high) >= FLT_MIN)) return; /* no normal scale is that small: all of it becomes zero */
    sides s = sides_of(r, p->symmetric, space);
    double unit = ldexp(1, s.exponent);
    if (p->symmetric) {
        double step, most = fmax(-*low, *high);
        *error = search_symmetric(&s, p, &step) / s.kept * unit * unit;
        most = fmin(step * reach_of(p) * unit, p->reals ? fmax(most, FLT_MAX) : most);
        *high = most, *low = -most;
        return;
    }
    affine a = search_affine(&s, p->qmax - p->qmin);
    double scale = rounded(a.step * unit); /* of a float32, the ends give back just this grid */
    *error = a.error / s.kept * unit * unit;
    if (scale <= FLT_MIN || scale >= FLT_MAX) return;
    *low = -scale * (double)a.below, *high = scale * (double)(p->qmax - p->qmin - a.below);
}

/* ---- entropy ---- */

typedef struct {
    const double *count, *filled, *log; /* sums below a bin: of c, of c > 0, of c log c */
} sums;

static double xlogx(double x) { return x > 0 ? x * log(x) : 0; }

static sums sums_of(const double *counts, int64_t bins, double *scratch) {
    double *count = scratch, *filled = count + bins + 1, *logs = filled + bins + 1;
    count[0] = filled[0] = logs[0] = 0;
    for (int64_t i = 0; i < bins; i++) {
        count[i + 1] = count[i] + counts[i];
        filled[i + 1] = filled[i] + (counts[i] > 0);
        logs[i + 1] = logs[i] + xlogx(counts[i]);
    }
    return (sums){count, filled, logs};
}

/* Levels of a window of bins: even ones, or the numbers of a float, the largest of which stands at its end. */
typedef struct {
    int64_t n;
    const double *reals; /* [n], or NULL */
} scheme;

static scheme scheme_of(const qn_search_spec *p) {
    int64_t codes = (int64_t)p->qmax - p->qmin + 1;
    return (scheme){p->symmetric ? (codes + 1) / 2 : codes, p->reals};
}

/* The end of cell k of `width` bins: bin i is of the cell i * n / width; of a float, of the number nearest to its middle. */
static int64_t cell_end(scheme l, int64_t k, int64_t width) {
    if (!l.reals) return ((k + 1) * width + l.n - 1) / l.n;
    if (k + 1 == l.n) return width;
    double middle = (l.reals[k] + l.reals[k + 1]) / 2 / l.reals[l.n - 1] * (double)width;
    return (int64_t)ceil(fmin(fmax(middle - 0.5, 0), (double)width));
}

/* KL(p || q) of the bins [a, b): p their counts with the tails added to the first and the last, q the counts spread evenly
 * over the filled bins of the cell of each level. */
static double divergence_of(const double *counts, const sums *s, int64_t bins, int64_t a, int64_t b, scheme l) {
    double all = s->count[bins], kept = s->count[b] - s->count[a], sum = s->log[b] - s->log[a], cross = 0;
    double tails[2] = {s->count[a], all - s->count[b]};
    const int64_t at[2] = {a, b - 1};
    for (int k = 0; k < 2; k++) {
        double c = counts[at[k]];
        if (tails[k] > 0 && c == 0) return INFINITY;
        sum += xlogx(c + tails[k]) - xlogx(c);
    }
    for (int64_t k = 0, from = a; k < l.n; k++) {
        int64_t to = a + cell_end(l, k, b - a);
        double c = s->count[to] - s->count[from], filled = s->filled[to] - s->filled[from];
        if (filled > 0) {
            double weight = c + (from == a && to > from ? tails[0] : 0) + (to == b && to > from ? tails[1] : 0);
            cross += weight * log(c / filled);
        }
        from = to;
    }
    return (sum - cross) / all - log(all) + log(kept);
}

int64_t qn_entropy_bin(const double *counts, int64_t bins, int64_t n, const double *reals, int64_t first,
                       int64_t fewest, double *scratch, double *divergence) {
    const scheme l = {n, reals};
    sums s = sums_of(counts, bins, scratch);
    int64_t best = bins;
    double least = INFINITY;
    for (int64_t i = first; i <= bins; i++) {
        double d = divergence_of(counts, &s, bins, 0, i, l);
        if (divergence) divergence[i] = d;
        if (d <= least && s.filled[i] >= (double)fewest) least = d, best = i;
    }
    return best;
}

/* Spreads one side over LINEAR bins of `width`, upward or downward from `to`; the rest is beyond them and returned. */
static double spread(const row *r, bool negative, double width, double *to, int step) {
    descent d = descent_of(r, false, negative);
    double count, tail = 0, top = extreme(r, negative);
    bool sign;
    for (int64_t m; descend(&d, &m, &count, &sign);) {
        double from, end;
        ends(r, m, count, top, &from, &end);
        double a = from / width, b = end / width, density = count / (b - a);
        if (a >= LINEAR) {
            tail += count;
            continue;
        }
        if (b > LINEAR) tail += density * (b - LINEAR), b = LINEAR;
        for (int64_t i = (int64_t)a; i < LINEAR && (double)i < b; i++)
            to[i * step] += density * (fmin(b, (double)(i + 1)) - fmax(a, (double)i));
    }
    return tail;
}

typedef struct {
    double width; /* of a linear bin */
    int64_t bins; /* LINEAR, or 2 LINEAR with zero in the middle */
    double whole; /* the largest magnitude, for which the last bin stands when nothing lies beyond */
} linear;

/* Linear bins up to the largest magnitude, or to 8 times what 99.9 % stay below: outliers get none, only their weight. */
static linear linear_of(const row *r, bool symmetric, room *space) {
    linear l = {.bins = symmetric ? LINEAR : 2 * LINEAR, .whole = fmax(extreme(r, false), extreme(r, true))};
    double most = quantile(r, true, false, r->total * TAIL) * 8;
    l.width = (most > 0 && most < l.whole ? most : l.whole) / LINEAR;
    memset(space->counts, 0, sizeof space->counts);
    double *zero = space->counts + (symmetric ? 0 : LINEAR);
    double above = spread(r, false, l.width, zero, 1);
    double below = symmetric ? spread(r, true, l.width, zero, 1) : spread(r, true, l.width, zero - 1, -1);
    zero[0] = zero[1]; /* as published: the zeros of a ReLU would outweigh everything */
    if (symmetric) above += below;
    else zero[-1] = zero[-2], zero[-LINEAR] += below;
    zero[LINEAR - 1] += above;
    return l;
}

/* Bins of a window on one side without the empty ones at its end. */
static int64_t filled(const double *counts, int64_t zero, int64_t bins, int64_t step) {
    while (bins > 0 && counts[zero + (bins - 1) * step - (step < 0)] == 0) bins--;
    return bins;
}

/* With fewer filled bins than levels every bin keeps a level of its own: the divergence sees no loss, whatever is clipped. */
static bool can_judge(const sums *s, int64_t a, int64_t b, int64_t n) {
    return b - a >= FIRST && s->filled[b] - s->filled[a] >= (double)n;
}

static double end_of(const linear *l, int64_t bins) { return bins == LINEAR ? l->whole : (double)bins * l->width; }

/* Both ends alike, then one after the other, in strides that become finer. */
static void search_window(const double *counts, const sums *s, scheme l, bool two_sided[2], int64_t *below,
                          int64_t *above, double *least) {
    *below = two_sided[0] ? LINEAR : 0, *above = two_sided[1] ? LINEAR : 0;
    *least = divergence_of(counts, s, 2 * LINEAR, LINEAR - *below, LINEAR + *above, l);
    for (int64_t v = LINEAR - STRIDE; two_sided[0] && two_sided[1] && v > 0; v -= STRIDE) {
        int64_t a = filled(counts, LINEAR, v, -1), b = filled(counts, LINEAR, v, 1);
        if (!can_judge(s, LINEAR - a, LINEAR + b, l.n)) break;
        double d = divergence_of(counts, s, 2 * LINEAR, LINEAR - a, LINEAR + b, l);
        if (d < *least) *least = d, *below = a, *above = b;
    }
    for (int64_t stride = STRIDE, again = 0; stride > 0; stride = ++again % 2 ? stride : stride / 8)
        for (int side = 1; side >= 0; side--) {
            int64_t *moved = side ? above : below, center = *moved;
            if (!two_sided[side]) continue;
            int64_t reach = again < 2 ? LINEAR : 12 * stride;
            for (int64_t v = center - reach / stride * stride; v <= center + reach && v <= LINEAR; v += stride) {
                int64_t a = side ? *below : v, b = side ? v : *above;
                if (v < 0) continue;
                a = filled(counts, LINEAR, a, -1), b = filled(counts, LINEAR, b, 1);
                if (!can_judge(s, LINEAR - a, LINEAR + b, l.n)) continue;
                double d = divergence_of(counts, s, 2 * LINEAR, LINEAR - a, LINEAR + b, l);
                if (d < *least) *least = d, *moved = side ? b : a;
            }
        }
}

static void search_entropy(const row *r, const qn_search_spec *p, room *space, double *low, double *high,
                           double *error) {
    const scheme v = scheme_of(p);
    *low = -extreme(r, true), *high = extreme(r, false), *error = 0;
    if (v.n > LINEAR / 2 || fmax(-*low, *high) < FLT_MIN) return; /* as many codes as bins: nothing is lost */
    linear l = linear_of(r, p->symmetric, space);
    if (p->symmetric) {
        int64_t bin = qn_entropy_bin(space->counts, LINEAR, v.n, v.reals, FIRST, v.n, space->sums, NULL);
        sums s = sums_of(space->counts, LINEAR, space->sums);
        *error = divergence_of(space->counts, &s, LINEAR, 0, bin, v);
        *high = end_of(&l, bin), *low = -*high;
        return;
    }
    sums s = sums_of(space->counts, l.bins, space->sums);
    bool two_sided[2] = {*low < 0, *high > 0};
    int64_t below, above;
    search_window(space->counts, &s, v, two_sided, &below, &above, error);
    *low = fmax(-end_of(&l, below), *low), *high = fmin(end_of(&l, above), *high);
}

/* ---- percentile ---- */

static double outside(const row *r, double low, double high) {
    return (beyond(r, true, -low) + beyond(r, false, high)) / r->total;
}

static void search_percentile(const row *r, const qn_search_spec *p, double *low, double *high, double *error) {
    double tail = r->total * (1 - p->share);
    if (p->symmetric) {
        *high = quantile(r, true, false, tail), *low = -*high;
    } else {
        *high = quantile(r, false, false, tail / 2), *low = -quantile(r, false, true, tail / 2);
    }
    *error = outside(r, *low, *high);
}

/* ---- all parameters ---- */

typedef struct {
    const qn_histogram *h;
    const qn_search_spec *spec;
    int64_t n; /* ranges a parameter, 0 for a search */
    const double *given_low, *given_high;
    double *low, *high, *error;
    _Atomic bool failed;
} job;

static void search_row(const job *j, int64_t k, room *space) {
    row r = row_of(j->h, j->spec, k);
    double *low = j->low + k, *high = j->high + k, *error = j->error + k;
    switch (j->spec->criterion) {
    case QN_ENTROPY: search_entropy(&r, j->spec, space, low, high, error); break;
    case QN_PERCENTILE: search_percentile(&r, j->spec, low, high, error); break;
    default: search_mse(&r, j->spec, space, low, high, error);
    }
}

static double entropy_error(const qn_search_spec *p, const linear *l, const sums *s, const room *space, double low,
                            double high) {
    const scheme v = scheme_of(p);
    int64_t below = (int64_t)fmax(fmin(rint(-low / l->width), LINEAR), 0);
    int64_t above = (int64_t)fmax(fmin(rint(high / l->width), LINEAR), 0);
    if (v.n > LINEAR / 2) return 0;
    if (p->symmetric) {
        int64_t most = filled(space->counts, 0, below > above ? below : above, 1);
        return most < LINEAR && !can_judge(s, 0, most, v.n) ? INFINITY
                                                            : divergence_of(space->counts, s, LINEAR, 0, most, v);
    }
    below = filled(space->counts, LINEAR, below, -1), above = filled(space->counts, LINEAR, above, 1);
    if (below + above < LINEAR && !can_judge(s, LINEAR - below, LINEAR + above, v.n)) return INFINITY;
    return divergence_of(space->counts, s, 2 * LINEAR, LINEAR - below, LINEAR + above, v);
}

static void errors_of_row(const job *j, int64_t k, room *space) {
    const qn_search_spec *p = j->spec;
    row r = row_of(j->h, p, k);
    sides s = {0};
    linear l = {0};
    sums sum = {0};
    outliers apart = outliers_of(&r);
    bool tiny = fmax(extreme(&r, true), extreme(&r, false)) < FLT_MIN;
    if ((p->criterion == QN_MSE || p->criterion == QN_SQUARE) && !tiny) s = sides_of(&r, p->symmetric, space);
    if (p->criterion == QN_ENTROPY && !tiny) {
        l = linear_of(&r, p->symmetric, space);
        sum = sums_of(space->counts, l.bins, space->sums);
    }
    for (int64_t i = k * j->n; i < (k + 1) * j->n; i++) {
        double low = j->given_low[i], high = j->given_high[i];
        if (p->criterion == QN_PERCENTILE) {
            j->error[i] = outside(&r, low, high);
        } else if (p->criterion == QN_APART) {
            j->error[i] = apart.count;
        } else if (p->criterion == QN_APART_FROM) {
            j->error[i] = apart.from;
        } else if (tiny) {
            j->error[i] = 0;
        } else if (p->criterion == QN_ENTROPY) {
            j->error[i] = entropy_error(p, &l, &sum, space, low, high);
        } else if (p->criterion == QN_SQUARE) {
            double unit = ldexp(1, s.exponent), square = all_of(&s.high)->s + (p->symmetric ? 0 : all_of(&s.low)->s);
            j->error[i] = square / s.kept * unit * unit;
        } else {
            grid g = grid_of(p, low, high);
            double unit = ldexp(1, s.exponent);
            double error = p->symmetric ? symmetric_error(&s, p, g.scale / unit)
                                        : grid_error(&s, g.scale / unit, g.below, g.above);
            j->error[i] = error / s.kept * unit * unit;
        }
    }
}

static void search_part(void *context, int64_t begin, int64_t end) {
    job *j = context;
    uint64_t saved = qn_fp_begin();
    room *space = malloc(sizeof *space);
    if (!space) j->failed = true;
    for (int64_t k = begin; k < end && space; k++) {
        if (j->n) errors_of_row(j, k, space);
        else search_row(j, k, space);
    }
    free(space);
    qn_fp_end(saved);
}

int qn_search(const qn_histogram *h, const qn_search_spec *spec, double *low, double *high, double *error) {
    job j = {.h = h, .spec = spec, .low = low, .high = high, .error = error};
    qn_parallel_for(h->params, 1, h->params * SEARCH_BYTES, search_part, &j);
    return j.failed ? -1 : 0;
}

int qn_search_errors(const qn_histogram *h, const qn_search_spec *spec, int64_t n, const double *low,
                     const double *high, double *error) {
    job j = {.h = h, .spec = spec, .n = n, .given_low = low, .given_high = high, .error = error};
    if (n) qn_parallel_for(h->params, 1, h->params * SEARCH_BYTES, search_part, &j);
    return j.failed ? -1 : 0;
}
