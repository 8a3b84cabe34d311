/* Grids of small l_p error, p = 0.7, in which outliers weigh less: half-quadratic quantization (Badri and Shaji, 2023).
 *
 * It starts from the grid of least square error and lowers sum |w - level|^p in turns: an outlier part x of the errors
 * e is split off, x = sign(e) max(0, |e| - |e|^(p - 1) / beta), with errors in steps of the first grid and beta = 10 at
 * first, 1.01 times as large each time; then the grid is fitted to w - x by least squares, for the codes as they are.
 * It ends when the error grows, after 20 turns at most. Sums are in float64 in the order of the weights; powers are
 * computed by additions, multiplications and divisions alone, so that all machines agree. */
#ifndef QN_HALF_QUADRATIC_H
#define QN_HALF_QUADRATIC_H

#include "grid_search.h"

/* Fits the scale; the zero point is that of qn_grid_search. */
void qn_half_quadratic_grid(const float *w, int64_t n, const qn_levels *levels, float *scale, int32_t *zero);

/* Fits the offset; the scale is that of qn_offset_search. */
void qn_half_quadratic_offset(const float *w, int64_t n, int32_t qmin, int32_t qmax, float *scale, float *offset);

#endif
