/* Which range of a histogram quantizes best: docs/semantics.md states the criteria.
 *
 * Elements of a bin are taken as spread evenly over it; the outermost bins end at the exact extremes. All sums are
 * float64, for one parameter on one thread, in one order: the result does not depend on the thread count.
 */
#ifndef QN_SEARCH_H
#define QN_SEARCH_H

#include "histogram.h"

/* From QN_SQUARE on, figures that no range changes: the mean square of what no grid spans left out, how many elements
 * are left out, and from which magnitude. */
typedef enum { QN_MSE, QN_ENTROPY, QN_PERCENTILE, QN_SQUARE, QN_APART, QN_APART_FROM, QN_CRITERION_COUNT } qn_criterion;

typedef struct {
    qn_criterion criterion;
    bool symmetric;
    int bits; /* of the histogram */
    int32_t qmin,
        qmax;     /* of the scheme: [-127, 127] when int8 is symmetric; [-n, n] of a float with n positive numbers */
    double share; /* percentile / 100 */
    const double *reals; /* [n + 1] of a float, which is symmetric: its numbers from 0 up; else NULL */
} qn_search_spec;

/* Finds low <= 0 <= high of every parameter and their error: the mean square, the divergence, or the share outside.
 * h->ranges holds the extremes; all must have finite elements. Returns 0, or -1 without memory. */
int qn_search(const qn_histogram *h, const qn_search_spec *spec, double *low, double *high, double *error);

/* The errors of given ranges, low[params][n] and high[params][n], low <= 0 <= high. */
int qn_search_errors(const qn_histogram *h, const qn_search_spec *spec, int64_t n, const double *low,
                     const double *high, double *error);

/* TensorRT's procedure on a histogram of [0, range) in equal bins: the number of bins kept that diverges least, the
 * last of equals, of `first` to `bins`; all of them unless `fewest` of those kept are filled. The levels are even, or
 * those of reals[levels]. scratch[3 * (bins + 1)]. divergence[bins + 1], from `first` on, if not NULL. */
int64_t qn_entropy_bin(const double *counts, int64_t bins, int64_t levels, const double *reals, int64_t first,
                       int64_t fewest, double *scratch, double *divergence);

#endif
