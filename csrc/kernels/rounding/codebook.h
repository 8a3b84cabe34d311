/* Tables of levels: k-means in one dimension, scales of a table, and levels of least squares. */
#ifndef QN_CODEBOOK_H
#define QN_CODEBOOK_H

#include <stdbool.h>
#include <stdint.h>

/* The tables of a matrix: code c of a row stands for scale * levels[row * step + c], rounded once to float32. */
typedef struct {
    const float *levels; /* [rows][count], or [count] where step is 0; ascending */
    int64_t step;
    int32_t count; /* 1 to 256 */
} qn_books;

/* The index of the level nearest to t, of two the lower one; NaN: 0. */
static inline int32_t qn_nearest_level(const float *levels, int32_t count, double t) {
    int32_t first = 0;
    for (int32_t n = count - 1; n > 0;) { /* the answer is in [first, first + n] */
        int32_t half = (n - 1) / 2;
        bool above = t > 0.5 * ((double)levels[first + half] + (double)levels[first + half + 1]);
        first = above ? first + half + 1 : first;
        n = above ? n - half - 1 : half;
    }
    return first;
}

/* Every sum is in float64, in a fixed order. false: no memory. */

/* The `count` levels of each row of least sum importance (w - nearest level)^2, ascending: the exact minimum for rows
 * of at most 2^14 columns, but for the rounding of float64 sums over the row. Longer ones start from the minimum for
 * the means of 2^12 runs of their sorted weights; then levels and their weights alternate until nothing changes, 100
 * times at most. `importance` is finite and not negative, [columns] or NULL: ones. An input counts at least 2^-20 of
 * the mean. Fewer different weights than levels: the last level is repeated. */
bool qn_cluster_rows(const float *w, const float *importance, int64_t rows, int64_t columns, int32_t count,
                     float *levels);

/* The nearest codes of all weights: the level nearest to (double)w / scale. scale is [rows][groups]. */
void qn_nearest_codes(const float *w, int64_t rows, int64_t columns, int64_t group, const qn_books *books,
                      const float *scale, int16_t *codes);

/* The scale of each group for one table whose largest magnitude is 1: 41 shares of the largest magnitude, 1.2 to 0.4,
 * then the scale of least squares of their codes and the codes of that scale, twice; the one of least sum importance
 * (w - scale level)^2, of equal ones the first. A group of zeros gets scale 1. */
void qn_search_scales(const float *w, const float *importance, int64_t rows, int64_t columns, int64_t group,
                      const qn_books *books, float *scale);

typedef struct {
    const float *w;  /* [rows][columns] */
    const double *h; /* [columns][columns], symmetric */
    int64_t rows, columns;
    int32_t count;
    float *levels;  /* [rows][count]: read and written */
    int16_t *codes; /* [rows][columns]: alike; another order of the levels renumbers them */
} qn_level_fit;

/* The levels of least objective (level - w) h (level - w)^T of each row for its codes, ascending. A row keeps its own
 * where they gain nothing. A level without a code stays. */
bool qn_refit_levels(const qn_level_fit *fit);

#endif
