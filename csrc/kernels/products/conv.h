/* Exact convolutions of 8-bit codes. They multiply the weight by patches of the image, window by window, or, where a
 * channel group has few channels, sum over rows of the image. Padding adds nothing to a sum. */
#ifndef QN_CONV_H
#define QN_CONV_H

#include "matmul.h"

typedef struct {
    const char *x; /* [images][channels][height][width] of any strides: bytes */
    int64_t x_step[4];
    int64_t x_bytes;        /* bytes of x if it is C-contiguous, else 0 */
    qn_type x_type, w_type; /* QN_I8 or QN_U8 */
    int64_t images, channels, height, width;
    const void *w; /* [outputs][channels / channel_groups][filter[0]][filter[1]] */
    int64_t outputs, channel_groups, filter[2], stride[2], dilation[2], top, left;
    int32_t x_zero;
    qn_zeros w_zero; /* one for all, or one for each output channel */
    int64_t out_height, out_width;
    void *y;      /* [images][outputs][out_height][out_width] */
    qn_type type; /* QN_I32, or the codes saturate(rne((float)(acc + bias) * scale) + Z) to [qmin, qmax] */
    const float *scale;
    const int32_t *bias; /* scale[outputs], for codes; bias[outputs] or NULL, for codes */
    int32_t zero_point, qmin, qmax;
} qn_conv;

qn_outcome qn_convolve(const qn_conv *c);

#endif
