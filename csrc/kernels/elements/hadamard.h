/* Rows times Hadamard matrices. */
#ifndef QN_HADAMARD_H
#define QN_HADAMARD_H

#include "qn_types.h"

/* y[rows][size], float32: the rows of x, whose type is float32, float64 or a narrower float, rounded to float32 and
 * transformed. Every NaN of y has the same bits. */
void qn_hadamard_rows(const qn_source *x, int64_t rows, const qn_hadamard *h, float *y);

/* factors[size] = 1 / sqrt(block) with the signs. */
void qn_hadamard_factors(const int8_t *signs, int64_t size, int64_t block, float *factors);

#endif
