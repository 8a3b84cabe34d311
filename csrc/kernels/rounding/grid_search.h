/* The scale and the zero point of a group of weights, of least weighted square error. */
#ifndef QN_GRID_SEARCH_H
#define QN_GRID_SEARCH_H

#include <stdbool.h>
#include <stdint.h>

/* The codes, and the zero points that a search may choose; one zero point is fixed. zero_low and zero_high are in
 * [qmin, qmax]; qmin < qmax; both are in [-2^15, 2^15). */
typedef struct {
    int32_t qmin, qmax;
    int32_t zero_low, zero_high;
} qn_levels;

/* Chooses scale and zero point of the n >= 1 weights of a group, so that
 *
 *     sum importance[i] (w[i] - scale (q[i] - zero))^2,    q[i] = clip(round_half_even(w[i] / scale) + zero, qmin,
 * qmax)
 *
 * is small: never above that of the range from minimum to maximum. `importance` is finite and not negative; NULL stands
 * for ones, and so do zeros alone. A weight that is not finite counts for nothing. A group of zeros gets scale 1. */
void qn_grid_search(const float *w, const float *importance, int64_t n, const qn_levels *levels, float *scale,
                    int32_t *zero);

#endif
