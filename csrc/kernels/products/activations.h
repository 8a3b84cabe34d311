/* Rows of float32 activations to 8-bit codes, with a scale of their own or a given one; or rows of codes as they are.
 */
#ifndef QN_ACTIVATIONS_H
#define QN_ACTIVATIONS_H

#include "qn_types.h"

/* Codes and their parameters: those of row i and group b stand at [i * row + b * step]. */
typedef struct {
    const uint8_t *codes; /* [rows][k]; int8 has the same bytes */
    const float *scales;
    const int32_t *zero_points; /* NULL: all are 0 */
    int64_t row, step;
} qn_given_codes;

typedef struct {
    const float *x;       /* [rows][k]; NULL: */
    qn_given_codes given; /* are taken over */
    int64_t rows, k;
    int64_t group; /* neighbours along k that share a scale; the last may be fewer */
    bool is_signed, symmetric;
    int32_t qmin, qmax;
    float scale; /* the one scale of all, with its zero point; 0: found for each group */
    int32_t zero_point;
    int32_t less;         /* subtracted from codes and zero points as they are stored: 128 makes int8 of uint8 */
    uint8_t *codes;       /* [rows][stride], 0 past k */
    int64_t stride;       /* bytes from row to row, at least k */
    float *scales;        /* [rows][groups], at least one group */
    int32_t *zero_points; /* [rows][groups] */
    int64_t sum_group;    /* neighbours along k of a sum, no more than a group */
    int32_t *minus_sums;  /* [rows][ceil(k / sum_group)] of the codes, int8, less their zero point, negated; or NULL */
} qn_activations;

/* The codes and parameters of qn.quantize(x, granularity=PerGroup(group)) with min-max parameters: NaN and infinities
 * take no part in a range. */
void qn_quantize_activations(const qn_activations *a);

#endif
