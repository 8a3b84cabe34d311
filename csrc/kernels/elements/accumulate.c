#include "accumulate.h"

#include <string.h>

#include "dispatch.h"
#include "source.h"
#include "threads.h"

/* A tile of y stays in the L2 cache, its w in the L1 cache: all rows of y share one read and one widening of w. */
enum { ROWS = 8, STRIP = QN_TILE, STEPS = 256, GRAIN = 64 };

typedef struct {
    const qn_source *x, *w;
    char *y;
    qn_type type;
    int64_t rows, steps, columns;
} accumulation;

typedef void (*multiply_add)(float a, const float *w, float *y, int64_t n);

static multiply_add kernel_of(qn_type type) {
    const qn_table *k = qn_kernels();
    return type == QN_F16 ? k->multiply_add_f16 : type == QN_BF16 ? k->multiply_add_bf16 : k->multiply_add_f32;
}

static void put(const accumulation *p, int64_t at, const float *y, int64_t n) {
    const qn_cast exact = {0};
    if (p->type == QN_F32) memcpy((float *)p->y + at, y, (size_t)n * sizeof *y);
    else qn_narrow(p->type, y, (uint16_t *)p->y + at, n, &exact);
}

/* Rows [r0, r0 + rows) of columns [c0, c0 + n). */
static void multiply_tile(const accumulation *p, int64_t r0, int64_t rows, int64_t c0, int64_t n) {
    float y[ROWS][STRIP], x_wide[ROWS][STEPS], w_wide[STRIP];
    const float *x[ROWS], *w;
    multiply_add add = kernel_of(p->type);
    int64_t together = n == p->columns && n < STRIP ? STRIP / n : 1; /* several short rows of w are read at once */
    for (int64_t r = 0; r < rows; r++) memset(y[r], 0, (size_t)n * sizeof y[r][0]);
    for (int64_t k0 = 0; k0 < p->steps; k0 += STEPS) {
        int64_t steps = p->steps - k0 < STEPS ? p->steps - k0 : STEPS;
        for (int64_t r = 0; r < rows; r++) x[r] = qn_floats_at(p->x, (r0 + r) * p->steps + k0, steps, x_wide[r]);
        for (int64_t k = 0; k < steps; k += together) {
            int64_t count = steps - k < together ? steps - k : together;
            w = qn_floats_at(p->w, (k0 + k) * p->columns + c0, count * n, w_wide);
            for (int64_t i = 0; i < count; i++)
                for (int64_t r = 0; r < rows; r++) add(x[r][k + i], w + i * n, y[r], n);
        }
    }
    for (int64_t r = 0; r < rows; r++) put(p, (r0 + r) * p->columns + c0, y[r], n);
}

static void multiply_piece(void *context, int64_t begin, int64_t end) {
    const accumulation *p = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t c0 = begin; c0 < end; c0 += STRIP)
        for (int64_t r0 = 0; r0 < p->rows; r0 += ROWS)
            multiply_tile(p, r0, p->rows - r0 < ROWS ? p->rows - r0 : ROWS, c0, end - c0 < STRIP ? end - c0 : STRIP);
    qn_fp_end(modes);
}

void qn_accumulate(const qn_source *x, const qn_source *w, void *y, qn_type type) {
    accumulation p = {x, w, y, type, x->shape[0], x->shape[1], w->shape[1]};
    /* one multiply-add costs about as much as 8 bytes of memory traffic */
    qn_parallel_for(p.columns, GRAIN, 8 * p.rows * p.steps * p.columns, multiply_piece, &p);
}
