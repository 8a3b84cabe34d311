/* The list of integer types. C makes their numbers, kernels and switches from these lines, Python its CodeType.
 *
 * X(C, tag, NAME, name, type, bits, is_signed, storage)
 *   C         an argument that the list passes on to X
 *   tag NAME  of kernels (dequantize_<tag>_f32) and of qn_type (QN_<NAME>); name: of the NumPy or ml_dtypes type, if
 * there is one type      of one element in memory, as dequantize reads it bits      of one code; its range is
 * QN_QMIN(bits, is_signed) to QN_QMAX(bits, is_signed) storage   tag of the line that makes the kernels quantize_f32_,
 * narrow_i32_ and requantize_i32_ of this type
 */
#ifndef QN_CODE_LIST_H
#define QN_CODE_LIST_H

/* Codes as wide as their element. */
#define QN_WHOLE_CODES(X, C)                                                                                           \
    X(C, i8, I8, "int8", int8_t, 8, true, i8)                                                                          \
    X(C, u8, U8, "uint8", uint8_t, 8, false, u8)                                                                       \
    X(C, i16, I16, "int16", int16_t, 16, true, i16)                                                                    \
    X(C, u16, U16, "uint16", uint16_t, 16, false, u16)

/* Codes narrower than a byte: one to a byte in memory, packed in files. Dequantize ignores the upper bits of the byte.
 */
#define QN_SUB_BYTE_CODES(X, C)                                                                                        \
    X(C, i7, I7, "int7", uint8_t, 7, true, i8)                                                                         \
    X(C, u7, U7, "uint7", uint8_t, 7, false, u8)                                                                       \
    X(C, i6, I6, "int6", uint8_t, 6, true, i8)                                                                         \
    X(C, u6, U6, "uint6", uint8_t, 6, false, u8)                                                                       \
    X(C, i5, I5, "int5", uint8_t, 5, true, i8)                                                                         \
    X(C, u5, U5, "uint5", uint8_t, 5, false, u8)                                                                       \
    X(C, i4, I4, "int4", uint8_t, 4, true, i8)                                                                         \
    X(C, u4, U4, "uint4", uint8_t, 4, false, u8)                                                                       \
    X(C, i3, I3, "int3", uint8_t, 3, true, i8)                                                                         \
    X(C, u3, U3, "uint3", uint8_t, 3, false, u8)                                                                       \
    X(C, i2, I2, "int2", uint8_t, 2, true, i8)                                                                         \
    X(C, u2, U2, "uint2", uint8_t, 2, false, u8)

/* The widths of these: X(C, bits). Each has its pack_<bits> and unpack_<bits> in pack_body.h. */
#define QN_SUB_BYTE_WIDTHS(X, C)                                                                                       \
    X(C, 7)                                                                                                            \
    X(C, 6)                                                                                                            \
    X(C, 5)                                                                                                            \
    X(C, 4)                                                                                                            \
    X(C, 3)                                                                                                            \
    X(C, 2)

#define QN_CODES(X, C)                                                                                                 \
    QN_WHOLE_CODES(X, C)                                                                                               \
    QN_SUB_BYTE_CODES(X, C)

/* Codes, and the accumulators of products. In the order of qn_type. */
#define QN_INTEGERS(X, C)                                                                                              \
    QN_WHOLE_CODES(X, C)                                                                                               \
    X(C, i32, I32, "int32", int32_t, 32, true, i32)                                                                    \
    QN_SUB_BYTE_CODES(X, C)

#define QN_QMIN(bits, is_signed) ((int32_t)-((is_signed) ? INT64_C(1) << ((bits) - 1) : 0))
#define QN_QMAX(bits, is_signed) ((int32_t)((INT64_C(1) << ((bits) - (is_signed))) - 1))

#endif
