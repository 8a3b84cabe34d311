/* Histograms of the bit patterns of floats, which observers keep.
 *
 * A bin is the sign, the exponent and the first `bits` bits of the mantissa of a float32, as a number from 0 to 65,535
 * in the order of the values: 0x8000 + m from +0 up, 0x7FFF - m from -0 down, m = the bits of the magnitude >> 16 with
 * the lower 7 - bits cleared. Only occupied bins are stored, sorted. The same elements give the same bytes, in any
 * order and cut among any number of threads.
 *
 * A float64 is truncated to float32; beyond the largest float32 it counts in the last bin, below the smallest subnormal
 * in the first. Minimum and maximum are float64 and exact. NaN and infinities are counted only in the ranges.
 */
#ifndef QN_HISTOGRAM_H
#define QN_HISTOGRAM_H

#include "qn_types.h"

enum { QN_TENSOR_BITS = 7, QN_CHANNEL_BITS = 4, QN_ZERO_BIN = 0x8000, QN_BINS = 1 << 16 };

/* Bins of parameter k: [offsets[k], offsets[k + 1]). */
typedef struct {
    int64_t params;
    int64_t *offsets; /* [params + 1] */
    uint16_t *keys;
    int64_t *counts;
    qn_range *ranges; /* [params]; NULL after a merge */
} qn_histogram;

/* Both return 0, or -1 without memory. The caller frees h in either case. */
int qn_histogram_of(const qn_source *x, const qn_grid *grid, int bits, qn_histogram *h);
int qn_histogram_merge(const qn_histogram *a, const qn_histogram *b, qn_histogram *h);
void qn_histogram_free(qn_histogram *h);

#endif
