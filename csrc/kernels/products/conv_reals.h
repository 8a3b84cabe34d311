/* Convolutions of images of float32, which are quantized to uint8, with filters of 8-bit codes. */
#ifndef QN_CONV_REALS_H
#define QN_CONV_REALS_H

#include "conv.h"
#include "qparams.h"

/* y = float32(acc) * (scale of the image * scale) + bias, each step rounded; then gelu_f32 of it, or what lies between
 * lo and hi, where NaN stays. */
typedef struct {
    const float *scale, *bias; /* [outputs]; bias may be NULL */
    const qn_qparams *x;       /* of all images, with the codes qmin to qmax; NULL: of each image by its range */
    int32_t qmin, qmax;
    bool gelu;
    float lo, hi;
    float *y; /* [images][outputs][out_height][out_width] */
} qn_real_images;

/* x[images][channels][height][width]. Of c it reads the sizes, the filters and their zero points. */
qn_outcome qn_convolve_reals(const float *x, const qn_conv *c, const qn_real_images *r);

#endif
