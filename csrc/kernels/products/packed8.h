/* float32 activations times a packed 8-bit weight: quantized by rows on the way, in passes of bounded memory. */
#ifndef QN_PACKED8_H
#define QN_PACKED8_H

#include "matmul.h"

typedef struct {
    const float *x; /* [m][k] */
    int64_t m;
    bool is_signed, symmetric;
    int32_t qmin, qmax;
    float scale; /* of all rows, with its zero point; 0: each row has its own */
    int32_t zero_point;
} qn_input;

/* result->row_scale NULL: that of the activations. */
qn_outcome qn_linear(const qn_input *x, const qn_packed *b, const qn_result *result);

#endif
