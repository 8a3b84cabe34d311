/* Rows of float32 activations to 8-bit codes, with a scale of their own or a given one. */
#ifndef QN_ACTIVATIONS_H
#define QN_ACTIVATIONS_H

#include "qn_types.h"

typedef struct {
    const float *x; /* [rows][k] */
    int64_t rows, k;
    int64_t block; /* neighbours along k that share a scale; the last may be fewer */
    bool is_signed, symmetric;
    int32_t qmin, qmax;
    float scale; /* the one scale of all, with its zero point; 0: found for each block */
    int32_t zero_point;
    uint8_t *codes;       /* [rows][stride], 0 past k */
    int64_t stride;       /* bytes from row to row, at least k */
    float *scales;        /* [rows][blocks], at least one block */
    int32_t *zero_points; /* [rows][blocks] */
    int64_t sum_block;    /* neighbours along k of a sum */
    int32_t *minus_sums;  /* [rows][ceil(k / sum_block)] sums of the codes, negated, or NULL */
} qn_activations;

/* The codes and parameters of qn.quantize(x, granularity=PerGroup(block)) with min-max parameters: NaN and infinities take
 * no part in a range. */
void qn_quantize_activations(const qn_activations *a);

#endif
