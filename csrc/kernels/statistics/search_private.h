/* What the driver of the searches, search.c, has from search_mse.c and search_entropy.c. */
#ifndef QN_SEARCH_PRIVATE_H
#define QN_SEARCH_PRIVATE_H

#include "sketch.h"

enum { QN_LINEAR = 2048 }; /* bins of the entropy search */

/* F0 = p + q x, F1 = r + q x^2 / 2, F2 = s + q x^3 / 3: count, sum and sum of squares of the elements below x >= from.
 */
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

/* Both sides of a grid, or the magnitudes alone where it is symmetric. */
typedef struct {
    side high, low;
    double kept;
    int exponent;
    int64_t cut;
} qn_sides;

typedef struct {
    cell high[QN_BINS / 2 + 2], low[QN_BINS / 2 + 2];
    double counts[2 * QN_LINEAR], sums[3 * (2 * QN_LINEAR + 1)];
} qn_search_room;

typedef struct {
    const double *count, *filled, *log; /* sums below a bin: of c, of c > 0, of c log c */
} qn_bin_sums;

typedef struct {
    double width; /* of a linear bin */
    int64_t bins; /* QN_LINEAR, or 2 QN_LINEAR with zero in the middle */
    double whole; /* the largest magnitude, for which the last bin stands when nothing lies beyond */
} qn_linear_bins;

/* low, high and error of the best range. */
void qn_search_mse(const qn_sketch *r, const qn_search_spec *p, qn_search_room *space, double *low, double *high,
                   double *error);
void qn_search_entropy(const qn_sketch *r, const qn_search_spec *p, qn_search_room *space, double *low, double *high,
                       double *error);

/* The error of a given range, from what is made once for a parameter. */
qn_sides qn_sides_of(const qn_sketch *r, bool symmetric, qn_search_room *space);
double qn_mse(const qn_sides *s, const qn_search_spec *p, double low, double high);
double qn_mean_square(const qn_sides *s, bool symmetric); /* of what is quantized */

qn_linear_bins qn_linear_of(const qn_sketch *r, bool symmetric, qn_search_room *space);
qn_bin_sums qn_sums_of(const double *counts, int64_t bins, double *scratch);
double qn_entropy_error(const qn_search_spec *p, const qn_linear_bins *l, const qn_bin_sums *s,
                        const qn_search_room *space, double low, double high);

#endif
