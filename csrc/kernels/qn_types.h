/* Layouts and parameter structs shared by kernels, walkers and bindings. */
#ifndef QN_TYPES_H
#define QN_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element types as the bindings name them. The floats come first; codes follow. */
typedef enum {
    QN_F32,
    QN_F64,
    QN_F16,
    QN_BF16,
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

/* A packed 4-bit weight [k][n]; matmul4.h describes the bytes. */
typedef struct {
    int64_t k, n;
    int64_t block;  /* 16, 32, 64 or 128 neighbours along k share a scale */
    int64_t groups; /* ceil(k / block) */
    int64_t record; /* bytes of a group of 16 columns */
    bool half;      /* scales are float16, else float32 */
    bool zeros;     /* every group has zero points, else all are QN_ZERO_4 */
} qn_weight4;

enum { QN_ZERO_4 = 8 }; /* the middle of the codes 0..15: 0 of int4 */

/* Rows of activations for it: codes of [-127, 127], 0 past k. */
typedef struct {
    const int8_t *codes; /* [rows][stride], stride = groups * block */
    const float *scales; /* of row i and group g: scales[i * scale_row + g * scale_step] */
    const int32_t *sums; /* [rows][groups] of the codes */
    int64_t rows, stride, groups, scale_row, scale_step;
} qn_rows4;

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
