/* The scale and the zero point, or the offset, of a group of weights, of least weighted square error.
 *
 * `importance` is finite and not negative; NULL stands for ones, and so do zeros alone. A weight that is not finite
 * counts for nothing. Results are the same bits on every machine; times a power of two, a group has the same grid times
 * that power. Where scales would leave the normal numbers or levels the finite ones, the grid is that of the range. */
#ifndef QN_GRID_SEARCH_H
#define QN_GRID_SEARCH_H

#include <stdint.h>

/* The codes, and the zero points that a search may choose; one zero point is fixed. zero_low and zero_high are in
 * [qmin, qmax]; qmin < qmax; both fit in 16 bits. */
typedef struct {
    int32_t qmin, qmax;
    int32_t zero_low, zero_high;
} qn_levels;

/* Chooses scale and zero point of the n >= 1 weights of a group, so that
 *
 *     sum importance[i] (w[i] - scale (q[i] - zero))^2,    q[i] = clip(round_half_even(w[i] / scale) + zero, qmin,
 * qmax)
 *
 * is small: never above that of the range from minimum to maximum, which includes 0. A group of zeros gets scale 1. */
void qn_grid_search(const float *w, const float *importance, int64_t n, const qn_levels *levels, float *scale,
                    int32_t *zero);

/* Chooses scale and offset, so that
 *
 *     sum importance[i] (w[i] - (scale q[i] + offset))^2,    q[i] = clip(round_half_even((w[i] - offset) / scale),
 * qmin, qmax)
 *
 * is small, in float32 where each operation rounds: never above that of the range from minimum to maximum. A group of
 * one value gets scale 1 and that value as its offset. qmin <= 0 <= qmax. */
void qn_offset_search(const float *w, const float *importance, int64_t n, int32_t qmin, int32_t qmax, float *scale,
                      float *offset);

#endif
