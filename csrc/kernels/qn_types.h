/* Layouts and parameter structs shared by kernels, walkers and bindings. */
#ifndef QN_TYPES_H
#define QN_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "float_list.h"

/* Element types as the bindings name them. The floats come first; codes follow, from QN_I8. */
typedef enum {
#define QN_TYPE(C, tag, NAME, name, bits, exponent, mantissa, bias, kind) QN_##NAME,
    QN_FLOATS(QN_TYPE, _)
#undef QN_TYPE
        QN_I8,
    QN_U8,
    QN_I16,
    QN_U16,
    QN_I32,
    QN_I4,
    QN_U4,
    QN_I2,
    QN_U2,
    QN_TYPE_COUNT
} qn_type;

/* Which rounding a quantize follows; docs/semantics.md states the formulas. */
typedef enum { QN_ONNX, QN_GUIDE, QN_TORCH, QN_TFLITE, QN_CONVENTION_COUNT } qn_convention;

typedef enum { QN_FLOAT, QN_FIXED, QN_FIXED_DOUBLE, QN_METHOD_COUNT } qn_method;

/* Parameters of one span of contiguous elements.
 *
 * run > 0   element i uses parameter (phase + i) / run: one scale for each run of elements
 * run == 0  element i uses parameter i: one scale for each element (per-channel on the last axis)
 */
typedef struct {
    const float *scale;        /* [params] S, or the multiplier M of requantize */
    const float *inverse;      /* [params] 1/S rounded to float32; this and the next two are read only when run == 0 */
    const float *low;          /* [params] qn_low: what the rounding of 1/S lost */
    const float *bound;        /* [params] QN_BOUND * S */
    const int32_t *zero_point; /* [params] Z */
    const int32_t *multiplier; /* [params] requantize_fixed: M = multiplier * 2^-shift */
    const int32_t *shift;      /* [params] 1..62 */
    int64_t run, phase;
    int64_t ahead;      /* prefetch distance in elements: what the caller reads next */
    int32_t qmin, qmax; /* codes saturate here */
    qn_convention convention;
    qn_method method;
    bool exact_inverse; /* the fused form rounds as the division: 8-bit codes and 2^-90 <= S <= 2^90 */
    bool stream;        /* write around the caches */
} qn_affine;

enum { QN_BOUND = 1 << 10 }; /* beyond any 8-bit code less its zero point */

/* 1/S - i for i = 1/S rounded to float32. The remainder 1 - i S is a float32, and exact here: i S has 48 bits. */
static inline float qn_low(float scale, float inverse) {
    return (float)(1.0 - (double)inverse * (double)scale) / scale;
}

/* How a span of reals is cast. */
typedef struct {
    uint64_t seed; /* of stochastic rounding: the random bits belong to (seed, index) */
    int64_t index; /* of the first element, in C order */
    bool saturate; /* what is beyond the largest number becomes the largest, infinities too */
    bool stochastic;
    bool stream; /* write around the caches */
} qn_cast;

/* Running minimum, maximum and counts. Empty: +inf, -inf, 0, 0. */
typedef struct {
    double min, max;
    int64_t nan, infinite;
} qn_range;

/* Sums over x and its approximation y, in float64. All 0 when empty. */
typedef struct {
    double signal, energy, dot, noise, peak; /* x^2, y^2, x y, (x - y)^2; the largest |x - y| */
} qn_error;

/* Where a float type ends: the smallest magnitude that overflows it, and its smallest normal number. */
typedef struct {
    double overflow;
    float overflow_f32; /* of float32 */
    float normal;
} qn_float_limits;

/* What becomes of finite numbers in a float type, and how many are not finite. Empty: least is infinity, the rest 0. */
typedef struct {
    uint64_t nan, infinite, overflow, zero, subnormal, kept; /* zero: what is not zero and becomes it; kept: the rest */
    uint64_t relative;                                       /* |x - y| / |x| of the kept, summed in units of 2^-30 */
    double worst, peak, least; /* the largest of these; the largest and the smallest nonzero finite |x| */
} qn_float_error;

/* The one granularity idea: a C-contiguous array seen as [outer][channels][inner].
 * block == 0  one parameter for each channel:                [channels]
 * block > 0   channels are cut into blocks, the last may be short: [outer][ceil(channels / block)][inner]
 * Per tensor is (1, 1, n), block 0; per group on the last axis is (rows, columns, 1), block = group_size.
 */
typedef struct {
    int64_t outer, channels, inner, block;
} qn_grid;

enum { QN_MAX_DIMS = 64 };

/* An input array: any strides, alignment and byte order; element k in C order is found from shape and strides. */
typedef struct {
    const char *data;
    qn_type type;
    size_t itemsize;
    int ndim;
    int64_t shape[QN_MAX_DIMS], strides[QN_MAX_DIMS]; /* strides in bytes */
    bool direct;                                      /* C-contiguous, aligned, native byte order: read in place */
    bool swapped;                                     /* the other byte order */
} qn_source;

#endif
