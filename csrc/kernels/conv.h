/* Depthwise convolutions, plane by plane and over threads. Others are integer products of patches. */
#ifndef QN_CONV_H
#define QN_CONV_H

#include "qn_types.h"

/* `first` is the plane of image 0, channel 0; x[images][channels][height][width], w[channels][kernel], y likewise. */
void qn_depthwise(const qn_plane *first, int64_t images, int64_t channels);

#endif
