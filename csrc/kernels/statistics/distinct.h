/* The distinct values of an array, if they are few. */
#ifndef QN_DISTINCT_H
#define QN_DISTINCT_H

#include "histogram.h"

enum { QN_FEW = 64 };
typedef struct {
    int64_t n;
    double values[QN_FEW]; /* in any order */
    int64_t counts[QN_FEW];
} qn_few;

/* The distinct finite values of x, -0 as 0. False if there are more than QN_FEW, or one exceeds float32. Keys and
 * counts are the bins of x as one parameter, with QN_TENSOR_BITS. */
bool qn_few_values(const qn_source *x, const uint16_t *keys, const int64_t *counts, int64_t bins, qn_few *few);

#endif
