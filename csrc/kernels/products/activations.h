/* Quantizes rows of float32 activations to 8-bit codes, with scales from their ranges or one fixed scale; or takes rows
 * of codes over. */
#ifndef QN_ACTIVATIONS_H
#define QN_ACTIVATIONS_H

#include "qn_types.h"

/* Codes and their parameters: row i and group g have those at [i * row + g * step]. */
typedef struct {
    const uint8_t *codes; /* [rows][k]; int8 has the same bytes */
    const float *scales;
    const int32_t *zero_points; /* NULL: all are 0 */
    int64_t row, step;
} qn_input_codes;

typedef struct {
    const float *x;              /* [rows][k]; NULL: take `input` over */
    const float *smooth;         /* [k] factors of x before the transform; or NULL */
    const qn_hadamard *hadamard; /* transforms rows of x; or NULL */
    float *transformed;          /* qn_transformed_rows(rows) rows of k, if there are factors or a transform */
    qn_input_codes input;        /* if x is NULL */
    int64_t rows, k;
    int64_t group; /* neighbours along k that share a scale; the last group may be short */
    bool is_signed, symmetric;
    int32_t qmin, qmax;
    float scale; /* one scale for all, with zero_point; 0: each group gets the parameters of its range */
    int32_t zero_point;
    int32_t less;         /* subtracted from codes and zero points when they are stored: 128 turns uint8 into int8 */
    uint8_t *codes;       /* [rows][stride], 0 past k */
    int64_t stride;       /* bytes from row to row, at least k */
    float *scales;        /* [rows][groups], at least one group */
    int32_t *zero_points; /* [rows][groups] */
    int64_t sum_group;    /* neighbours along k of a sum, at most a group */
    int32_t *minus_sums;  /* [rows][ceil(k / sum_group)] -sum (code - zero point), codes are int8; or NULL */
} qn_activations;

/* Rows of floats that the transform of `rows` rows needs: one for each piece of a thread. */
int64_t qn_transformed_rows(int64_t rows);

/* The codes and parameters of qn.quantize(x, granularity=PerGroup(group)) with min-max parameters. NaN and infinities
 * do not count for a range. */
void qn_quantize_activations(const qn_activations *a);

#endif
