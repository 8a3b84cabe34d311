/* Products of float32 rows with a packed weight of narrow floats.
 *
 * A packed weight is panels of 16 columns, then n bytes: 1 for each column that has a NaN among its codes or scales. A
 * panel holds its codes, then its scales, [groups][16], and is padded to 64 bytes. Codes lie in units of 8 neighbours
 * along k, of which every group starts a new one. A unit is rows of 16 words, one for each column, of 8 bits quartets:
 *   8 bits   2 rows of quartets: codes 4 r to 4 r + 3
 *   6 bits   3 rows: codes 2 r and 2 r + 1 in the high 12 bits; code 6 in the low bits 3..0 of row 0 and 3..2 of row 1,
 *            code 7 in the low bits 1..0 of row 1 and 3..0 of row 2
 *   4 bits   2 rows: codes 4 r to 4 r + 3, from the high bits to the low ones
 * Codes of levels lie otherwise: 8 bits as above; of 4 bits code i of a column is the bits 4 i to 4 i + 3 of 32, and a
 * unit is one quartet of each column. Their tables follow the scales: one for all columns, of 16 levels at least, or
 * that of each column, of 16 levels where codes have 4 bits.
 * Columns past n and k past the end of a group have code 0; columns past n have scale 0.
 */
#ifndef QN_PACKED_FLOAT_H
#define QN_PACKED_FLOAT_H

#include "qn_types.h"

/* Fills in the rest of w from k, n, group, element, scale, levels and shared; false if they are not allowed or a size
 * overflows. */
bool qn_float_weight_layout(qn_float_weight *w);
int64_t qn_float_weight_bytes(const qn_float_weight *w);

/* codes[k][n], one to a byte; scales[groups][n], float32 or bytes; levels[levels] or [n][levels], NULL for floats. */
void qn_float_weight_pack(const qn_float_weight *w, const uint8_t *codes, const void *scales, const float *levels,
                          uint8_t *packed);

/* The codes and the scales that were packed. */
void qn_float_weight_codes(const qn_float_weight *w, const uint8_t *packed, uint8_t *codes);
void qn_float_weight_scales(const qn_float_weight *w, const uint8_t *packed, void *scales);

typedef struct {
    const float *x; /* [m][k] */
    int64_t m;
    const float *bias;     /* [n] or NULL */
    float lowest, highest; /* y is clamped to these */
    float *y;              /* [m][n] */
} qn_float_product;

int64_t qn_matmul_float_scratch(const qn_float_weight *w, int64_t m); /* bytes; -1 if the size overflows */
void qn_matmul_float(const qn_float_weight *w, const uint8_t *packed, const qn_float_product *p, void *scratch);

#endif
