/* Codes of the rows of a matrix, column by column: the columns that follow make up for the error of each. */
#ifndef QN_GPTQ_H
#define QN_GPTQ_H

#include <stdbool.h>
#include <stdint.h>

#include "codebook.h"
#include "grid_search.h"

typedef struct {
    const float *w;          /* [rows][columns] */
    const double *factor;    /* [columns][columns], upper: that of the inverse of h, whose columns are in `order` */
    const int64_t *order;    /* [columns]: column order[p] comes at place p */
    const float *importance; /* [columns] of the searches, or NULL: ones */
    int64_t rows, columns, group;
    qn_levels levels;
    float *scale;   /* [rows][groups]: read, or the results of the searches */
    int32_t *zero;  /* alike */
    int16_t *codes; /* [rows][columns] */
    bool search;    /* the grid of a group is searched when the loop meets it; `order` keeps its columns together */
    const qn_books *books; /* tables in place of the grid, or NULL; codes are then indices of levels */
} qn_column_loop;

/* For the places p in their order, with v[p][k] = factor[p][k] / factor[p][p] as float32, in float32:
 *
 *     code = clip(round_half_even(w[p] / scale) + zero, qmin, qmax)
 *     error = w[p] - scale (code - zero)
 *     w[k] -= error v[p][k]      for all k > p
 *
 * Each operation rounds once. Every row is on its own. false: no memory. */
bool qn_round_columns(const qn_column_loop *loop);

#endif
