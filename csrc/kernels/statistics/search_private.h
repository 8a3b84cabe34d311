/* What search.c calls in search_mse.c, search_distinct.c and search_entropy.c. */
#ifndef QN_SEARCH_PRIVATE_H
#define QN_SEARCH_PRIVATE_H

#include "sketch.h"

enum {
    QN_LINEAR = 2048,   /* bins of the entropy search */
    QN_POINT_LANES = 8, /* parts of a sum over distinct values */
};

/* Count, sum and sum of squares of the elements below x, for x >= from in this cell: F0 = p + q x, F1 = r + q x^2 / 2,
 * F2 = s + q x^3 / 3. */
typedef struct {
    double p, q, r, s, from;
} cell;

/* Magnitudes of one sign, or of both, scaled by 2^-exponent, which keeps squares from overflowing. */
typedef struct {
    cell *cells;  /* [count + 2]: below the first bin, the bins, above the last bin */
    int64_t base; /* of the first bin: bits of a float64 >> shift */
    int64_t count;
    int shift;
    double top;
} side;

/* Both sides of a grid; of a symmetric one `high` has all magnitudes. */
typedef struct {
    side high, low;
    double kept;
    int exponent;
    int64_t cut;
} qn_sides;

/* The distinct values of a parameter, without outliers; n is 0 if they are not known. */
typedef struct {
    int64_t n, padded; /* padded to a multiple of QN_POINT_LANES */
    bool narrow;       /* float32 holds all of them */
    const double *values, *counts;
    const float *floats;
    float *codes;                /* of the grid tried last */
    double total, square, clear; /* elements, sum of squares, and the difference of two errors that counts */
} qn_points;

typedef struct {
    double values[QN_FEW_OF_TENSOR], counts_of[QN_FEW_OF_TENSOR];
    float floats[QN_FEW_OF_TENSOR], codes[QN_FEW_OF_TENSOR];
    cell high[QN_BINS / 2 + 2], low[QN_BINS / 2 + 2];
    double counts[2 * QN_LINEAR], sums[3 * (2 * QN_LINEAR + 1)];
} qn_search_room;

typedef struct {
    const double *count, *filled, *log; /* [bins + 1] sums over the bins below: of c, of c > 0, of c log c */
} qn_bin_sums;

typedef struct {
    double width; /* of a linear bin */
    int64_t bins; /* QN_LINEAR, or 2 QN_LINEAR with zero in the middle */
    double whole; /* the largest magnitude, the end of the last bin if nothing exceeds it */
} qn_linear_bins;

/* Find low, high and error of the best range. */
void qn_search_mse(const qn_sketch *r, const qn_search_spec *p, qn_search_room *space, double *low, double *high,
                   double *error);
void qn_search_entropy(const qn_sketch *r, const qn_search_spec *p, qn_search_room *space, double *low, double *high,
                       double *error);

/* The error of a range, from sums that are computed once for each parameter. */
qn_sides qn_sides_of(const qn_sketch *r, bool symmetric, qn_search_room *space);
double qn_mse(const qn_sides *s, const qn_search_spec *p, double low, double high);
double qn_mean_square(const qn_sides *s, bool symmetric); /* without outliers */

/* The same of distinct values: exactly what quantizing them with these parameters costs. */
qn_points qn_points_of(const qn_sketch *r, const qn_distinct *d, int64_t k, qn_search_room *space);
double qn_points_mse(const qn_points *v, const qn_search_spec *p, double low, double high);
void qn_search_points(const qn_sketch *r, const qn_points *v, const qn_search_spec *p, double *low, double *high,
                      double *error);

qn_linear_bins qn_linear_of(const qn_sketch *r, bool symmetric, qn_search_room *space);
qn_bin_sums qn_sums_of(const double *counts, int64_t bins, double *scratch);
double qn_entropy_error(const qn_search_spec *p, const qn_linear_bins *l, const qn_bin_sums *s,
                        const qn_search_room *space, double low, double high);

#endif
