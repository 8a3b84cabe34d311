#include "grid_rows.h"

#include <stddef.h>

#include "half_quadratic.h"
#include "threads.h"

enum { BYTES_A_WEIGHT = 1 << 10 }; /* the search of a weight's grid takes as long as so much memory traffic */

typedef struct {
    const qn_weights *weights;
    int64_t groups; /* of a row */
    float *scale, *offset;
    int32_t *zero; /* NULL: offsets */
} row_search;

static void search_groups(void *context, int64_t begin, int64_t end) {
    const row_search *j = context;
    const qn_weights *m = j->weights;
    uint64_t modes = qn_fp_begin();
    for (int64_t k = begin; k < end; k++) {
        int64_t row = k / j->groups, first = k % j->groups * m->group;
        int64_t n = m->columns - first < m->group ? m->columns - first : m->group;
        const float *importance = m->importance ? m->importance + (m->by_row ? row * m->columns : 0) + first : NULL;
        const float *w = m->w + row * m->columns + first;
        int32_t qmin = m->levels.qmin, qmax = m->levels.qmax;
        if (j->zero && m->half_quadratic) qn_half_quadratic_grid(w, n, &m->levels, j->scale + k, j->zero + k);
        else if (j->zero) qn_grid_search(w, importance, n, &m->levels, j->scale + k, j->zero + k);
        else if (m->half_quadratic) qn_half_quadratic_offset(w, n, qmin, qmax, j->scale + k, j->offset + k);
        else qn_offset_search(w, importance, n, qmin, qmax, j->scale + k, j->offset + k);
    }
    qn_fp_end(modes);
}

static void search_rows(row_search *j) {
    const qn_weights *m = j->weights;
    int64_t elements = m->rows * m->columns;
    j->groups = m->columns / m->group + (m->columns % m->group > 0);
    qn_parallel_for(m->rows * j->groups, 1,
                    elements < INT64_MAX / BYTES_A_WEIGHT ? elements * BYTES_A_WEIGHT : INT64_MAX, search_groups, j);
}

void qn_search_grids(const qn_weights *weights, float *scale, int32_t *zero) {
    search_rows(&(row_search){.weights = weights, .scale = scale, .zero = zero});
}

void qn_search_offsets(const qn_weights *weights, float *scale, float *offset) {
    search_rows(&(row_search){.weights = weights, .scale = scale, .offset = offset});
}
