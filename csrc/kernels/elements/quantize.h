/* Quantize, dequantize, fake-quantize and requantize arrays of any layout. */
#ifndef QN_QUANTIZE_H
#define QN_QUANTIZE_H

#include "packing.h"

/* Parameter arrays hold qn_grid_params(grid) elements; outputs are C-contiguous with the source's element count. */
void qn_quantize(const qn_source *x, void *q, qn_type code, const qn_grid *grid, const qn_affine *params);
void qn_quantize_packed(const qn_source *x, const qn_byte_rows *q, qn_type code, const qn_grid *grid,
                        const qn_affine *params);
void qn_dequantize(const qn_source *q, void *x, qn_type type, const qn_grid *grid, const qn_affine *params);
/* Whether the product with the reciprocal in two parts rounds as the division for these codes and scales. */
bool qn_exact_inverse(const qn_affine *params, const qn_grid *grid);
void qn_fake_quantize(const qn_source *x, void *y, qn_type type, const qn_grid *grid, const qn_affine *params);
void qn_requantize(const qn_source *acc, void *q, qn_type code, const qn_grid *grid, const qn_affine *params);

#endif
