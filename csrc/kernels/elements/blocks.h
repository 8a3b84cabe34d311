/* Blocks of neighbours, each with a scale computed from its largest magnitude: OCP MX and NVFP4. */
#ifndef QN_BLOCKS_H
#define QN_BLOCKS_H

#include "qn_types.h"

typedef struct {
    qn_type element;    /* a narrow float */
    int64_t block;      /* neighbours that share a scale, at most QN_MAX_BLOCK */
    int emax;           /* exponent of the largest element */
    float largest;      /* the largest element */
    float tensor_scale; /* 0: scales are powers of two (E8M0); otherwise scales are E4M3, in units of tensor_scale */
} qn_block_format;

enum { QN_MAX_BLOCK = 1024 };

/* x as [rows][columns], blocks along the columns, the last of a row may be short. codes[rows][columns],
 * packed in rows of bytes (packing.h) if an element is narrower than a byte, zero before if blocks do not end with one;
 * scales[rows][ceil(columns / block)]. Each block on its own:
 *   E8M0   S = 2^(floor(log2 m) - emax), m the largest finite magnitude; at least 2^-127
 *   E4M3   s = round(m / largest / tensor_scale) in float32, then to E4M3, at least its smallest; S = s tensor_scale
 *   codes = round(x / S) to the element type, half to even, saturated.
 * A block with a NaN has the scale NaN. float64 is read as float32 rounded to odd, which does not change the codes. */
void qn_quantize_blocks(const qn_source *x, int64_t rows, int64_t columns, const qn_block_format *format,
                        uint8_t *codes, uint8_t *scales);

#endif
