/* The grids of grid_search.h and half_quadratic.h for every group of a matrix. */
#ifndef QN_GRID_ROWS_H
#define QN_GRID_ROWS_H

#include <stdbool.h>

#include "grid_search.h"

typedef struct {
    const float *w;               /* [rows][columns] */
    const float *importance;      /* [columns], [rows][columns] if `by_row`, or NULL: ones */
    int64_t rows, columns, group; /* groups of `group` columns; the last one of a row may be shorter */
    bool by_row;
    qn_levels levels;
    bool half_quadratic; /* the grids of half_quadratic.h, without importance */
} qn_weights;

/* Each fills [rows][groups] on all threads. */
void qn_search_grids(const qn_weights *weights, float *scale, int32_t *zero);
void qn_search_offsets(const qn_weights *weights, float *scale, float *offset);

#endif
