/* The range of the least Kullback-Leibler divergence. */
#include <float.h>

#include "search_private.h"

enum {
    STRIDE = 64, /* coarsest step of the ends, in bins */
    FIRST = 128, /* fewest bins that a range keeps */
};
static const double TAIL = 1e-3; /* fraction of the elements, the largest ones, that does not widen the bins */

static double xlogx(double x) { return x > 0 ? x * log(x) : 0; }

qn_bin_sums qn_sums_of(const double *counts, int64_t bins, double *scratch) {
    double *count = scratch, *filled = count + bins + 1, *logs = filled + bins + 1;
    count[0] = filled[0] = logs[0] = 0;
    for (int64_t i = 0; i < bins; i++) {
        count[i + 1] = count[i] + counts[i];
        filled[i + 1] = filled[i] + (counts[i] > 0);
        logs[i + 1] = logs[i] + xlogx(counts[i]);
    }
    return (qn_bin_sums){count, filled, logs};
}

/* Levels over a window of bins: evenly spaced, or the numbers of a float type, of which the largest is at the end. */
typedef struct {
    int64_t n;
    const double *reals; /* [n], or NULL */
} scheme;

static scheme scheme_of(const qn_search_spec *p) {
    int64_t codes = (int64_t)p->qmax - p->qmin + 1;
    return (scheme){p->symmetric ? (codes + 1) / 2 : codes, p->reals};
}

/* The end of cell k, of n cells over `width` bins. Bin i belongs to cell i * n / width, or to the number of the float
 * type that is nearest to its middle. */
static int64_t cell_end(scheme l, int64_t k, int64_t width) {
    if (!l.reals) return ((k + 1) * width + l.n - 1) / l.n;
    if (k + 1 == l.n) return width;
    double middle = (l.reals[k] + l.reals[k + 1]) / 2 / l.reals[l.n - 1] * (double)width;
    return (int64_t)ceil(fmin(fmax(middle - 0.5, 0), (double)width));
}

/* KL(p || q) over the bins [a, b). p: their counts, with the tails added to the first and the last bin; q: the counts
 * of each cell, spread evenly over its filled bins. */
static double divergence_of(const double *counts, const qn_bin_sums *s, int64_t bins, int64_t a, int64_t b, scheme l) {
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
    qn_bin_sums s = qn_sums_of(counts, bins, scratch);
    int64_t best = bins;
    double least = INFINITY;
    for (int64_t i = first; i <= bins; i++) {
        double d = divergence_of(counts, &s, bins, 0, i, l);
        if (divergence) divergence[i] = d;
        if (d <= least && s.filled[i] >= (double)fewest) least = d, best = i;
    }
    return best;
}

/* Spreads one side over QN_LINEAR bins of `width`, upward or downward from `to`. Returns how many elements lie beyond.
 */
static double spread(const qn_sketch *r, bool negative, double width, double *to, int step) {
    descent d = descent_of(r, false, negative);
    double count, tail = 0, top = extreme(r, negative);
    bool sign;
    for (int64_t m; descend(&d, &m, &count, &sign);) {
        double from, end;
        ends(r, m, count, top, &from, &end);
        double a = from / width, b = end / width, density = count / (b - a);
        if (a >= QN_LINEAR) {
            tail += count;
            continue;
        }
        if (b > QN_LINEAR) tail += density * (b - QN_LINEAR), b = QN_LINEAR;
        for (int64_t i = (int64_t)a; i < QN_LINEAR && (double)i < b; i++)
            to[i * step] += density * (fmin(b, (double)(i + 1)) - fmax(a, (double)i));
    }
    return tail;
}

/* Linear bins up to the largest magnitude, or up to 8 times the quantile 1 - TAIL. Larger elements add to
 * the count of the last bin. */
qn_linear_bins qn_linear_of(const qn_sketch *r, bool symmetric, qn_search_room *space) {
    qn_linear_bins l = {.bins = symmetric ? QN_LINEAR : 2 * QN_LINEAR,
                        .whole = fmax(extreme(r, false), extreme(r, true))};
    double most = quantile(r, true, false, r->total * TAIL) * 8;
    l.width = (most > 0 && most < l.whole ? most : l.whole) / QN_LINEAR;
    memset(space->counts, 0, sizeof space->counts);
    double *zero = space->counts + (symmetric ? 0 : QN_LINEAR);
    double above = spread(r, false, l.width, zero, 1);
    double below = symmetric ? spread(r, true, l.width, zero, 1) : spread(r, true, l.width, zero - 1, -1);
    zero[0] = zero[1]; /* as in the publication: the zeros of a ReLU would outweigh everything else */
    if (symmetric) above += below;
    else zero[-1] = zero[-2], zero[-QN_LINEAR] += below;
    zero[QN_LINEAR - 1] += above;
    return l;
}

/* Bins of a window on one side, without empty ones at its end. */
static int64_t filled_bins(const double *counts, int64_t zero, int64_t bins, int64_t step) {
    while (bins > 0 && counts[zero + (bins - 1) * step - (step < 0)] == 0) bins--;
    return bins;
}

/* With fewer filled bins than levels every bin has its own level, and the divergence shows no loss, whatever is
 * clipped. */
static bool can_judge(const qn_bin_sums *s, int64_t a, int64_t b, int64_t n) {
    return b - a >= FIRST && s->filled[b] - s->filled[a] >= (double)n;
}

static double end_of(const qn_linear_bins *l, int64_t bins) {
    return bins == QN_LINEAR ? l->whole : (double)bins * l->width;
}

/* Moves both ends together, then one after the other, in strides that become finer. */
static void search_window(const double *counts, const qn_bin_sums *s, scheme l, bool two_sided[2], int64_t *below,
                          int64_t *above, double *least) {
    *below = two_sided[0] ? QN_LINEAR : 0, *above = two_sided[1] ? QN_LINEAR : 0;
    *least = divergence_of(counts, s, 2 * QN_LINEAR, QN_LINEAR - *below, QN_LINEAR + *above, l);
    for (int64_t v = QN_LINEAR - STRIDE; two_sided[0] && two_sided[1] && v > 0; v -= STRIDE) {
        int64_t a = filled_bins(counts, QN_LINEAR, v, -1), b = filled_bins(counts, QN_LINEAR, v, 1);
        if (!can_judge(s, QN_LINEAR - a, QN_LINEAR + b, l.n)) break;
        double d = divergence_of(counts, s, 2 * QN_LINEAR, QN_LINEAR - a, QN_LINEAR + b, l);
        if (d < *least) *least = d, *below = a, *above = b;
    }
    for (int64_t stride = STRIDE, again = 0; stride > 0; stride = ++again % 2 ? stride : stride / 8)
        for (int upper = 1; upper >= 0; upper--) {
            int64_t *end = upper ? above : below, center = *end;
            if (!two_sided[upper]) continue;
            int64_t reach = again < 2 ? QN_LINEAR : 12 * stride;
            for (int64_t v = center - reach / stride * stride; v <= center + reach && v <= QN_LINEAR; v += stride) {
                int64_t a = upper ? *below : v, b = upper ? v : *above;
                if (v < 0) continue;
                a = filled_bins(counts, QN_LINEAR, a, -1), b = filled_bins(counts, QN_LINEAR, b, 1);
                if (!can_judge(s, QN_LINEAR - a, QN_LINEAR + b, l.n)) continue;
                double d = divergence_of(counts, s, 2 * QN_LINEAR, QN_LINEAR - a, QN_LINEAR + b, l);
                if (d < *least) *least = d, *end = upper ? b : a;
            }
        }
}

void qn_search_entropy(const qn_sketch *r, const qn_search_spec *p, qn_search_room *space, double *low, double *high,
                       double *error) {
    const scheme v = scheme_of(p);
    *low = -extreme(r, true), *high = extreme(r, false), *error = 0;
    if (v.n > QN_LINEAR / 2 || fmax(-*low, *high) < FLT_MIN) return; /* about as many codes as bins: nothing is lost */
    qn_linear_bins l = qn_linear_of(r, p->symmetric, space);
    if (p->symmetric) {
        int64_t bin = qn_entropy_bin(space->counts, QN_LINEAR, v.n, v.reals, FIRST, v.n, space->sums, NULL);
        qn_bin_sums s = qn_sums_of(space->counts, QN_LINEAR, space->sums);
        *error = divergence_of(space->counts, &s, QN_LINEAR, 0, bin, v);
        *high = end_of(&l, bin), *low = -*high;
        return;
    }
    qn_bin_sums s = qn_sums_of(space->counts, l.bins, space->sums);
    bool two_sided[2] = {*low < 0, *high > 0};
    int64_t below, above;
    search_window(space->counts, &s, v, two_sided, &below, &above, error);
    *low = fmax(-end_of(&l, below), *low), *high = fmin(end_of(&l, above), *high);
}

double qn_entropy_error(const qn_search_spec *p, const qn_linear_bins *l, const qn_bin_sums *s,
                        const qn_search_room *space, double low, double high) {
    const scheme v = scheme_of(p);
    int64_t below = (int64_t)fmax(fmin(rint(-low / l->width), QN_LINEAR), 0);
    int64_t above = (int64_t)fmax(fmin(rint(high / l->width), QN_LINEAR), 0);
    if (v.n > QN_LINEAR / 2) return 0;
    if (p->symmetric) {
        int64_t most = filled_bins(space->counts, 0, below > above ? below : above, 1);
        return most < QN_LINEAR && !can_judge(s, 0, most, v.n) ? INFINITY
                                                               : divergence_of(space->counts, s, QN_LINEAR, 0, most, v);
    }
    below = filled_bins(space->counts, QN_LINEAR, below, -1), above = filled_bins(space->counts, QN_LINEAR, above, 1);
    if (below + above < QN_LINEAR && !can_judge(s, QN_LINEAR - below, QN_LINEAR + above, v.n)) return INFINITY;
    return divergence_of(space->counts, s, 2 * QN_LINEAR, QN_LINEAR - below, QN_LINEAR + above, v);
}
