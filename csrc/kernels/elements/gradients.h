/* Fake-quantization for training, and its gradients. */
#ifndef QN_GRADIENTS_H
#define QN_GRADIENTS_H

#include "qn_types.h"

/* y = fake_quantize(x), and a bit for each element in C order: whether its code does not saturate. The
 * ceil(elements / 8) bytes of `inside` are zero before. float64 is no type of x. */
void qn_fake_quantize_inside(const qn_source *x, void *y, qn_type type, uint8_t *inside, const qn_grid *grid,
                             const qn_affine *params);

/* dx = g where the bit is set, else 0. */
void qn_keep_inside(const qn_source *g, const uint8_t *inside, void *dx, qn_type type);

/* dx = g where the code of x does not saturate, else 0; and the sums of each parameter, [3][params]: g times the error
 * of the step, g where the code lies below the range, g where it lies above. Their order of additions depends on the
 * grid alone. False: no memory. */
bool qn_gradients(const qn_source *x, const qn_source *g, void *dx, qn_type type, const qn_grid *grid,
                  const qn_affine *params, double *sums);

#endif
