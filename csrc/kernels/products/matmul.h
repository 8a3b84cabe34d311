/* Exact integer products: C = (A - za)(B - zb), from raw matrices or with a packed right matrix.
 *
 * If |a - za| |b - zb| K fits int32, the sums modulo 2^32 are the sums. Otherwise kblocks are added in int64, and the
 * outcome is QN_OVERFLOW if a sum does not fit int32.
 */
#ifndef QN_MATMUL_H
#define QN_MATMUL_H

#include <math.h> /* INFINITY, of the bounds */

#include "qn_types.h"

typedef enum { QN_DONE, QN_NO_MEMORY, QN_OVERFLOW } qn_outcome;

typedef struct {
    const char *data;
    qn_type type; /* QN_I8, QN_U8 or QN_I16 */
    bool swapped; /* the other byte order */
    int64_t rows, columns;
    int64_t row_stride, column_stride; /* bytes, any sign */
    bool narrow;                       /* of a left matrix: its codes are in -64..63 (QN_I8) or 0..127 (QN_U8) */
} qn_matrix;

/* Zero points in the range of their operand's type. count 0: all are 0; 1: one for all; else one for each row of A or
 * each column of B. */
typedef struct {
    const int32_t *values;
    int64_t count;
} qn_zeros;

/* What a finished sum acc, exact in int32, becomes:
 *   QN_I32        acc
 *   QN_F32        min(max((float)acc * (row_scale * column_scale) + bias, lo), hi), one rounding each; NaN stays
 *   QN_I8, QN_U8  saturate(rne((float)acc * (row_scale * column_scale)) + Z) to [qmin, qmax]
 * acc_bias or row_bias is added to acc before that; acc must still fit int32. Where wide_bias is not 0, (float)acc is
 * (float)((double)acc + wide_bias); NaN becomes Z. */
typedef struct {
    qn_type type;
    void *data;
    int64_t row_stride;             /* elements */
    const float *row_scale;         /* [row_scales]; read unless QN_I32 */
    int64_t row_scales;             /* 1 or M */
    const float *column_scale;      /* [N]; read unless QN_I32 */
    const float *bias;              /* [N] or NULL; QN_F32 only */
    const int32_t *acc_bias;        /* [N] or NULL; QN_F32, QN_I8 and QN_U8 */
    const int32_t *row_bias;        /* [M] or NULL; instead of acc_bias, not with words */
    const double *wide_bias;        /* [N] or NULL; QN_I8 and QN_U8: integers that int32 may not hold */
    float lo, hi;                   /* -INFINITY, INFINITY: no bounds */
    bool gelu;                      /* QN_F32: gelu_f32 of that */
    int32_t zero_point, qmin, qmax; /* codes */
} qn_result;

/* A right matrix K x N, packed once for any number of products. It is immutable: threads may share it. From 2 MiB on it
 * lies in huge pages, if the OS has them. NULL: no memory. */
typedef struct qn_packed qn_packed;
qn_packed *qn_pack_weights(const qn_matrix *b, qn_zeros zb, int bits); /* of a code: 16, 8, 4 or 2 */

/* The same without a copy: panels as qn_packed_panel_bytes describes, aligned to 64 bytes; they must outlive the
 * result. *valid: whether the padding holds the middle of the stored codes. */
qn_packed *qn_borrow_weights(const uint8_t *panels, int64_t rows, int64_t columns, int bits, bool is_signed,
                             qn_zeros zb, bool *valid);
/* Bytes of a panel of 16 columns: rows padded to 8, with 2 bits to 16, in quartets of stored codes, which are the
 * codes, plus 2^(bits - 1) if they are signed. panel_body.h draws those of fewer bits. */
int64_t qn_packed_panel_bytes(int64_t rows, int bits);
void qn_packed_free(qn_packed *packed);
int64_t qn_packed_rows(const qn_packed *packed);
int64_t qn_packed_columns(const qn_packed *packed);
int64_t qn_packed_bytes(const qn_packed *packed);
void qn_packed_codes(const qn_packed *packed, void *codes); /* [K][N] in the type that was packed */
qn_type qn_packed_type(const qn_packed *packed);
const char *qn_packed_form(const qn_packed *packed); /* the kind of kernel that it was packed for */

/* A may be QN_I8 or QN_U8 if b holds 8-bit codes, any type if b holds words. */
qn_outcome qn_matmul_packed(const qn_matrix *a, qn_zeros za, const qn_packed *b, const qn_result *result);

/* Computes a right matrix of 8-bit codes that is not in memory: writes its codes from (row, column) on into
 * to[rows][QN_GATHERED], at most QN_GATHERED columns. Bytes past `columns` in each line, and one extra line after the
 * last, may be overwritten. */
enum { QN_GATHERED = 2 * QN_PANEL };
typedef void (*qn_codes_maker)(const void *context, int64_t row, int64_t column, int64_t rows, int64_t columns,
                               uint8_t *to);

/* Memory for a packed matrix of at most so many columns. It may be filled many times: by `gather`, or from m if gather
 * is NULL. */
qn_packed *qn_packed_make(int64_t rows, int64_t columns);
void qn_packed_fill(qn_packed *b, const qn_matrix *m, qn_zeros zero, qn_codes_maker gather, const void *context);

/* int32 products of a stack of raw matrices; `out` is C-contiguous [shape...][M][N]. a_step and b_step are bytes from
 * one matrix of the stack to the next, za_step and zb_step elements; 0 where an operand is broadcast. */
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
