/* The factor of the inverse of a positive definite matrix. */
#ifndef QN_CHOLESKY_H
#define QN_CHOLESKY_H

#include <stdint.h>

typedef enum { QN_FACTORED, QN_NOT_POSITIVE, QN_FACTOR_NO_MEMORY } qn_factor_outcome;

/* u = the upper triangular matrix with u^T u = h^-1 and a positive diagonal; zeros below it. Both are [n][n], and the
 * upper triangle of h is read.
 *
 * h = r r^T with r upper triangular, from the last column to the first, and u = r^-1. Every element is a sum in the
 * order of the column, whatever the number of threads. QN_NOT_POSITIVE: a pivot is not above n 2^-52 of its diagonal
 * element, or not finite; u is undefined. */
qn_factor_outcome qn_inverse_factor(const double *h, int64_t n, double *u);

#endif
