#include "grid_rows.h"

#include <stddef.h>

#include "threads.h"

enum { BYTES_A_WEIGHT = 1 << 10 }; /* the search of a weight's grid takes as long as so much memory traffic */

typedef struct {
    const qn_weights *weights;
    int64_t groups; /* of a row */
    float *scale;
    int32_t *zero;
} row_search;

static void search_groups(void *context, int64_t begin, int64_t end) {
    const row_search *j = context;
    const qn_weights *m = j->weights;
    uint64_t modes = qn_fp_begin();
    for (int64_t k = begin; k < end; k++) {
        int64_t row = k / j->groups, first = k % j->groups * m->group;
        int64_t n = m->columns - first < m->group ? m->columns - first : m->group;
        const float *importance = m->importance ? m->importance + (m->by_row ? row * m->columns : 0) + first : NULL;
        qn_grid_search(m->w + row * m->columns + first, importance, n, &m->levels, j->scale + k, j->zero + k);
    }
    qn_fp_end(modes);
}

void qn_search_grids(const qn_weights *weights, float *scale, int32_t *zero) {
    int64_t groups = weights->columns / weights->group + (weights->columns % weights->group > 0);
    row_search j = {weights, groups, scale, zero};
    int64_t elements = weights->rows * weights->columns;
    int64_t bytes = elements < INT64_MAX / BYTES_A_WEIGHT ? elements * BYTES_A_WEIGHT : INT64_MAX;
    qn_parallel_for(weights->rows * groups, 1, bytes, search_groups, &j);
}
