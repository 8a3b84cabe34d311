#include "float_error.h"

#include <math.h>

#include "dispatch.h"
#include "walk.h"

typedef struct {
    qn_type type;
    const qn_float_limits *limits;
    qn_float_error *sums;
} float_error;

static void float_error_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    const qn_table *k = qn_kernels();
    const float_error *error = w->own;
    const qn_type type = error->type;
    qn_float_error sums = {.least = INFINITY}, *all = error->sums;
    qn_tile_buffer t, codes;
    float wide[QN_TILE], result[QN_TILE];
    (void)p;
    for (int64_t end = start + n; start < end; start += QN_TILE) {
        int64_t count = end - start < QN_TILE ? end - start : QN_TILE;
        bool f64 = w->source->type == QN_F64;
        const void *x =
            f64 ? qn_source_raw(w->source, start, count, &t) : qn_source_floats(w->source, start, count, &t, wide);
        const float *y = x;
        if (type != QN_F32) {
            if (f64) k->odd_f64_f32(x, wide, count);
            qn_narrow(type, f64 ? wide : x, &codes, count, &qn_plain_cast);
            qn_widen(type, &codes, result, count, &qn_plain_cast);
            y = result;
        } else if (f64) {
            k->narrow_f64_f32(x, result, count, &qn_plain_cast);
            y = result;
        }
        if (f64) k->float_error_f64(x, y, count, error->limits, &sums);
        else k->float_error_f32(x, y, count, error->limits, &sums);
    }
    pthread_mutex_lock(w->merge);
    all->nan += sums.nan, all->infinite += sums.infinite, all->overflow += sums.overflow, all->zero += sums.zero;
    all->subnormal += sums.subnormal, all->kept += sums.kept, all->relative += sums.relative;
    if (sums.worst > all->worst) all->worst = sums.worst;
    if (sums.peak > all->peak) all->peak = sums.peak;
    if (sums.least < all->least) all->least = sums.least;
    pthread_mutex_unlock(w->merge);
}

void qn_find_float_error(const qn_source *x, qn_type type, double overflow, float normal, qn_float_error *sums) {
    qn_float_limits limits = {overflow, (float)overflow, normal};
    if ((double)limits.overflow_f32 < overflow) limits.overflow_f32 = nextafterf(limits.overflow_f32, INFINITY);
    const qn_affine none = {0};
    const qn_grid whole = {1, 1, qn_elements(x), 0};
    const float_error error = {type, &limits, sums};
    qn_walk w = qn_new_walk(x, &whole, &none, NULL, QN_F32, float_error_span);
    w.out_size = 0;
    w.own = &error;
    *sums = (qn_float_error){.least = INFINITY};
    qn_walk_all(&w);
}
