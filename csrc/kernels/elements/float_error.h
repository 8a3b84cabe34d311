/* Counts and errors of a conversion to a float type, for arrays of any layout. */
#ifndef QN_FLOAT_ERROR_H
#define QN_FLOAT_ERROR_H

#include "qn_types.h"

void qn_find_float_error(const qn_source *x, qn_type type, double overflow, float normal, qn_float_error *sums);

#endif
