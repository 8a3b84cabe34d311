/* float32 activations times packed 8-bit weights. Passes of bounded memory quantize some rows and multiply them. */
#ifndef QN_PACKED_COLUMNS_H
#define QN_PACKED_COLUMNS_H

#include "matmul.h"

typedef struct {
    const float *x; /* [m][k] */
    int64_t m;
    bool is_signed, symmetric;
    int32_t qmin, qmax;
    float scale; /* one scale for all rows, with zero_point; 0: each row gets the parameters of its range */
    int32_t zero_point;
    const float *smooth;         /* [k] factors of the rows; or NULL */
    const qn_hadamard *hadamard; /* transforms the rows first; or NULL */
} qn_input;

/* A result for each of `count` weights of the same k. Their row_scale NULL: the scales of the activations. */
qn_outcome qn_linear(const qn_input *x, const qn_packed *const *weights, const qn_result *results, int64_t count);

#endif
