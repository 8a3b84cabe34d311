/* The range of a histogram that quantizes best; docs/searches.md describes the searches.
 *
 * The searches assume that the elements of a bin are spread evenly over it; the outermost bins end at the exact
 * extremes. Where the distinct values are known, the mean squared error is exact. One thread computes all sums of a
 * parameter, in float64 and in one order: results do not depend on the thread count.
 */
#ifndef QN_SEARCH_H
#define QN_SEARCH_H

#include "distinct.h"

/* The figures from QN_SQUARE on do not depend on a range: the mean square without outliers, the number of outliers, and
 * the magnitude from which on elements are outliers. */
typedef enum { QN_MSE, QN_ENTROPY, QN_PERCENTILE, QN_SQUARE, QN_APART, QN_APART_FROM, QN_CRITERION_COUNT } qn_criterion;

typedef struct {
    qn_criterion criterion;
    bool symmetric;
    int bits; /* of the histogram */
    /* Codes of the scheme: [-127, 127] when int8 is symmetric; [-n, n] of a float with n positive numbers. */
    int32_t qmin, qmax;
    double share;        /* percentile / 100 */
    const double *reals; /* NULL, or [n + 1] the numbers of a float type from 0 up; then symmetric */
} qn_search_spec;

/* Both functions read the distinct values of the parameters that keep them. */

/* Finds low <= 0 <= high of every parameter and their error: the mean square, the divergence, or the share of elements
 * outside. h->ranges has the extremes; every parameter must have finite elements. Returns 0, or -1 without memory. */
int qn_search(const qn_histogram *h, const qn_distinct *d, const qn_search_spec *spec, double *low, double *high,
              double *error);

/* The errors of given ranges, low[params][n] and high[params][n], low <= 0 <= high. */
int qn_search_errors(const qn_histogram *h, const qn_distinct *d, const qn_search_spec *spec, int64_t n,
                     const double *low, const double *high, double *error);

/* TensorRT's procedure on a histogram of [0, range) in equal bins. Returns how many bins, of `first` to `bins`, to keep
 * for the least divergence, the largest of equals. At least `fewest` of the kept bins must be filled, else it returns
 * `bins`. The levels are even, or those of reals[levels]. scratch[3 * (bins + 1)]; divergence[bins + 1], filled from
 * `first` on, or NULL. */
int64_t qn_entropy_bin(const double *counts, int64_t bins, int64_t levels, const double *reals, int64_t first,
                       int64_t fewest, double *scratch, double *divergence);

#endif
