/* Casts between the floats of float_list.h, for arrays of any layout. */
#ifndef QN_CAST_H
#define QN_CAST_H

#include "qn_types.h"

void qn_cast_array(const qn_source *x, void *y, qn_type type, const qn_cast *cast); /* sets index and stream itself */

#endif
