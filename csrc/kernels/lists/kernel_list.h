/* The list of kernels: QN_KERNEL(name, argument list). The contract of each stands in qn_kernels.h.
 * From this list are made: the table struct, the declarations, the overlay, the introspection (`_core.kernels()`).
 * QN_CODES(X) and QN_CODES_IN(X) are the code types that exist in memory: tag, C type.
 */
#ifndef QN_KERNEL_LIST_H
#define QN_KERNEL_LIST_H

#include "float_list.h"

#define QN_CODES(X)                                                                                                    \
    X(i8, int8_t)                                                                                                      \
    X(u8, uint8_t)                                                                                                     \
    X(i16, int16_t)                                                                                                    \
    X(u16, uint16_t)

/* Codes that dequantize reads: the above, int32 accumulators, and the sub-byte types, one code to a byte. */
#define QN_CODES_IN(X)                                                                                                 \
    QN_CODES(X)                                                                                                        \
    X(i32, int32_t)                                                                                                    \
    X(i4, uint8_t)                                                                                                     \
    X(u4, uint8_t)                                                                                                     \
    X(i2, uint8_t)                                                                                                     \
    X(u2, uint8_t)

#define QN_FLOAT_KERNELS(QN_KERNEL, tag, NAME, name, bits, exponent, mantissa, bias, kind)                             \
    QN_KERNEL(widen_##tag##_f32, (const uint##bits##_t *h, float *x, int64_t n, const qn_cast *p))                     \
    QN_KERNEL(narrow_f32_##tag, (const float *x, uint##bits##_t *h, int64_t n, const qn_cast *p))

#define QN_KERNEL_LIST(QN_KERNEL)                                                                                      \
    QN_KERNEL(quantize_f32_i8, (const float *x, int8_t *q, int64_t n, const qn_affine *p))                             \
    QN_KERNEL(quantize_f32_u8, (const float *x, uint8_t *q, int64_t n, const qn_affine *p))                            \
    QN_KERNEL(quantize_f32_i16, (const float *x, int16_t *q, int64_t n, const qn_affine *p))                           \
    QN_KERNEL(quantize_f32_u16, (const float *x, uint16_t *q, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(quantize_f64_i32, (const double *x, int32_t *q, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(narrow_i32_i8, (const int32_t *x, int8_t *q, int64_t n))                                                 \
    QN_KERNEL(narrow_i32_u8, (const int32_t *x, uint8_t *q, int64_t n))                                                \
    QN_KERNEL(narrow_i32_i16, (const int32_t *x, int16_t *q, int64_t n))                                               \
    QN_KERNEL(narrow_i32_u16, (const int32_t *x, uint16_t *q, int64_t n))                                              \
    QN_KERNEL(dequantize_i8_f32, (const int8_t *q, float *x, int64_t n, const qn_affine *p))                           \
    QN_KERNEL(dequantize_u8_f32, (const uint8_t *q, float *x, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(dequantize_i16_f32, (const int16_t *q, float *x, int64_t n, const qn_affine *p))                         \
    QN_KERNEL(dequantize_u16_f32, (const uint16_t *q, float *x, int64_t n, const qn_affine *p))                        \
    QN_KERNEL(dequantize_i32_f32, (const int32_t *q, float *x, int64_t n, const qn_affine *p))                         \
    QN_KERNEL(dequantize_i4_f32, (const uint8_t *q, float *x, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(dequantize_u4_f32, (const uint8_t *q, float *x, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(dequantize_i2_f32, (const uint8_t *q, float *x, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(dequantize_u2_f32, (const uint8_t *q, float *x, int64_t n, const qn_affine *p))                          \
    QN_KERNEL(fake_quantize_f32, (const float *x, float *y, int64_t n, const qn_affine *p))                            \
    QN_KERNEL(requantize_i32_i8, (const int32_t *acc, int8_t *q, int64_t n, const qn_affine *p))                       \
    QN_KERNEL(requantize_i32_u8, (const int32_t *acc, uint8_t *q, int64_t n, const qn_affine *p))                      \
    QN_KERNEL(requantize_i32_i16, (const int32_t *acc, int16_t *q, int64_t n, const qn_affine *p))                     \
    QN_KERNEL(requantize_i32_u16, (const int32_t *acc, uint16_t *q, int64_t n, const qn_affine *p))                    \
    QN_KERNEL(requantize_fixed_i32, (const int32_t *acc, int32_t *q, int64_t n, const qn_affine *p))                   \
    QN_KERNEL(min_max_f32, (const float *x, int64_t n, qn_range *r))                                                   \
    QN_KERNEL(min_max_f64, (const double *x, int64_t n, qn_range *r))                                                  \
    QN_KERNEL(min_max_columns_f32, (const float *x, int64_t rows, int64_t stride, int64_t n, qn_range *r))             \
    QN_KERNEL(min_max_columns_f64, (const double *x, int64_t rows, int64_t stride, int64_t n, qn_range *r))            \
    QN_KERNEL(count_f32, (const float *x, int64_t n, int shift, int ways, uint32_t *counts))                           \
    QN_KERNEL(count_columns_f32,                                                                                       \
              (const float *x, int64_t rows, int64_t stride, int64_t n, int shift, int64_t table, uint32_t *counts))   \
    QN_KERNEL(sort_columns_i16, (int16_t *keys, int64_t n))                                                            \
    QN_KERNEL(truncate_f64_f32, (const double *x, float *y, int64_t n))                                                \
    QN_KERNEL(error_sums_f32, (const float *x, const float *y, int64_t n, qn_error *e))                                \
    QN_KERNEL(codes_seen_8, (const uint8_t *codes, int64_t n, uint8_t *seen))                                          \
    QN_NARROW_FLOATS(QN_FLOAT_KERNELS, QN_KERNEL)                                                                      \
    QN_KERNEL(narrow_f64_f32, (const double *x, float *y, int64_t n, const qn_cast *p))                                \
    QN_KERNEL(odd_f64_f32, (const double *x, float *y, int64_t n))                                                     \
    QN_KERNEL(widen_f32_f64, (const float *x, double *y, int64_t n, const qn_cast *p))                                 \
    QN_KERNEL(copy_f32_f32, (const float *x, float *y, int64_t n, const qn_cast *p))                                   \
    QN_KERNEL(copy_f64_f64, (const double *x, double *y, int64_t n, const qn_cast *p))                                 \
    QN_KERNEL(widen_image_rows, (const qn_wide_rows *p))                                                               \
    QN_KERNEL(dot_rows, (const qn_dot_rows *d))                                                                        \
    QN_KERNEL(matmul4_panels, (const qn_weight4 *w, const uint8_t *panel, int64_t panels, const qn_rows4 *x,           \
                               int64_t first, int64_t last, float *y))                                                 \
    QN_KERNEL(saturate_pairs_u8s8, (const uint8_t *a, const int8_t *b, int64_t k, int64_t stride, int64_t n,           \
                                    int32_t *sum, int32_t *error, int32_t *pairs))                                     \
    QN_KERNEL(unsafe_pairs_i8, (const int8_t *b, int64_t k, int64_t stride, int64_t n, int32_t *pairs))                \
    QN_KERNEL(divide_f32, (const float *x, float *y, int64_t n, const qn_affine *p))                                   \
    QN_KERNEL(divide_f64, (const double *x, double *y, int64_t n, const qn_affine *p))                                 \
    QN_KERNEL(multiply_f32, (const float *x, float *y, int64_t n, const qn_affine *p))                                 \
    QN_KERNEL(block_max_f32, (const float *x, float *most, int64_t n, int64_t block))                                  \
    QN_KERNEL(float_error_f32,                                                                                         \
              (const float *x, const float *y, int64_t n, const qn_float_limits *limits, qn_float_error *e))           \
    QN_KERNEL(float_error_f64,                                                                                         \
              (const double *x, const float *y, int64_t n, const qn_float_limits *limits, qn_float_error *e))          \
    QN_KERNEL(multiply_add_f16, (float a, const float *w, float *y, int64_t n))                                        \
    QN_KERNEL(multiply_add_bf16, (float a, const float *w, float *y, int64_t n))                                       \
    QN_KERNEL(multiply_add_f32, (float a, const float *w, float *y, int64_t n))                                        \
    QN_KERNEL(pack_4, (const uint8_t *codes, uint8_t *bytes, int64_t n))                                               \
    QN_KERNEL(pack_2, (const uint8_t *codes, uint8_t *bytes, int64_t n))                                               \
    QN_KERNEL(unpack_i4, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(unpack_u4, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(unpack_i2, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(unpack_u2, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(matmul_tiling, (qn_tiling * t))                                                                          \
    QN_KERNEL(left_pairs, (const qn_left *l))                                                                          \
    QN_KERNEL(left_bytes, (const qn_left *l))                                                                          \
    QN_KERNEL(left_parts, (const qn_left *l))                                                                          \
    QN_KERNEL(left_words, (const qn_left *l))                                                                          \
    QN_KERNEL(right_bytes, (const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, int64_t panels,          \
                            uint8_t *packed, int64_t panel_step))                                                      \
    QN_KERNEL(right_turned, (const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, uint8_t *panel))        \
    QN_KERNEL(right_sums, (const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs))                      \
    QN_KERNEL(right_widen, (const uint8_t *panel, int64_t quartets, uint16_t *wide))                                   \
    QN_KERNEL(multiply_pairs, (const qn_tile *t))                                                                      \
    QN_KERNEL(multiply_pairs_wide, (const qn_tile *t))                                                                 \
    QN_KERNEL(multiply_parts, (const qn_tile *t))                                                                      \
    QN_KERNEL(multiply_u8, (const qn_tile *t))                                                                         \
    QN_KERNEL(multiply_u7, (const qn_tile *t))                                                                         \
    QN_KERNEL(multiply_words, (const qn_tile *t))                                                                      \
    QN_KERNEL(left_quads, (const qn_left *l))                                                                          \
    QN_KERNEL(left_turned, (const uint8_t *packed, int64_t quartets, int64_t rows, uint8_t *turned, int64_t step))     \
    QN_KERNEL(right_quads, (const uint8_t *panel, int64_t quartets, uint8_t less, uint8_t center, uint8_t *quads))     \
    QN_KERNEL(multiply_quads, (const qn_tile *t))                                                                      \
    QN_KERNEL(add_excess, (const qn_excess_tile *x))                                                                   \
    QN_KERNEL(sweep, (const qn_thin *t))                                                                               \
    QN_KERNEL(dots, (const qn_thin *t))                                                                                \
    QN_KERNEL(add_outer,                                                                                               \
              (const int32_t *x, const int32_t *y, int64_t rows, int64_t columns, int32_t *c, int64_t c_step))         \
    QN_KERNEL(finish_f32, (const qn_finish *f))                                                                        \
    QN_KERNEL(finish_i8, (const qn_finish *f))                                                                         \
    QN_KERNEL(finish_u8, (const qn_finish *f))

#endif
