/* Rows times Hadamard matrices. */
#ifndef QN_HADAMARD_H
#define QN_HADAMARD_H

#include "qn_types.h"

/* y[rows][size], float32: the rows of x, whose type is float32, float64 or a narrower float, rounded to float32 and
 * transformed. Every NaN of y has the same bits. */
void qn_hadamard_rows(const qn_source *x, int64_t rows, const qn_hadamard *h, float *y);

/* The transform of rows of `size` elements in blocks, with the signs of its factors, which it stores in factors[size].
 * False if there is no such matrix, or the blocks do not divide the rows. */
bool qn_hadamard_make(const int8_t *signs, int64_t size, int64_t block, float *factors, qn_hadamard *h);

#endif
