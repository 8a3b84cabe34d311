/* Full-range weights for vpmaddubsw, which adds in int16: what their codes have too much is kept apart.
 *
 * A quad is two codes of a quartet and the two in the same places of the next quartet, k, k+1, k+4, k+5: its products,
 * a less 128, are added in int16. That is exact where no pair |s0 + s1| exceeds 128 and no quad |s0| + |s1| + |s2| +
 * |s3| exceeds 255 (docs/matmul.md). A code gives up its excess; sum of a e over these few is added to the tile by
 * itself.
 */
#ifndef QN_EXCESS_H
#define QN_EXCESS_H

#include "qn_types.h"

typedef struct {
    int64_t kblock, kblocks; /* quartets of a kblock, and how many there are */
    uint32_t *first;         /* [panels * kblocks + 1] first pass of a panel's kblock */
    qn_excess_pass *passes;  /* [first[panels * kblocks]] */
    qn_excess_pair *pairs;
    int64_t pair_count;
} qn_excess;

/* Of panels[panels][quartets][64 bytes], codes less `less`; `kblock` quartets at most to a kblock. False: no memory.
 * *made stays NULL where the excess would cost more than the kernel gains. */
bool qn_excess_make(const uint8_t *panel, int64_t panels, int64_t quartets, uint8_t less, int64_t kblock,
                    qn_excess **made);
void qn_excess_free(qn_excess *excess);
int64_t qn_excess_bytes(const qn_excess *excess, int64_t panels);

/* Takes the excess of kblock `at` (panel * kblocks + kblock) out of what right_quads has made. */
void qn_excess_take(const qn_excess *excess, int64_t at, int32_t center, uint8_t *quads);

/* Quartets of a kblock: at most `most`, even, and all kblocks about equal. */
int64_t qn_even_kblock(int64_t quartets, int64_t most);

#endif
