/* Convolutions of images of float32, which are quantized to uint8 one by one, with filters of 8-bit codes. */
#ifndef QN_CONV_REALS_H
#define QN_CONV_REALS_H

#include "conv.h"

/* y = float32(acc) * (scale of the image * scale) + bias, each step rounded; then max(y, 0) or gelu_f32 of it. */
typedef struct {
    const float *scale, *bias; /* [outputs]; bias may be NULL */
    bool relu, gelu;
    float *y; /* [images][outputs][out_height][out_width] */
} qn_real_images;

/* x[images][channels][height][width]. Of c it reads the sizes, the filters and their zero points. */
qn_outcome qn_convolve_reals(const float *x, const qn_conv *c, const qn_real_images *r);

#endif
