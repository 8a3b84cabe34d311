/* Minimum and maximum of each parameter, for arrays of any layout. */
#ifndef QN_REDUCE_H
#define QN_REDUCE_H

#include "qn_types.h"

bool qn_min_max(const qn_source *x, const qn_grid *grid, qn_range *ranges); /* false: no memory */

/* Moving averages of the ranges: low = (1 - weight) low + weight min, and so high; one that is infinite, where nothing
 * finite was seen, gives way to the other. Then the parameters of [low, high] with 0, of [0, 0] where nothing finite
 * was seen. False: no memory. */
bool qn_observe(const qn_source *x, const qn_grid *grid, double weight, bool symmetric, int32_t qmin, int32_t qmax,
                double *low, double *high, float *scale, int32_t *zero_point);

#endif
