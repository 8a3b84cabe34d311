/* The histogram of one parameter, as the searches read it. */
#ifndef QN_SKETCH_H
#define QN_SKETCH_H

#include <math.h>
#include <string.h>

#include "search.h"

/* Values separated from the rest by 16 empty octaves are outliers: no 16-bit grid represents both. Float codes need a
 * wider gap: see sketch_of. */
enum { QN_GAP = 16 };
static const double QN_APART_SHARE = 1e-5; /* the largest share of the nonzero elements that may be outliers */

typedef struct {
    const uint16_t *keys;
    const int64_t *counts;
    int64_t bins, zero; /* bins [0, zero) are negative */
    double min, max, total;
    double least; /* the smallest magnitude; 0 if both signs occur */
    int bits, gap;
} qn_sketch;

static inline qn_sketch sketch_of(const qn_histogram *h, const qn_search_spec *spec, int64_t k) {
    qn_sketch r = {
        .keys = h->keys + h->offsets[k], .counts = h->counts + h->offsets[k], .bits = spec->bits, .gap = QN_GAP};
    if (spec->reals) r.gap = (int)fmin(fmax(QN_GAP, ceil(log2(spec->reals[spec->qmax] / spec->reals[1]))), 512);
    r.bins = h->offsets[k + 1] - h->offsets[k];
    r.min = fmax(h->ranges[k].min, -0x1p150), r.max = fmin(h->ranges[k].max, 0x1p150); /* beyond any float32 scale */
    r.least = fmax(fmax(r.min, -r.max), 0);
    for (int64_t i = 0; i < r.bins; i++) {
        r.zero += r.keys[i] < QN_ZERO_BIN;
        r.total += (double)r.counts[i];
    }
    return r;
}

static inline int64_t magnitude(uint16_t key) { return key < QN_ZERO_BIN ? QN_ZERO_BIN - 1 - key : key - QN_ZERO_BIN; }

static inline double value(int64_t magnitude) {
    uint32_t bits = (uint32_t)magnitude << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return magnitude == 0x7F80 ? 0x1p128 : (double)x;
}

/* Ends of the bin of a magnitude. `extreme` is the largest magnitude on its side; if it is the only element of its bin,
 * the bin is there. A bin keeps a width of at least 2^-16 of its own. */
static inline void ends(const qn_sketch *r, int64_t m, double count, double extreme, double *from, double *to) {
    double start = value(m), end = value(m + (1 << (7 - r->bits))), narrowest = (end - start) * 0x1p-16;
    *from = r->least > start ? r->least : start;
    *to = extreme < end || end == 0x1p128 ? extreme : end;
    if (count == 1 && *to == extreme) *from = extreme;
    if (!(*to - *from > narrowest)) *to = *from + narrowest;
}

static inline double extreme(const qn_sketch *r, bool negative) {
    double x = negative ? -r->min : r->max;
    return x > 0 ? x : 0;
}

/* Bins in falling order of magnitude. With two signs, both bins of a magnitude come together. */
typedef struct {
    const qn_sketch *r;
    int64_t low, high; /* bins not yet taken: [low, high) */
} descent;

static inline bool descend(descent *d, int64_t *m, double *count, bool *negative) {
    if (d->low == d->high) return false;
    const qn_sketch *r = d->r;
    int64_t at_low = d->low < r->zero ? magnitude(r->keys[d->low]) : -1;
    int64_t at_high = d->high > r->zero ? magnitude(r->keys[d->high - 1]) : -1;
    *negative = at_low > at_high, *m = *negative ? at_low : at_high, *count = 0;
    if (at_low == *m) *count += (double)r->counts[d->low++];
    if (at_high == *m && d->low < d->high) *count += (double)r->counts[--d->high];
    return true;
}

static inline descent descent_of(const qn_sketch *r, bool symmetric, bool negative) {
    if (symmetric) return (descent){r, 0, r->bins};
    return negative ? (descent){r, 0, r->zero} : (descent){r, r->zero, r->bins};
}

/* The magnitude that `tail` elements exceed, interpolated inside its bin; 0 if there are fewer elements. */
static inline double quantile(const qn_sketch *r, bool symmetric, bool negative, double tail) {
    descent d = descent_of(r, symmetric, negative);
    double larger = 0, count;
    bool sign;
    for (int64_t m; descend(&d, &m, &count, &sign); larger += count) {
        if (larger + count < tail) continue;
        double from, to, top = symmetric ? fmax(extreme(r, false), extreme(r, true)) : extreme(r, sign);
        ends(r, m, count, top, &from, &to);
        double x = to - (tail - larger) / count * (to - from);
        return x < top ? x : top;
    }
    return 0;
}

/* How many elements of one side exceed a magnitude. */
static inline double beyond(const qn_sketch *r, bool negative, double x) {
    descent d = descent_of(r, false, negative);
    double larger = 0, count, top = extreme(r, negative);
    bool sign;
    if (x >= top) return 0;
    for (int64_t m; descend(&d, &m, &count, &sign); larger += count) {
        double from, to;
        ends(r, m, count, top, &from, &to);
        if (x >= to) break;
        if (x > from) return larger + count * (to - x) / (to - from);
    }
    return larger;
}

/* The elements beyond a gap that no grid spans. */
typedef struct {
    int64_t cut;        /* the bin of the largest element that is no outlier */
    double count, from; /* number of outliers; lower end of their lowest bin */
} outliers;

/* At most the share QN_APART_SHARE of the nonzero elements. */
static inline outliers outliers_of(const qn_sketch *r) {
    descent d = descent_of(r, true, false);
    double larger = 0, count, filled = 0;
    int64_t above = -1;
    outliers o = {.cut = -1};
    bool sign;
    for (int64_t i = 0; i < r->bins; i++)
        if (magnitude(r->keys[i]) >= 128) filled += (double)r->counts[i]; /* zeros and subnormals do not count */
    for (int64_t m; descend(&d, &m, &count, &sign) && larger <= QN_APART_SHARE * filled; larger += count, above = m) {
        if (m < 128 && o.cut >= 0) break; /* zeros and subnormals do not end a gap */
        if (o.cut < 0) o.cut = m;
        else if ((above >> 7) - (m >> 7) >= r->gap) o = (outliers){m, larger, value(above)};
    }
    return o;
}

#endif
