/* The list of kernels. The table struct, the declarations, the overlay, `_core.kernels()` and the C tests read it. The
 * contract of each kernel stands in qn_kernels.h.
 *
 * QN_KERNEL(kind, name, argument list, arguments of its test...)
 *   AFFINE    input and output type, the fields of p that vary, the least and the largest code. CONVENTIONS:
 *             p->convention; METHODS: p->method; RECTANGLES: p->rows
 *   CAST      input and output type: float, double, or the unsigned integer of a narrow float
 *   NARROW    input and output type, the least and the largest code
 *   PLAIN     input and output type, codes in an element of each
 *   OWN       stem: the function test_<stem> of csrc/tests/test_<stem>.c tests the kernel
 *   PRODUCT   nothing: test_matmul.c tests the kernels of products through their driver
 */
#ifndef QN_KERNEL_LIST_H
#define QN_KERNEL_LIST_H

#include "code_list.h"
#include "float_list.h"

/* QN_KERNEL with the argument list of the kind. */
#define QN_KERNEL_AFFINE(QN_KERNEL, name, input, output, varies, qmin, qmax)                                           \
    QN_KERNEL(AFFINE, name, (const input *x, output *y, int64_t n, const qn_affine *p), input, output, varies, qmin,   \
              qmax)
#define QN_KERNEL_CAST(QN_KERNEL, name, input, output)                                                                 \
    QN_KERNEL(CAST, name, (const input *x, output *y, int64_t n, const qn_cast *p), input, output)
#define QN_KERNEL_NARROW(QN_KERNEL, name, input, output, qmin, qmax)                                                   \
    QN_KERNEL(NARROW, name, (const input *x, output *y, int64_t n), input, output, qmin, qmax)
#define QN_KERNEL_PLAIN(QN_KERNEL, name, input, output, input_codes, output_codes)                                     \
    QN_KERNEL(PLAIN, name, (const input *x, output *y, int64_t n), input, output, input_codes, output_codes)

/* The kernels of a line of code_list.h or float_list.h. */
#define QN_QUANTIZE_KERNEL(QN_KERNEL, tag, NAME, name, type, bits, is_signed, storage)                                 \
    QN_KERNEL_AFFINE(QN_KERNEL, quantize_f32_##tag, float, type, CONVENTIONS | RECTANGLES, QN_QMIN(bits, is_signed),   \
                     QN_QMAX(bits, is_signed))
#define QN_NARROW_KERNEL(QN_KERNEL, tag, NAME, name, type, bits, is_signed, storage)                                   \
    QN_KERNEL_NARROW(QN_KERNEL, narrow_i32_##tag, int32_t, type, QN_QMIN(bits, is_signed), QN_QMAX(bits, is_signed))
#define QN_DEQUANTIZE_KERNEL(QN_KERNEL, tag, NAME, name, type, bits, is_signed, storage)                               \
    QN_KERNEL_AFFINE(QN_KERNEL, dequantize_##tag##_f32, type, float, RECTANGLES, QN_QMIN(bits, is_signed),             \
                     QN_QMAX(bits, is_signed))
#define QN_REQUANTIZE_KERNEL(QN_KERNEL, tag, NAME, name, type, bits, is_signed, storage)                               \
    QN_KERNEL_AFFINE(QN_KERNEL, requantize_i32_##tag, int32_t, type, RECTANGLES, QN_QMIN(bits, is_signed),             \
                     QN_QMAX(bits, is_signed))
#define QN_PACK_KERNEL(QN_KERNEL, bits)                                                                                \
    QN_KERNEL(OWN, pack_##bits, (const uint8_t *codes, uint8_t *bytes, int64_t n), pack)
#define QN_UNPACK_KERNEL(QN_KERNEL, tag, NAME, name, type, bits, is_signed, storage)                                   \
    QN_KERNEL(OWN, unpack_##tag, (const uint8_t *bytes, uint8_t *codes, int64_t n), pack)
#define QN_FLOAT_KERNELS(QN_KERNEL, tag, NAME, name, bits, exponent, mantissa, bias, kind)                             \
    QN_KERNEL_CAST(QN_KERNEL, widen_##tag##_f32, uint##bits##_t, float)                                                \
    QN_KERNEL_CAST(QN_KERNEL, narrow_f32_##tag, float, uint##bits##_t)

#define QN_KERNEL_LIST(QN_KERNEL)                                                                                      \
    QN_WHOLE_CODES(QN_QUANTIZE_KERNEL, QN_KERNEL)                                                                      \
    QN_KERNEL_AFFINE(QN_KERNEL, quantize_f64_i32, double, int32_t, CONVENTIONS, INT16_MIN, INT16_MAX)                  \
    QN_WHOLE_CODES(QN_NARROW_KERNEL, QN_KERNEL)                                                                        \
    QN_INTEGERS(QN_DEQUANTIZE_KERNEL, QN_KERNEL)                                                                       \
    QN_KERNEL_AFFINE(QN_KERNEL, fake_quantize_f32, float, float, CONVENTIONS | RECTANGLES, INT8_MIN, INT8_MAX)         \
    QN_KERNEL(OWN, fake_quantize_inside_f32,                                                                           \
              (const float *x, float *y, uint8_t *inside, int64_t n, const qn_affine *p), gradients)                   \
    QN_KERNEL(OWN, keep_f32, (const float *g, const uint8_t *inside, float *y, int64_t n, bool stream), gradients)     \
    QN_KERNEL(OWN, gradient_f32,                                                                                       \
              (const float *x, const float *g, float *dx, int64_t n, const qn_affine *p, qn_gradient *sums),           \
              gradients)                                                                                               \
    QN_KERNEL(OWN, gradient_columns_f32,                                                                               \
              (const float *x, const float *g, float *dx, int64_t n, const qn_affine *p, double *error, double *below, \
               double *above),                                                                                         \
              gradients)                                                                                               \
    QN_WHOLE_CODES(QN_REQUANTIZE_KERNEL, QN_KERNEL)                                                                    \
    QN_KERNEL_AFFINE(QN_KERNEL, requantize_fixed_i32, int32_t, int32_t, METHODS, INT16_MIN, INT16_MAX)                 \
    QN_KERNEL(OWN, min_max_f32, (const float *x, int64_t n, qn_range *r), reduce)                                      \
    QN_KERNEL(OWN, min_max_f64, (const double *x, int64_t n, qn_range *r), reduce)                                     \
    QN_KERNEL(OWN, min_max_columns_f32, (const float *x, int64_t rows, int64_t stride, int64_t n, qn_range *r),        \
              reduce)                                                                                                  \
    QN_KERNEL(OWN, min_max_columns_f64, (const double *x, int64_t rows, int64_t stride, int64_t n, qn_range *r),       \
              reduce)                                                                                                  \
    QN_KERNEL(OWN, count_f32, (const float *x, int64_t n, int shift, int ways, uint32_t *counts), histogram)           \
    QN_KERNEL(OWN, count_columns_f32,                                                                                  \
              (const float *x, int64_t rows, int64_t stride, int64_t n, int shift, int64_t table, uint32_t *counts),   \
              histogram)                                                                                               \
    QN_KERNEL(OWN, sort_columns_i16, (int16_t *keys, int64_t n), histogram)                                            \
    QN_KERNEL(OWN, sort_columns_f64, (double *keys, int64_t n), histogram)                                             \
    QN_KERNEL_PLAIN(QN_KERNEL, truncate_f64_f32, double, float, 1, 1)                                                  \
    QN_KERNEL(OWN, error_sums_f32, (const float *x, const float *y, int64_t n, qn_error *e), metrics)                  \
    QN_KERNEL(OWN, codes_seen_8, (const uint8_t *codes, int64_t n, uint8_t *seen), metrics)                            \
    QN_NARROW_FLOATS(QN_FLOAT_KERNELS, QN_KERNEL)                                                                      \
    QN_KERNEL_CAST(QN_KERNEL, narrow_f64_f32, double, float)                                                           \
    QN_KERNEL_PLAIN(QN_KERNEL, odd_f64_f32, double, float, 1, 1)                                                       \
    QN_KERNEL_CAST(QN_KERNEL, widen_f32_f64, float, double)                                                            \
    QN_KERNEL_CAST(QN_KERNEL, copy_f32_f32, float, float)                                                              \
    QN_KERNEL_CAST(QN_KERNEL, copy_f64_f64, double, double)                                                            \
    QN_KERNEL(OWN, widen_image_rows, (const qn_wide_rows *p), conv)                                                    \
    QN_KERNEL(OWN, dot_rows, (const qn_dot_rows *d), conv)                                                             \
    QN_KERNEL(OWN, grouped_panels,                                                                                     \
              (const qn_grouped *w, const uint8_t *panel, int64_t panels, const qn_grouped_rows *x, int64_t first,     \
               int64_t last, float *y),                                                                                \
              packed_groups)                                                                                           \
    QN_KERNEL(OWN, float_panel, (const qn_float_weight *w, const uint8_t *panel, int64_t k, int64_t depth, float *to), \
              packed_float)                                                                                            \
    QN_KERNEL(OWN, float_rows, (const float *x, int64_t k, int64_t first, int64_t last, int64_t rows, float *packed),  \
              packed_float)                                                                                            \
    QN_KERNEL(OWN, multiply_floats, (const qn_float_tile *t), packed_float)                                            \
    QN_KERNEL(OWN, multiply_float_row,                                                                                 \
              (const qn_float_weight *w, const uint8_t *panel, int64_t panels, const float *x, float *y),              \
              packed_float)                                                                                            \
    QN_KERNEL(OWN, saturate_pairs_u8s8,                                                                                \
              (const uint8_t *a, const int8_t *b, int64_t k, int64_t stride, int64_t n, int32_t *sum, int32_t *error,  \
               int32_t *pairs),                                                                                        \
              saturation)                                                                                              \
    QN_KERNEL(OWN, unsafe_pairs_i8, (const int8_t *b, int64_t k, int64_t stride, int64_t n, int32_t *pairs),           \
              saturation)                                                                                              \
    QN_KERNEL(OWN, hamming_rows,                                                                                       \
              (const uint8_t *rows, int64_t n, const uint8_t *query, int64_t bytes, int32_t *distances), nearest)      \
    QN_KERNEL(OWN, first_below, (const int32_t *distances, int32_t limit, int64_t n, int64_t *index), nearest)         \
    QN_KERNEL(                                                                                                         \
        OWN, score_sums,                                                                                               \
        (const int32_t *sums, const double *scale, const double *offset, double factor, double *scores, int64_t n),    \
        nearest)                                                                                                       \
    QN_KERNEL(OWN, first_above, (const double *scores, double least, int64_t n, int64_t *index), nearest)              \
    QN_KERNEL(OWN, dot_f64, (const float *x, const float *y, int64_t n, double *total), nearest)                       \
    QN_KERNEL_AFFINE(QN_KERNEL, divide_f32, float, float, 0, INT8_MIN, INT8_MAX)                                       \
    QN_KERNEL_AFFINE(QN_KERNEL, divide_f64, double, double, 0, INT8_MIN, INT8_MAX)                                     \
    QN_KERNEL_AFFINE(QN_KERNEL, multiply_f32, float, float, 0, INT8_MIN, INT8_MAX)                                     \
    QN_KERNEL(OWN, block_max_f32, (const float *x, float *most, int64_t n, int64_t block), blocks)                     \
    QN_KERNEL(OWN, gelu_f32, (const float *x, float *y, int64_t n), layers)                                            \
    QN_KERNEL(OWN, add_norm_f32, (const qn_norm *p), layers)                                                           \
    QN_KERNEL(OWN, hadamard_f32, (const float *x, float *y, const qn_hadamard *h), hadamard)                           \
    QN_KERNEL(OWN, float_error_f32,                                                                                    \
              (const float *x, const float *y, int64_t n, const qn_float_limits *limits, qn_float_error *e),           \
              float_error)                                                                                             \
    QN_KERNEL(OWN, float_error_f64,                                                                                    \
              (const double *x, const float *y, int64_t n, const qn_float_limits *limits, qn_float_error *e),          \
              float_error)                                                                                             \
    QN_KERNEL(OWN, multiply_add_f16, (float a, const float *w, float *y, int64_t n), accumulate)                       \
    QN_KERNEL(OWN, multiply_add_bf16, (float a, const float *w, float *y, int64_t n), accumulate)                      \
    QN_KERNEL(OWN, multiply_add_f32, (float a, const float *w, float *y, int64_t n), accumulate)                       \
    QN_SUB_BYTE_WIDTHS(QN_PACK_KERNEL, QN_KERNEL)                                                                      \
    QN_KERNEL(OWN, pack_1, (const uint8_t *codes, uint8_t *bytes, int64_t n), pack)                                    \
    QN_KERNEL(OWN, unpack_u1, (const uint8_t *bytes, uint8_t *codes, int64_t n), pack)                                 \
    QN_SUB_BYTE_CODES(QN_UNPACK_KERNEL, QN_KERNEL)                                                                     \
    QN_KERNEL(PRODUCT, matmul_tiling, (qn_tiling * t))                                                                 \
    QN_KERNEL(PRODUCT, left_pairs, (const qn_left *l))                                                                 \
    QN_KERNEL(PRODUCT, left_bytes, (const qn_left *l))                                                                 \
    QN_KERNEL(PRODUCT, left_parts, (const qn_left *l))                                                                 \
    QN_KERNEL(PRODUCT, left_words, (const qn_left *l))                                                                 \
    QN_KERNEL(PRODUCT, right_bytes,                                                                                    \
              (const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, int64_t panels, uint8_t *packed,      \
               int64_t panel_step))                                                                                    \
    QN_KERNEL(PRODUCT, right_turned,                                                                                   \
              (const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, uint8_t *panel))                      \
    QN_KERNEL(PRODUCT, right_sums, (const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs))             \
    QN_KERNEL(PRODUCT, right_widen, (const uint8_t *panel, int64_t quartets, uint16_t *wide))                          \
    QN_KERNEL(PRODUCT, multiply_pairs, (const qn_tile *t))                                                             \
    QN_KERNEL(PRODUCT, multiply_pairs_wide, (const qn_tile *t))                                                        \
    QN_KERNEL(PRODUCT, multiply_parts, (const qn_tile *t))                                                             \
    QN_KERNEL(PRODUCT, multiply_u8, (const qn_tile *t))                                                                \
    QN_KERNEL(PRODUCT, multiply_u7, (const qn_tile *t))                                                                \
    QN_KERNEL(PRODUCT, multiply_words, (const qn_tile *t))                                                             \
    QN_KERNEL(PRODUCT, multiply_u4, (const qn_tile *t))                                                                \
    QN_KERNEL(PRODUCT, multiply_u2, (const qn_tile *t))                                                                \
    QN_KERNEL(PRODUCT, right_unpack, (const uint8_t *packed, int bits, int64_t quartets, uint8_t *panel))              \
    QN_KERNEL(OWN, left_quads, (const qn_left *l), excess)                                                             \
    QN_KERNEL(OWN, left_turned,                                                                                        \
              (const uint8_t *packed, int64_t quartets, int64_t rows, uint8_t *turned, int64_t step), excess)          \
    QN_KERNEL(OWN, right_quads,                                                                                        \
              (const uint8_t *panel, int64_t quartets, uint8_t less, uint8_t center, uint8_t *quads), excess)          \
    QN_KERNEL(OWN, multiply_quads, (const qn_tile *t), excess)                                                         \
    QN_KERNEL(OWN, add_excess, (const qn_excess_tile *x), excess)                                                      \
    QN_KERNEL(PRODUCT, sweep, (const qn_thin *t))                                                                      \
    QN_KERNEL(PRODUCT, dots, (const qn_thin *t))                                                                       \
    QN_KERNEL(PRODUCT, add_outer,                                                                                      \
              (const int32_t *x, const int32_t *y, int64_t rows, int64_t columns, int32_t *c, int64_t c_step))         \
    QN_KERNEL(PRODUCT, finish_f32, (const qn_finish *f))                                                               \
    QN_KERNEL(PRODUCT, finish_i8, (const qn_finish *f))                                                                \
    QN_KERNEL(PRODUCT, finish_u8, (const qn_finish *f))

#endif
