/* Exact integer products: C = (A - za)(B - zb), from raw matrices or with a packed right matrix.
 *
 * Sums are exact. Where |a - za| |b - zb| K bounds them inside int32 they are computed modulo 2^32, which then is the
 * sum; elsewhere kblocks are added in int64 and the outcome is QN_OVERFLOW when one leaves int32.
 */
#ifndef QN_MATMUL_H
#define QN_MATMUL_H

#include "qn_types.h"

typedef enum { QN_DONE, QN_NO_MEMORY, QN_OVERFLOW } qn_outcome;

typedef struct {
    const char *data;
    qn_type type; /* QN_I8, QN_U8 or QN_I16 */
    bool swapped; /* the other byte order */
    int64_t rows, columns;
    int64_t row_stride, column_stride; /* bytes, any sign */
    bool narrow;                       /* a left matrix whose codes are in -64..63 (QN_I8) or 0..127 (QN_U8) */
} qn_matrix;

/* Zero points in the range of their operand's type. count 0: all are 0; 1: one for all; else one for each row of A or
 * column of B. */
typedef struct {
    const int32_t *values;
    int64_t count;
} qn_zeros;

/* What becomes of a finished sum acc, exact in int32:
 *   QN_I32        acc
 *   QN_F32        min(max((float)acc * (row_scale * column_scale) + bias, lo), hi), each operation rounded once; NaN
 * stays QN_I8, QN_U8  saturate(rne((float)acc * (row_scale * column_scale)) + Z) to [qmin, qmax] Before that acc_bias
 * or row_bias is added to acc, which must still fit. */
typedef struct {
    qn_type type;
    void *data;
    int64_t row_stride;             /* elements */
    const float *row_scale;         /* [row_scales]; read unless QN_I32 */
    int64_t row_scales;             /* 1 or M */
    const float *column_scale;      /* [N]; read unless QN_I32 */
    const float *bias;              /* [N] or NULL; QN_F32 only */
    const int32_t *acc_bias;        /* [N] or NULL; QN_F32, QN_I8 and QN_U8 */
    const int32_t *row_bias;        /* [M] or NULL in its place, not with words */
    float lo, hi;                   /* -INFINITY, INFINITY: no bounds */
    int32_t zero_point, qmin, qmax; /* codes */
} qn_result;

/* A right matrix K x N packed once for any number of products, thin and large ones; immutable, so that threads share
 * it. Weights of 2 MiB and more ask for huge pages. NULL: no memory. */
typedef struct qn_packed qn_packed;
qn_packed *qn_pack_weights(const qn_matrix *b, qn_zeros zb);
void qn_packed_free(qn_packed *packed);
int64_t qn_packed_rows(const qn_packed *packed);
int64_t qn_packed_columns(const qn_packed *packed);
int64_t qn_packed_bytes(const qn_packed *packed);
void qn_packed_codes(const qn_packed *packed, void *codes); /* [K][N] in the type that was packed */
qn_type qn_packed_type(const qn_packed *packed);
const char *qn_packed_form(const qn_packed *packed); /* which kernel it was packed for */

/* A of QN_I8 or QN_U8 with a packed matrix of 8-bit codes, any type with one of words. */
qn_outcome qn_matmul_packed(const qn_matrix *a, qn_zeros za, const qn_packed *b, const qn_result *result);

/* A right matrix of 8-bit codes that is made on the way: writes its codes from (row, column) on into
 * to[rows][QN_GATHERED], at most QN_GATHERED columns. The rest of a line is free, and as much after the last one. */
enum { QN_GATHERED = 2 * QN_PANEL };
typedef void (*qn_codes_maker)(const void *context, int64_t row, int64_t column, int64_t rows, int64_t columns,
                               uint8_t *to);

/* Room for a packed matrix of at most so many columns, filled any number of times; from m itself if gather is NULL. */
qn_packed *qn_packed_make(int64_t rows, int64_t columns);
void qn_packed_fill(qn_packed *b, const qn_matrix *m, qn_zeros zero, qn_codes_maker gather, const void *context);

/* int32 products of raw matrices, one or a stack of them; `out` is C-contiguous [batch...][M][N]. The steps are bytes
 * from one matrix of the stack to the next, and elements for zero points; 0 where an operand is broadcast. */
typedef struct {
    qn_matrix a, b;
    qn_zeros za, zb;
    int32_t *out;
    int ndim;
    int64_t shape[QN_MAX_DIMS];
    int64_t a_step[QN_MAX_DIMS], b_step[QN_MAX_DIMS], za_step[QN_MAX_DIMS], zb_step[QN_MAX_DIMS];
} qn_product;

qn_outcome qn_matmul_integer(const qn_product *product);

#endif
