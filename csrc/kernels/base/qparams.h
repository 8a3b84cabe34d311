/* The parameters of a range; QParams.from_range is the same formula in Python. */
#ifndef QN_QPARAMS_H
#define QN_QPARAMS_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    float scale;
    int32_t zero_point;
} qn_qparams;

/* A scale must be normal and finite. */
static inline float qn_scale_rounded(double scale) {
    return scale < FLT_MIN ? FLT_MIN : scale > FLT_MAX ? FLT_MAX : (float)scale;
}

/* extent / steps in float64, rounded once; 1 if the extent is 0. */
static inline float qn_scale_of_extent(double extent, double steps) {
    return extent > 0 ? qn_scale_rounded(extent / steps) : 1.0f;
}

/* low <= 0 <= high. A symmetric range reaches as far down as up, and its zero point is the middle of the codes. */
static inline qn_qparams qn_qparams_of_range(double low, double high, bool symmetric, int32_t qmin, int32_t qmax) {
    double extent = symmetric ? 2 * fmax(-low, high) : high - low;
    qn_qparams p = {qn_scale_of_extent(extent, (double)qmax - qmin), (qmin + qmax) / 2};
    if (!symmetric) p.zero_point = (int32_t)fmin(fmax(rint(qmin - low / (double)p.scale), qmin), qmax);
    return p;
}

#endif
