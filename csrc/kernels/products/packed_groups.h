/* Products with weights of 8, 4 or 2 bits whose groups lie along k.
 *
 * A packed weight is panels of 16 columns. A panel holds one record for each group:
 *   [group * bits / 32][16 columns][4] bytes: codes k, k + 4, ... from the low bits on, stored as 0..2^bits - 1
 *   16 scales, float16 or float32
 *   16 bytes of zero points, if any zero point of the weight differs from the middle, 2^(bits - 1)
 * Columns past n have code 0 and scale 0, and so do k past the end.
 */
#ifndef QN_PACKED_GROUPS_H
#define QN_PACKED_GROUPS_H

#include "activations.h"

/* Fills in the rest of w from k, n, bits, group, half and zeros; false if a size overflows. */
bool qn_grouped_layout(qn_grouped *w);
int64_t qn_grouped_bytes(const qn_grouped *w);

/* codes[k][n] in the low bits; scales[groups][n], float16 if w->half; zeros[groups][n] or NULL. */
void qn_grouped_pack(const qn_grouped *w, const uint8_t *codes, bool is_signed, const void *scales,
                     const uint8_t *zeros, uint8_t *packed);

/* The codes that were packed, [k][n], one to a byte: int8 if signed, else uint8. */
void qn_grouped_codes(const qn_grouped *w, const uint8_t *packed, bool is_signed, uint8_t *codes);

typedef struct {
    const float *x; /* [m][k] or NULL */
    /* If x is NULL: with one scale, one for each row, or one for each group of each row; by_row is false. */
    qn_input_codes input;
    int64_t m;
    bool is_signed, symmetric;   /* codes of x are int8, else uint8 */
    int32_t qmin, qmax;          /* of the codes of x */
    const float *smooth;         /* [k] factors of the rows of x; or NULL */
    const qn_hadamard *hadamard; /* transforms the rows of x first; or NULL */
    float scale; /* one scale for all of x, with zero_point; 0: each group or row gets the parameters of its range */
    int32_t zero_point;
    bool by_row;           /* one scale for each row instead of each group */
    const float *offsets;  /* [groups][n] or NULL: added to the levels of the weight */
    const float *bias;     /* [n] or NULL */
    float lowest, highest; /* y is clamped to these */
    bool gelu;             /* the clamped y goes through gelu_f32 */
    float *y;              /* [m][n] */
} qn_grouped_product;

/* Bytes, -1 if the size overflows. */
int64_t qn_grouped_scratch(const qn_grouped *w, int64_t m, bool transforms); /* or factors */
void qn_grouped_multiply(const qn_grouped *w, const uint8_t *packed, const qn_grouped_product *p, void *scratch);

#endif
