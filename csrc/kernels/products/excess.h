/* Exact full-range products with vpmaddubsw. It adds in int16, so codes that could overflow its sums are clipped, and
 * the amounts clipped, the excess, are a sparse matrix of their own.
 *
 * A quad is two codes of a quartet and the codes in the same places of the next quartet: k, k+1, k+4, k+5. The products
 * of its codes s by the codes of A less 128 are added in int16. That is exact if no pair |s0 + s1| exceeds 128 and no
 * quad |s0| + |s1| + |s2| + |s3| exceeds 255 (docs/matmul.md). The products of the excess are added to the tile
 * separately.
 */
#ifndef QN_EXCESS_H
#define QN_EXCESS_H

#include "qn_types.h"

typedef struct {
    int64_t kblock, kblocks; /* quartets of a kblock; number of kblocks */
    uint32_t *first;         /* [panels * kblocks + 1] first pass of each kblock of each panel */
    qn_excess_pass *passes;  /* [first[panels * kblocks]] */
    qn_excess_pair *pairs;
    int64_t pair_count;
} qn_excess;

/* The excess of panel[panels][quartets][64], codes less `less`, in kblocks of at most `kblock` quartets. False: no
 * memory. *result stays NULL if the excess would cost more than quads gain. */
bool qn_excess_make(const uint8_t *panel, int64_t panels, int64_t quartets, uint8_t less, int64_t kblock,
                    qn_excess **result);
void qn_excess_free(qn_excess *excess);
int64_t qn_excess_bytes(const qn_excess *excess, int64_t panels);

/* Subtracts the excess of kblock `number` (panel * kblocks + kblock) from an output of right_quads. */
void qn_excess_take(const qn_excess *excess, int64_t number, int32_t center, uint8_t *quads);

/* Quartets of a kblock: at most `most`, even, and all kblocks about equal. */
int64_t qn_even_kblock(int64_t quartets, int64_t most);

#endif
