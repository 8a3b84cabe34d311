/* The nearest rows: scores of stored rows for queries, and the k best of each query. */
#ifndef QN_NEAREST_H
#define QN_NEAREST_H

#include <stdint.h>

/* The k best rows of each of `queries` queries so far: heaps with the worst one at the top. Of two rows with one score
 * the lower id is better. */
typedef struct {
    float *scores;            /* [queries][k] */
    int64_t *ids;             /* [queries][k] */
    int64_t queries, k, seen; /* rows 0..seen-1 were offered, so min(k, seen) places are taken */
} qn_best;

/* Offers the n rows from id best->seen on, of the scores
 *     (float)sums[query][row] * (factor[query] * scale[row]) + offset[row]
 * each step rounded to float32; without the addition if offset is NULL. No score is NaN. */
void qn_best_of_sums(qn_best *best, const int32_t *sums, int64_t n, const float *factor, const float *scale,
                     const float *offset);

/* Offers n rows of packed bits with the scores minus the Hamming distance. */
void qn_best_of_bits(qn_best *best, const uint8_t *rows, int64_t n, const uint8_t *queries, int64_t bytes);

/* Turns the heaps into lists, the best row first. */
void qn_best_sort(qn_best *best);

/* y[i][j] = the sum over d of x[i][d] * candidates[i][j][d], as dot_f64 adds. */
void qn_dot_candidates(const float *x, const float *candidates, int64_t queries, int64_t count, int64_t d, double *y);

#endif
