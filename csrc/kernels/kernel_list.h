/* The list of kernels: QN_KERNEL(name, argument list). The contract of each stands in qn_kernels.h.
 * From this list are made: the table struct, the declarations, the overlay, the introspection (`_core.kernels()`).
 * QN_CODES(X) and QN_CODES_IN(X) are the code types that exist in memory: tag, C type.
 */
#ifndef QN_KERNEL_LIST_H
#define QN_KERNEL_LIST_H

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
    QN_KERNEL(truncate_f64_f32, (const double *x, float *y, int64_t n))                                                \
    QN_KERNEL(error_sums_f32, (const float *x, const float *y, int64_t n, qn_error *e))                                \
    QN_KERNEL(codes_seen_8, (const uint8_t *codes, int64_t n, uint8_t *seen))                                          \
    QN_KERNEL(widen_f16_f32, (const uint16_t *h, float *x, int64_t n))                                                 \
    QN_KERNEL(widen_bf16_f32, (const uint16_t *h, float *x, int64_t n))                                                \
    QN_KERNEL(narrow_f32_f16, (const float *x, uint16_t *h, int64_t n))                                                \
    QN_KERNEL(narrow_f32_bf16, (const float *x, uint16_t *h, int64_t n))                                               \
    QN_KERNEL(pack_4, (const uint8_t *codes, uint8_t *bytes, int64_t n))                                               \
    QN_KERNEL(pack_2, (const uint8_t *codes, uint8_t *bytes, int64_t n))                                               \
    QN_KERNEL(unpack_i4, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(unpack_u4, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(unpack_i2, (const uint8_t *bytes, uint8_t *codes, int64_t n))                                            \
    QN_KERNEL(unpack_u2, (const uint8_t *bytes, uint8_t *codes, int64_t n))

#endif
