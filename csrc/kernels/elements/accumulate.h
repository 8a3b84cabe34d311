/* y[m][n] = x[m][k] w[k][n], summed over k one after another, each sum rounded to the type of y. */
#ifndef QN_ACCUMULATE_H
#define QN_ACCUMULATE_H

#include "qn_types.h"

/* x and w are two-dimensional, of float32 or 16-bit floats; y is C-contiguous float32, float16 or bfloat16. */
void qn_accumulate(const qn_source *x, const qn_source *w, void *y, qn_type type);

#endif
