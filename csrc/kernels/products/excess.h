/* Full-range weights for vpmaddubsw, which adds in int16: what their codes have too much is kept apart.
 *
 * A quad is two codes of a group and the two in the same places of the next group, k, k+1, k+4, k+5: its products, a less
 * 128, are added in int16. That is exact where no pair |s0 + s1| exceeds 128 and no quad |s0| + |s1| + |s2| + |s3| exceeds
 * 255 (docs/matmul.md). A code gives up its excess; sum of a e over these few is added to the tile by itself.
 */
#ifndef QN_EXCESS_H
#define QN_EXCESS_H

#include "qn_types.h"

typedef struct {
    int64_t block, blocks;  /* groups of a block of k, and how many there are */
    uint32_t *first;        /* [panels * blocks + 1] first pass of a panel's block */
    qn_excess_pass *passes; /* [first[panels * blocks]] */
    qn_excess *excess;
    int64_t pairs; /* of excess */
} qn_residual;

/* Of panels[panels][groups][64 bytes], codes less `less`; `block` groups at most to a block. False: no memory. *made stays
 * NULL where the excess would cost more than the kernel gains. */
bool qn_residual_make(const uint8_t *panel, int64_t panels, int64_t groups, uint8_t less, int64_t block,
                      qn_residual **made);
void qn_residual_free(qn_residual *residual);
int64_t qn_residual_bytes(const qn_residual *residual, int64_t panels);

/* Takes the excess of block `at` (panel * blocks + block) out of what right_quads has made. */
void qn_residual_take(const qn_residual *residual, int64_t at, int32_t center, uint8_t *quads);

/* Groups of a block: at most `most`, even, and all blocks about equal. */
int64_t qn_even_block(int64_t groups, int64_t most);

#endif
