/* The distinct values of every parameter that has few of them. */
#ifndef QN_DISTINCT_H
#define QN_DISTINCT_H

#include "histogram.h"

/* A parameter keeps at most so many: every grid of 8 bits, and the images of three channels with a grid each. */
enum { QN_FEW_OF_TENSOR = 1024, QN_FEW_OF_CHANNEL = 320 };

/* Those of parameter k: [offsets[k], offsets[k + 1]), in rising order, -0 as 0. None if there are too many, one exceeds
 * float32, or none is finite. */
typedef struct {
    int64_t params;
    int64_t *offsets; /* [params + 1] */
    double *values;
    int64_t *counts;
} qn_distinct;

static inline int64_t qn_few_of(int bits) { return bits == QN_TENSOR_BITS ? QN_FEW_OF_TENSOR : QN_FEW_OF_CHANNEL; }

/* h has the bins of x. `lost` [params] marks parameters whose values are not asked for. Both functions return 0, or -1
 * without memory. The caller frees d in either case. */
int qn_distinct_of(const qn_source *x, const qn_grid *grid, int bits, const qn_histogram *h, const uint8_t *lost,
                   qn_distinct *d);
/* `lost` marks parameters of which one side has more values than it keeps. */
int qn_distinct_merge(const qn_distinct *a, const qn_distinct *b, int bits, const uint8_t *lost, qn_distinct *d);
void qn_distinct_free(qn_distinct *d);

#endif
