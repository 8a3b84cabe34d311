/* Products with 4-bit weights that have a scale for each group of neighbours along k.
 *
 * Packed: panels of 16 columns; a panel holds a record for each group: [group / 8][16 columns][4] bytes, in each the
 * codes of k in the low and of k + 4 in the high bits, offset binary 0..15; then 16 scales, float16 or float32; then,
 * if any differs from 8, 16 bytes of zero points. Columns past n and k past the end have code 0 and scale 0.
 */
#ifndef QN_PACKED4_H
#define QN_PACKED4_H

#include "activations.h"

/* Completes w from k, n, group, half and zeros; false where a size overflows. */
bool qn_weight4_layout(qn_weight4 *w);
int64_t qn_weight4_bytes(const qn_weight4 *w);

/* codes[k][n] in the low 4 bits; scales, zeros (NULL without): [groups][n]; half: scales are float16. */
void qn_weight4_pack(const qn_weight4 *w, const uint8_t *codes, bool is_signed, const void *scales,
                     const uint8_t *zeros, uint8_t *packed);

/* The codes that were packed, [k][n], one to a byte: int8 in -8..7 if signed, else uint8 in 0..15. */
void qn_weight4_codes(const qn_weight4 *w, const uint8_t *packed, bool is_signed, uint8_t *codes);

typedef struct {
    const float *x;       /* [m][k]; NULL: */
    qn_given_codes given; /* with one scale, or one for each row, or for each group of each row: by_row is false */
    int64_t m;
    bool is_signed, symmetric; /* codes of x are int8, else uint8 */
    int32_t qmin, qmax;        /* of the codes of x */
    float scale;               /* of all of x, with its zero point; 0: of each group or row, from its finite range */
    int32_t zero_point;
    bool by_row;           /* one scale for a row in place of one for a group */
    const float *bias;     /* [n] or NULL */
    float lowest, highest; /* y is clamped to these */
    float *y;              /* [m][n] */
} qn_product4;

int64_t qn_matmul4_scratch(const qn_weight4 *w, int64_t m); /* bytes; -1 where the size overflows */
void qn_matmul4(const qn_weight4 *w, const uint8_t *packed, const qn_product4 *p, void *scratch);

#endif
