/* Minimum and maximum of each parameter, for arrays of any layout. */
#ifndef QN_REDUCE_H
#define QN_REDUCE_H

#include "qn_types.h"

bool qn_min_max(const qn_source *x, const qn_grid *grid, qn_range *ranges); /* false: no memory */

#endif
