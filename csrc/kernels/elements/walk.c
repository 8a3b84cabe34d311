#include "walk.h"

#include <stdlib.h>

#include "dispatch.h"
#include "threads.h"

enum {
    AHEAD = 2048,    /* prefetch distance in elements: two pages of float32 */
    SHORT_RUN = 32,  /* channels with fewer neighbours get one parameter for each element */
    GRAIN = 1 << 14, /* elements of the smallest piece for another thread */
};

static qn_affine affine_at(const qn_affine *p, int64_t by) {
    qn_affine a = *p;
    if (a.run) {
        a.phase += by;
    } else {
        a.scale += by, a.zero_point += by;
        if (a.multiplier) a.multiplier += by, a.shift += by;
    }
    return a;
}

static void by_tiles(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p, int64_t tile,
                     qn_span_function function) {
    for (int64_t at = 0; at < n; at += tile) {
        qn_affine a = affine_at(p, at);
        function(w, start + at, n - at < tile ? n - at : tile, &a);
    }
}

void qn_by_tiles(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p, qn_span_function function) {
    by_tiles(w, start, n, p, QN_TILE, function);
}

void qn_by_code_tiles(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p, qn_span_function function) {
    by_tiles(w, start, n, p, QN_CODE_TILE, function);
}

/* Runs: elements [begin, end) in C order, one parameter for each run of neighbours. */
static void walk_runs(void *context, int64_t begin, int64_t end) {
    const qn_walk *w = context;
    uint64_t modes = qn_fp_begin();
    int64_t params_a_row = w->grid.group ? qn_grid_groups(&w->grid) : 0;
    for (int64_t at = begin; at < end;) {
        int64_t row = at / w->row, pos = at - row * w->row, n = w->row - pos;
        if (n > end - at) n = end - at;
        qn_affine p = w->params;
        int64_t skip = row * params_a_row;
        if (p.scale) p.scale += skip, p.zero_point += skip;
        if (p.multiplier) p.multiplier += skip, p.shift += skip;
        p.phase = pos + (w->rows ? skip * p.run : 0);
        w->span(w, at, n, &p);
        at += n;
    }
    qn_fp_end(modes);
}

/* Rows [r0, r1), which share the parameters at `offset`, strip by strip. */
static void walk_strips(const qn_walk *w, int64_t r0, int64_t r1, int64_t offset) {
    _Alignas(64) float scale[QN_WIDE];
    _Alignas(64) int32_t zero[QN_WIDE], multiplier[QN_WIDE], shift[QN_WIDE];
    int64_t repeat = w->grid.group ? 1 : w->grid.inner;
    for (int64_t c0 = w->columns_begin; c0 < w->columns_end; c0 += QN_WIDE) {
        int64_t count = w->columns_end - c0 < QN_WIDE ? w->columns_end - c0 : QN_WIDE;
        qn_affine p = w->params;
        for (int64_t i = 0; i < count; i++) {
            int64_t k = offset + (c0 + i) / repeat;
            scale[i] = p.scale[k];
            zero[i] = p.zero_point[k];
            if (p.multiplier) multiplier[i] = p.multiplier[k], shift[i] = p.shift[k];
        }
        p.scale = scale, p.zero_point = zero;
        if (p.multiplier) p.multiplier = multiplier, p.shift = shift;
        p.run = 0, p.rows = 1, p.stride = w->row;
        bool alike = !p.stream || (size_t)w->row * w->out_size % 64 == 0; /* every row has the alignment of the first */
        if (w->in_place && alike) {
            p.rows = r1 - r0;
            w->span(w, r0 * w->row + c0, count, &p);
            continue;
        }
        if (w->by_codes && alike && count == w->row) { /* whole rows, as many as a tile holds */
            for (int64_t r = r0; r < r1; r += p.rows) {
                p.rows = r1 - r < QN_ROWS_TILE / count ? r1 - r : QN_ROWS_TILE / count;
                w->span(w, r * count, count, &p);
            }
            continue;
        }
        p.ahead = count < w->row ? w->row : AHEAD; /* the next read is one row below */
        for (int64_t r = r0; r < r1; r++) w->span(w, r * w->row + c0, count, &p);
    }
}

static void walk_rows(void *context, int64_t begin, int64_t end) {
    const qn_walk *w = context;
    const qn_grid *g = &w->grid;
    void *room = w->room ? w->room(w) : NULL;
    if (w->room && !room) return;
    uint64_t modes = qn_fp_begin();
    for (int64_t r = begin; r < end;) {
        int64_t last = end, offset = 0;
        if (g->group) { /* rows of one group share their parameters */
            int64_t outer = r / g->channels, d = r % g->channels, group = d / g->group;
            int64_t group_end = (group + 1) * g->group < g->channels ? (group + 1) * g->group : g->channels;
            if (outer * g->channels + group_end < last) last = outer * g->channels + group_end;
            offset = (outer * qn_grid_groups(g) + group) * g->inner;
        }
        if (w->rows) w->rows(w, r, last, offset, room);
        else walk_strips(w, r, last, offset);
        r = last;
    }
    qn_fp_end(modes);
    free(room);
}

static void walk_columns(void *context, int64_t begin, int64_t end) {
    qn_walk strip = *(const qn_walk *)context;
    strip.columns_begin = begin, strip.columns_end = end;
    walk_rows(&strip, 0, strip.total / strip.row);
}

void qn_walk_all(qn_walk *w) {
    const qn_grid *g = &w->grid;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    w->merge = &mutex;
    w->total = g->outer * g->channels * g->inner;
    if (w->total == 0) return;
    int64_t bytes = w->total * (int64_t)(w->source->itemsize + w->out_size);
    w->params.ahead = AHEAD;
    w->params.stream = !w->staged && w->total * (int64_t)w->out_size >= qn_stream_bytes();
    if (g->group ? g->inner == 1 : g->inner >= SHORT_RUN || g->channels == 1) {
        w->params.run = g->group ? g->group : g->inner;
        bool even = g->group && g->channels % g->group == 0;
        w->row = even ? w->total : g->channels * g->inner;
        qn_parallel_for(w->total, GRAIN, bytes, walk_runs, w);
        return;
    }
    w->row = g->group ? g->inner : g->channels * g->inner;
    w->columns_begin = 0, w->columns_end = w->row;
    int64_t rows = w->total / w->row;
    if (rows >= 4 * (int64_t)qn_num_threads()) qn_parallel_for(rows, 1 + GRAIN / w->row, bytes, walk_rows, w);
    else qn_parallel_for(w->row, GRAIN, bytes, walk_columns, w);
}

qn_walk qn_new_walk(const qn_source *source, const qn_grid *grid, const qn_affine *params, void *out, qn_type type,
                    qn_span_function span) {
    qn_walk w = {.source = source, .grid = *grid, .params = *params, .out = out, .out_type = type, .span = span};
    w.out_size = qn_itemsize(type);
    w.staged = type != QN_F32 && qn_is_float(type);
    return w;
}
