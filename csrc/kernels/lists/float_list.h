/* The list of float formats. C makes their types, kernels and names from these lines, Python its FloatType.
 *
 * X(C, tag, NAME, name, bits, exponent, mantissa, bias, kind)
 *   C         an argument that the list passes on to X
 *   tag NAME  of kernels (narrow_f32_<tag>) and of qn_type (QN_<NAME>); name: of the NumPy or ml_dtypes type
 *   bits      of one element in memory: the unsigned integer that holds it
 *   exponent, mantissa, bias    exponent field E > 0: 2^(E - bias) (1 + M / 2^mantissa), a sign above; E = 0: subnormal
 *   kind      meaning of the highest codes, see qn_float_kind
 */
#ifndef QN_FLOAT_LIST_H
#define QN_FLOAT_LIST_H

typedef enum {
    QN_IEEE,   /* the highest exponent field holds infinity and NaN */
    QN_FN,     /* no infinity; NaN is all ones */
    QN_FNUZ,   /* no infinity, no -0: its code is the one NaN */
    QN_FINITE, /* neither infinity nor NaN */
    QN_SCALE,  /* 2^(E - bias) and nothing else: no sign, no zero, no mantissa; NaN is all ones */
} qn_float_kind;

/* Formats that convert to and from float32 by kernels of their own. */
#define QN_NARROW_FLOATS(X, C)                                                                                         \
    X(C, f16, F16, "float16", 16, 5, 10, 15, QN_IEEE)                                                                  \
    X(C, bf16, BF16, "bfloat16", 16, 8, 7, 127, QN_IEEE)                                                               \
    X(C, e4m3fn, E4M3FN, "float8_e4m3fn", 8, 4, 3, 7, QN_FN)                                                           \
    X(C, e5m2, E5M2, "float8_e5m2", 8, 5, 2, 15, QN_IEEE)                                                              \
    X(C, e4m3fnuz, E4M3FNUZ, "float8_e4m3fnuz", 8, 4, 3, 8, QN_FNUZ)                                                   \
    X(C, e5m2fnuz, E5M2FNUZ, "float8_e5m2fnuz", 8, 5, 2, 16, QN_FNUZ)                                                  \
    X(C, e8m0fnu, E8M0FNU, "float8_e8m0fnu", 8, 8, 0, 127, QN_SCALE)                                                   \
    X(C, e2m3fn, E2M3FN, "float6_e2m3fn", 8, 2, 3, 1, QN_FINITE)                                                       \
    X(C, e3m2fn, E3M2FN, "float6_e3m2fn", 8, 3, 2, 3, QN_FINITE)                                                       \
    X(C, e2m1fn, E2M1FN, "float4_e2m1fn", 8, 2, 1, 1, QN_FINITE)

#define QN_FLOATS(X, C)                                                                                                \
    X(C, f32, F32, "float32", 32, 8, 23, 127, QN_IEEE)                                                                 \
    X(C, f64, F64, "float64", 64, 11, 52, 1023, QN_IEEE)                                                               \
    QN_NARROW_FLOATS(X, C)

#endif
