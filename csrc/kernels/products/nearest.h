/* The nearest rows: scores of stored rows for queries, and the k best of each query. */
#ifndef QN_NEAREST_H
#define QN_NEAREST_H

#include <stdint.h>

/* The k best rows of each of `queries` queries so far: heaps with the worst one at the top. Of two rows with one score
 * the lower id is better. */
typedef struct {
    double *scores;           /* [queries][k] */
    int64_t *ids;             /* [queries][k] */
    int64_t queries, k, seen; /* `seen` rows were offered, so min(k, seen) places are taken */
    int64_t first;            /* the id of the first row */
} qn_best;

/* Offers the next n rows, of the scores
 *     (double)sums[query][row] * (factor[query] * scale[row]) + offset[row]
 * each step rounded to float64; without the addition if offset is NULL. No score is NaN. */
void qn_best_of_sums(qn_best *best, const int32_t *sums, int64_t n, const double *factor, const double *scale,
                     const double *offset);

/* Offers the next n rows of packed bits, of the scores minus the Hamming distance. */
void qn_best_of_bits(qn_best *best, const uint8_t *rows, int64_t n, const uint8_t *queries, int64_t bytes);

/* Turns the heaps into lists, the best row first. */
void qn_best_sort(qn_best *best);

/* y[i][j] = the sum over d of x[i][d] * rows[ids[i][j]][d], as dot_f64 adds. */
void qn_dot_candidates(const float *x, const float *rows, const int64_t *ids, int64_t queries, int64_t count, int64_t d,
                       double *y);

#endif
