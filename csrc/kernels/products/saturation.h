/* Simulates matrix products by saturating pairs (vpmaddubsw). */
#ifndef QN_SATURATION_H
#define QN_SATURATION_H

#include <stdint.h>

/* a[m][k], b[k][n]; adds to sum[m][n] and error[m][n], and to pairs[n] the saturated pairs of each column. */
void qn_saturate(const uint8_t *a, const int8_t *b, int64_t m, int64_t k, int64_t n, int64_t *sum, int64_t *error,
                 int64_t *pairs);

/* Adds to pairs[n] how many pairs of each column of b[k][n] saturate for some row of a. */
void qn_unsafe_pairs(const int8_t *b, int64_t k, int64_t n, int64_t *pairs);

#endif
