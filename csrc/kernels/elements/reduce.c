#include "reduce.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "dispatch.h"
#include "qparams.h"
#include "walk.h"

typedef struct {
    qn_range *ranges;
    atomic_bool *no_memory;
} reduction;

static const reduction *reduction_of(const qn_walk *w) { return w->own; }

static const qn_range empty_range = {INFINITY, -INFINITY, 0, 0};

static void merge(const qn_walk *w, int64_t k, const qn_range *r) {
    qn_range *to = reduction_of(w)->ranges + k;
    if (r->min < to->min) to->min = r->min;
    if (r->max > to->max) to->max = r->max;
    to->nan += r->nan;
    to->infinite += r->infinite;
}

static void min_max_elements(const qn_walk *w, int64_t start, int64_t n, qn_range *r) {
    qn_tile_buffer t;
    float wide[QN_TILE];
    const qn_source *s = w->source;
    for (int64_t end = start + n, count; start < end; start += count) {
        bool f64 = s->type == QN_F64, in_place = s->direct && (f64 || s->type == QN_F32);
        count = in_place || end - start < QN_TILE ? end - start : QN_TILE;
        const void *x =
            f64 ? qn_source_raw(w->source, start, count, &t) : qn_source_floats(w->source, start, count, &t, wide);
        if (f64) qn_kernels()->min_max_f64(x, count, r);
        else qn_kernels()->min_max_f32(x, count, r);
    }
}

/* A span has at most two incomplete runs, at its ends; only these take the mutex. */
static void min_max_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    for (int64_t at = 0, count; at < n; at += count) {
        int64_t pos = p->phase + at, k = pos / p->run;
        qn_range range = empty_range;
        count = p->run - pos % p->run;
        if (count > n - at) count = n - at;
        if (count == p->run) {
            min_max_elements(w, start + at, count, reduction_of(w)->ranges + k);
            continue;
        }
        min_max_elements(w, start + at, count, &range);
        pthread_mutex_lock(w->merge);
        merge(w, k, &range);
        pthread_mutex_unlock(w->merge);
    }
}

static void min_max_rectangle(const qn_walk *w, int64_t r0, int64_t r1, int64_t c0, int64_t count, int64_t offset,
                              qn_range *ranges) {
    qn_tile_buffer t;
    float wide[QN_TILE];
    const qn_source *s = w->source;
    int64_t start = r0 * w->row + c0;
    for (int64_t i = 0; i < count; i++) ranges[i] = empty_range;
    if (s->direct && s->type == QN_F32) {
        qn_kernels()->min_max_columns_f32((const float *)s->data + start, r1 - r0, w->row, count, ranges);
    } else if (s->direct && s->type == QN_F64) {
        qn_kernels()->min_max_columns_f64((const double *)s->data + start, r1 - r0, w->row, count, ranges);
    } else {
        for (int64_t r = r0; r < r1; r++, start += w->row) {
            if (s->type == QN_F64)
                qn_kernels()->min_max_columns_f64(qn_source_raw(w->source, start, count, &t), 1, 0, count, ranges);
            else
                qn_kernels()->min_max_columns_f32(qn_source_floats(w->source, start, count, &t, wide), 1, 0, count,
                                                  ranges);
        }
    }
    int64_t repeat = w->grid.group ? 1 : w->grid.inner;
    pthread_mutex_lock(w->merge);
    for (int64_t i = 0; i < count; i++) merge(w, offset + (c0 + i) / repeat, ranges + i);
    pthread_mutex_unlock(w->merge);
}

/* The ranges of the columns of a strip, on the heap: the stack of a thread may be too small. */
static void *strip_ranges(const qn_walk *w) {
    int64_t columns = w->columns_end - w->columns_begin;
    qn_range *room = malloc((size_t)(columns < QN_WIDE ? columns : QN_WIDE) * sizeof *room);
    if (!room) atomic_store(reduction_of(w)->no_memory, true);
    return room;
}

/* Rows [r0, r1), which share the ranges at `offset`, strip by strip; a strip that is staged is at most a tile wide. */
static void min_max_strips(const qn_walk *w, int64_t r0, int64_t r1, int64_t offset, void *room) {
    const qn_source *s = w->source;
    int64_t widest = s->direct && (s->type == QN_F32 || s->type == QN_F64) ? QN_WIDE : QN_TILE;
    for (int64_t c0 = w->columns_begin; c0 < w->columns_end; c0 += widest)
        min_max_rectangle(w, r0, r1, c0, w->columns_end - c0 < widest ? w->columns_end - c0 : widest, offset, room);
}

bool qn_min_max(const qn_source *x, const qn_grid *grid, qn_range *ranges) {
    const qn_affine none = {0};
    atomic_bool no_memory = false;
    const reduction own = {ranges, &no_memory};
    qn_walk w = qn_new_walk(x, grid, &none, NULL, QN_F32, min_max_span);
    w.out_size = 0;
    w.own = &own, w.rows = min_max_strips, w.room = strip_ranges;
    for (int64_t k = 0, n = qn_grid_params(grid); k < n; k++) ranges[k] = empty_range;
    qn_walk_all(&w);
    return !atomic_load(&no_memory);
}

static double averaged(double old, double new, double weight) {
    if (isinf(new)) return old;
    return isinf(old) || weight == 1 ? new : (1 - weight) * old + weight * new;
}

bool qn_observe(const qn_source *x, const qn_grid *grid, double weight, bool symmetric, int32_t qmin, int32_t qmax,
                double *low, double *high, float *scale, int32_t *zero_point) {
    const int64_t n = qn_grid_params(grid);
    qn_range one, *ranges = n <= 1 ? &one : malloc((size_t)n * sizeof *ranges);
    const bool done = ranges && qn_min_max(x, grid, ranges);
    for (int64_t k = 0; done && k < n; k++) {
        low[k] = averaged(low[k], ranges[k].min, weight), high[k] = averaged(high[k], ranges[k].max, weight);
        const bool seen = low[k] <= high[k] && !isinf(low[k]) && !isinf(high[k]);
        const double least = seen ? fmin(low[k], 0.0) : 0.0, most = seen ? fmax(high[k], 0.0) : 0.0;
        const qn_qparams p = qn_qparams_of_range(least, most, symmetric, qmin, qmax);
        scale[k] = p.scale, zero_point[k] = p.zero_point;
    }
    if (ranges != &one) free(ranges);
    return done;
}
