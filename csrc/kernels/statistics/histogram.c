#include "histogram.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "dispatch.h"
#include "source.h"
#include "threads.h"

#define V_ALWAYS static inline __attribute__((always_inline))

enum {
    TILE = 4096,              /* elements of a tile: 16 KiB stay in the L1 cache between min_max and counting */
    COLUMNS = QN_COLUMNS,     /* columns of a strip, or short runs sorted side by side */
    MANY = 1 << 17,           /* elements: from here on four counters a bin pay; they avoid store-to-load stalls */
    SHORTEST_PIECE = 1 << 14, /* elements: with fewer, another thread costs more than it saves */
    LONGEST_PIECE = 1 << 30,  /* elements: 32-bit counters do not overflow */
    SHORT_SORT = 48,          /* keys: with fewer, insertion sort is faster than radix sort */
    SHORT = 256,              /* elements of a channel or group: up to so many, sorting side by side is fastest */
    FEW = 16,                 /* parameters: fewer are sorted one after the other */
    INFINITE = 0x7F80,        /* bits of the smallest magnitude that is not finite */
    MAX_PIECES = 64,
    APART = 13 * 16, /* counters between the tables of two columns: else all tables would map to the same cache sets */
};

/* Elements [o0, o1) x parameters [p0, p1) x [i0, i1), which one thread takes at a time. */
typedef struct {
    int64_t o0, o1, p0, p1, i0, i1;
    qn_histogram histogram;
    int64_t room;
    bool failed;
} piece;

typedef struct {
    const qn_source *source;
    qn_grid grid;
    int bits;
    bool columns; /* neighbours in memory belong to different parameters */
    int ways;
    piece pieces[MAX_PIECES];
    int64_t count;
    pthread_mutex_t mutex;
    struct workspace *idle; /* free list: page faults on new memory cost more than the counting */
} counting;

/* Memory of one thread: counters, and tiles for elements that cannot be read in place. */
typedef struct workspace {
    struct workspace *next;
    const counting *j;
    int shift, ways;
    uint32_t *counters; /* [1 << (bits + 9)][ways], or [COLUMNS][table_size], all 0 between two parameters */
    float wide[TILE];
    double raw[TILE];
    uint16_t keys[TILE], sorted[TILE];
    int16_t lanes[SHORT * COLUMNS];
} workspace;

void qn_histogram_free(qn_histogram *h) {
    free(h->offsets), free(h->keys), free(h->counts), free(h->ranges);
    *h = (qn_histogram){0};
}

static int start(qn_histogram *h, int64_t params, int64_t room, bool ranges) {
    *h = (qn_histogram){.params = params};
    h->offsets = calloc((size_t)params + 1, sizeof *h->offsets);
    h->keys = qn_allocate(room, sizeof *h->keys);
    h->counts = qn_allocate(room, sizeof *h->counts);
    if (ranges) h->ranges = malloc((size_t)params * sizeof *h->ranges + 1);
    return h->offsets && h->keys && h->counts && (!ranges || h->ranges) ? 0 : -1;
}

/* Frees the memory that the bins do not need. */
static int shrink(qn_histogram *h) {
    int64_t bins = h->offsets[h->params];
    void *keys = realloc(h->keys, (size_t)bins * sizeof *h->keys + 1);
    if (keys) h->keys = keys;
    void *counts = realloc(h->counts, (size_t)bins * sizeof *h->counts + 1);
    if (counts) h->counts = counts;
    return keys && counts ? 0 : -1;
}

/* Makes room for `more` bins after `used`. */
static bool reserve(piece *p, int64_t used, int64_t more) {
    if (used + more <= p->room) return true;
    int64_t room = 2 * p->room + more;
    uint16_t *keys = realloc(p->histogram.keys, (size_t)room * sizeof *keys);
    if (keys) p->histogram.keys = keys;
    int64_t *counts = realloc(p->histogram.counts, (size_t)room * sizeof *counts);
    if (counts) p->histogram.counts = counts;
    if (keys && counts) p->room = room;
    return keys && counts;
}

/* ---- reading ---- */

/* Elements [start, start + n) as float32, n <= TILE. */
static const float *stage(workspace *b, int64_t start, int64_t n) {
    const qn_source *s = b->j->source;
    const void *x = s->data + (size_t)start * s->itemsize;
    if (!s->direct) qn_gather(s, start, n, b->raw), x = b->raw;
    if (s->type == QN_F32) return x;
    static const qn_cast plain = {0};
    if (s->type == QN_F16) qn_kernels()->widen_f16_f32(x, b->wide, n, &plain);
    else if (s->type == QN_BF16) qn_kernels()->widen_bf16_f32(x, b->wide, n, &plain);
    else {
        if (x != b->raw) memcpy(b->raw, x, (size_t)n * sizeof *b->raw);
        qn_kernels()->truncate_f64_f32(b->raw, b->wide, n);
    }
    return b->wide;
}

static const float *read_run(workspace *b, int64_t start, int64_t n, qn_range *r) {
    const float *x = stage(b, start, n);
    if (b->j->source->type == QN_F64) qn_kernels()->min_max_f64(b->raw, n, r);
    else qn_kernels()->min_max_f32(x, n, r);
    return x;
}

static int64_t table_size(const counting *j) { return ((int64_t)1 << (9 + j->bits)) + APART; }

static bool is_finite(uint16_t bin) { return (bin & 0x8000 ? bin - 0x8000 : 0x7FFF - bin) < INFINITE; }

static uint16_t order_key(uint32_t key) { return (uint16_t)(key & 0x8000 ? 0xFFFF - key : 0x8000 + key); }

/* ---- few elements: sort them ---- */

static void sort_keys(workspace *b, int64_t n) {
    uint16_t *k = b->keys;
    if (n < SHORT_SORT) {
        for (int64_t i = 1; i < n; i++) {
            uint16_t key = k[i];
            int64_t at = i;
            for (; at > 0 && k[at - 1] > key; at--) k[at] = k[at - 1];
            k[at] = key;
        }
        return;
    }
    int64_t low[257] = {0}, high[257] = {0};
    for (int64_t i = 0; i < n; i++) low[(k[i] & 255) + 1]++, high[(k[i] >> 8) + 1]++;
    for (int v = 0; v < 256; v++) low[v + 1] += low[v], high[v + 1] += high[v];
    for (int64_t i = 0; i < n; i++) b->sorted[low[k[i] & 255]++] = k[i];
    for (int64_t i = 0; i < n; i++) k[high[b->sorted[i] >> 8]++] = b->sorted[i];
}

static uint16_t key_of(float x, int shift) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> shift << (shift - 16));
}

static void take_keys(workspace *b, const float *x, int64_t n, uint16_t *keys) {
    for (int64_t i = 0; i < n; i++) keys[i] = order_key(key_of(x[i], b->shift));
}

static int64_t emit_keys(workspace *b, int64_t n, piece *p, int64_t used) {
    sort_keys(b, n);
    if (!reserve(p, used, n)) return p->failed = true, used;
    for (int64_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && b->keys[next] == b->keys[i]; next++) {
        }
        if (!is_finite(b->keys[i])) continue;
        p->histogram.keys[used] = b->keys[i], p->histogram.counts[used++] = next - i;
    }
    return used;
}

/* ---- many parameters of few elements: sort them side by side ---- */

/* Stores element i of lane c as a signed key in the order of the values. */
V_ALWAYS void put_key(workspace *b, int64_t i, int64_t c, float x) {
    int16_t key = (int16_t)key_of(x, b->shift);
    b->lanes[i * COLUMNS + c] = (int16_t)(key ^ (key >> 15 & 0x7FFF));
}

/* Appends the bins of n sorted keys. NaN and infinities are at both ends. */
static int64_t emit_lane(workspace *b, int64_t c, int64_t n, piece *p, int64_t used) {
    const int16_t *key = b->lanes + c;
    int64_t i = 0, from;
    if (!reserve(p, used, n)) return p->failed = true, used;
    while (i < n && !is_finite((uint16_t)(key[i * COLUMNS] ^ INT16_MIN))) i++;
    while (n > i && !is_finite((uint16_t)(key[(n - 1) * COLUMNS] ^ INT16_MIN))) n--;
    /* No branch: every element writes a bin, and the next element overwrites it unless the bin ended. */
    for (from = i; i < n;) {
        int16_t current = key[i * COLUMNS];
        p->histogram.keys[used] = (uint16_t)(current ^ INT16_MIN), p->histogram.counts[used] = ++i - from;
        bool last = i == n || key[i * COLUMNS] != current;
        used += last, from = last ? i : from;
    }
    return used;
}

/* ---- many elements: count them ---- */

enum { COUNTERS = 64 }; /* counters of a chunk, which are tested for 0 together */

static int64_t sum_of(const uint32_t *chunk) { /* fits: a piece has at most LONGEST_PIECE elements */
    uint32_t sum = 0;
    for (int k = 0; k < COUNTERS; k++) sum += chunk[k];
    return sum;
}

/* The bin of the largest magnitude on one side, counted from zero; all bins beyond it are empty. */
static int64_t last_bin(double magnitude, int shift) {
    if (!(magnitude > 0)) return 0;
    float near = (float)magnitude; /* rounding up may give the next bin, which is empty */
    uint32_t bits, largest = 0x7F7FFFFF;
    memcpy(&bits, &near, sizeof bits);
    return (bits < largest ? bits : largest) >> shift;
}

/* The lowest chunk above that of zero that holds one of n elements. It searches from above until it has met all n,
 * because most of the octaves below are empty. */
static int64_t lowest_chunk(const uint32_t *above, const uint32_t *below, int64_t high, int64_t low, int64_t n) {
    int64_t chunk = (high > low ? high : low) + 1;
    n -= sum_of(above) + sum_of(below);
    while (n > 0 && --chunk > 0) {
        if (chunk <= high) n -= sum_of(above + chunk * COUNTERS);
        if (chunk <= low) n -= sum_of(below + chunk * COUNTERS);
    }
    return chunk;
}

/* Appends the bins of one side in the order of their values and sets their counters to 0. */
V_ALWAYS int64_t emit_side(uint32_t *counters, int64_t lowest, int64_t last, int drop, int ways, bool negative,
                           qn_histogram *h, int64_t used) {
    const int64_t width = COUNTERS / ways, chunks = last < lowest ? 1 : last - lowest + 2;
    for (int64_t step = 0; step < chunks; step++) {
        int64_t order = negative ? chunks - 1 - step : step, first = order ? (lowest + order - 1) * width : 0;
        uint32_t *c = counters + first * ways;
        if (sum_of(c) == 0) continue;
        for (int64_t k = 0; k < width; k++) { /* no branch: the next bin overwrites an empty one */
            int64_t at = negative ? width - 1 - k : k, count = 0;
            for (int way = 0; way < ways; way++) count += c[at * ways + way];
            int64_t key = (first + at) << drop;
            h->keys[used] = (uint16_t)(negative ? QN_ZERO_BIN - 1 - key : QN_ZERO_BIN + key);
            h->counts[used] = count;
            used += count != 0;
        }
        memset(c, 0, COUNTERS * sizeof *c);
    }
    return used;
}

/* Appends the bins of the n elements of a parameter, whose range is r, in the order of their values. Sets the counters
 * to 0. */
static int64_t emit_counters(workspace *b, uint32_t *counters, int64_t n, const qn_range *r, piece *p, int64_t used) {
    const int drop = b->shift - 16, ways = b->ways;
    const int64_t half = ((QN_BINS / 2) >> drop) * ways, finite = (INFINITE >> drop) * ways;
    uint32_t *below = counters + half;
    if (r->nan || r->infinite)
        for (int side = 0; side < 2; side++)
            memset(counters + side * half + finite, 0, (size_t)(half - finite) * sizeof *counters);
    int64_t low = last_bin(-r->min, b->shift) * ways / COUNTERS, high = last_bin(r->max, b->shift) * ways / COUNTERS;
    int64_t lowest = lowest_chunk(counters, below, high, low, n - r->nan - r->infinite);
    if (!reserve(p, used, (low + high + 4) * COUNTERS)) return p->failed = true, used;
    if (ways == 1) {
        used = emit_side(below, lowest, low, drop, 1, true, &p->histogram, used);
        return emit_side(counters, lowest, high, drop, 1, false, &p->histogram, used);
    }
    used = emit_side(below, lowest, low, drop, 4, true, &p->histogram, used);
    return emit_side(counters, lowest, high, drop, 4, false, &p->histogram, used);
}

/* ---- runs of neighbours that share a parameter ---- */

static int64_t sort_limit(const counting *j) { return j->bits == QN_TENSOR_BITS ? 1024 : SHORT; }

static int64_t count_runs(workspace *b, piece *p, int64_t k, int64_t used) {
    qn_range *r = p->histogram.ranges + (k - p->p0);
    int64_t n = 0;
    bool sort = (p->o1 - p->o0) * (p->i1 - p->i0) <= sort_limit(b->j);
    for (int64_t o = p->o0; o < p->o1; o++) {
        int64_t length, from = qn_grid_run(&b->j->grid, o, k, &length), end = p->i1 < length ? p->i1 : length;
        for (int64_t i = p->i0; i < end; i += TILE) {
            int64_t m = end - i < TILE ? end - i : TILE;
            const float *x = read_run(b, from + i, m, r);
            if (sort) take_keys(b, x, m, b->keys + n);
            else qn_kernels()->count_f32(x, m, b->shift, b->ways, b->counters);
            n += m;
        }
    }
    return sort ? emit_keys(b, n, p, used) : emit_counters(b, b->counters, n, r, p, used);
}

/* Up to COLUMNS parameters from k on, none of more than SHORT elements. */
static int64_t sort_runs(workspace *b, piece *p, int64_t k, int64_t count, int64_t used) {
    int64_t most = (p->o1 - p->o0) * (p->i1 - p->i0);
    for (int64_t c = 0; c < count; c++) {
        int64_t n = 0;
        for (int64_t o = p->o0; o < p->o1; o++) {
            int64_t length, from = qn_grid_run(&b->j->grid, o, k + c, &length), end = p->i1 < length ? p->i1 : length;
            if (end <= p->i0) continue;
            const float *x = read_run(b, from + p->i0, end - p->i0, p->histogram.ranges + (k + c - p->p0));
            for (int64_t i = p->i0; i < end; i++) put_key(b, n++, c, x[i - p->i0]);
        }
        for (; n < most; n++) b->lanes[n * COLUMNS + c] = INT16_MAX; /* a NaN, which is not counted */
    }
    qn_kernels()->sort_columns_i16(b->lanes, most);
    for (int64_t c = 0; c < count; c++) {
        used = emit_lane(b, c, most, p, used);
        p->histogram.offsets[k - p->p0 + c + 1] = used;
    }
    return used;
}

/* ---- columns: neighbours belong to different parameters ---- */

/* Counts or collects rows [first, first + rows) of a strip; x is the first of them. */
static void take_rows(workspace *b, const float *x, const qn_strip *s, int64_t first, int64_t rows) {
    if (s->rows > SHORT) {
        qn_kernels()->count_columns_f32(x, rows, s->stride, s->count, b->shift, table_size(b->j), b->counters);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < s->count; c++) put_key(b, first + r, c, x[r * s->stride + c]);
}

static int64_t count_strip(workspace *b, piece *p, const qn_strip *s, int64_t k, int64_t used) {
    const qn_table *t = qn_kernels();
    const qn_source *source = b->j->source;
    qn_range *ranges = p->histogram.ranges + (k - p->p0);
    if (source->direct && source->type == QN_F32) {
        enum { BAND = 256 }; /* rows that stay in the L2 cache between min_max and counting */
        for (int64_t r = 0; r < s->rows; r += BAND) {
            const float *x = (const float *)source->data + s->start + r * s->stride;
            int64_t rows = s->rows - r < BAND ? s->rows - r : BAND;
            t->min_max_columns_f32(x, rows, s->stride, s->count, ranges);
            take_rows(b, x, s, r, rows);
        }
    } else {
        for (int64_t r = 0; r < s->rows; r++) {
            const float *x = stage(b, s->start + r * s->stride, s->count);
            if (source->type == QN_F64) t->min_max_columns_f64(b->raw, 1, 0, s->count, ranges);
            else t->min_max_columns_f32(x, 1, 0, s->count, ranges);
            take_rows(b, x, s, r, 1);
        }
    }
    if (s->rows <= SHORT) t->sort_columns_i16(b->lanes, s->rows);
    for (int64_t c = 0; c < s->count; c++) {
        used = s->rows <= SHORT ? emit_lane(b, c, s->rows, p, used)
                                : emit_counters(b, b->counters + c * table_size(b->j), s->rows, ranges + c, p, used);
        p->histogram.offsets[k - p->p0 + c + 1] = used;
    }
    return used;
}

/* ---- pieces ---- */

static workspace *take_workspace(counting *j) {
    pthread_mutex_lock(&j->mutex);
    workspace *b = j->idle;
    if (b) j->idle = b->next;
    pthread_mutex_unlock(&j->mutex);
    if (b || !(b = malloc(sizeof *b))) return b;
    b->j = j, b->shift = 23 - j->bits, b->ways = j->ways;
    b->counters =
        calloc((size_t)(j->columns ? COLUMNS * table_size(j) : (int64_t)j->ways << (9 + j->bits)), sizeof *b->counters);
    return b->counters ? b : (free(b), NULL);
}

static void leave_workspace(counting *j, workspace *b) {
    pthread_mutex_lock(&j->mutex);
    b->next = j->idle, j->idle = b;
    pthread_mutex_unlock(&j->mutex);
}

static void make_piece(counting *j, piece *p) {
    int64_t params = p->p1 - p->p0, used = 0;
    int64_t bins = params << (5 + j->bits), elements = params * (p->o1 - p->o0) * (p->i1 - p->i0);
    if (j->columns && j->grid.group) elements *= j->grid.group;
    workspace *b = take_workspace(j);
    p->failed = !b || start(&p->histogram, params, p->room = bins < elements ? bins : elements, true);
    for (int64_t k = 0; k < params && !p->failed; k++) p->histogram.ranges[k] = (qn_range){INFINITY, -INFINITY, 0, 0};
    for (int64_t k = p->p0; k < p->p1 && !p->failed;) {
        if (j->columns) {
            qn_strip s = qn_grid_strip(&j->grid, p->o0, p->o1, k, p->p1 - k < COLUMNS ? p->p1 - k : COLUMNS);
            used = count_strip(b, p, &s, k, used);
            k += s.count;
        } else if (params >= FEW && (p->o1 - p->o0) * (p->i1 - p->i0) <= SHORT) {
            int64_t count = p->p1 - k < COLUMNS ? p->p1 - k : COLUMNS;
            used = sort_runs(b, p, k, count, used);
            k += count;
        } else {
            used = count_runs(b, p, k, used);
            p->histogram.offsets[++k - p->p0] = used;
        }
    }
    if (b) leave_workspace(j, b);
}

static void make_pieces(void *context, int64_t begin, int64_t end) {
    counting *j = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t k = begin; k < end; k++) make_piece(j, &j->pieces[k]);
    qn_fp_end(modes);
}

/* Cuts the parameters among the pieces, and the elements of a parameter where there are too few of them. */
static void cut(counting *j) {
    const qn_grid *g = &j->grid;
    int64_t params = qn_grid_params(g), outer = g->group ? 1 : g->outer;
    int64_t inner = j->columns ? 1 : g->group ? g->group : g->inner;
    int64_t total = g->outer * g->channels * g->inner,
            pieces = total / (j->bits == QN_TENSOR_BITS ? MANY : SHORTEST_PIECE);
    int64_t most = qn_num_threads() == 1 ? 1 : 4 * (int64_t)qn_num_threads();
    if (pieces > most) pieces = most;
    if (pieces < 1 + total / LONGEST_PIECE) pieces = 1 + total / LONGEST_PIECE;
    if (pieces > MAX_PIECES) pieces = MAX_PIECES;
    int64_t grain = j->columns ? COLUMNS : 1, grains = (params + grain - 1) / grain;
    int64_t by_params = grains < pieces ? grains : pieces;
    int64_t rest = g->group && j->columns ? 1 : pieces / by_params; /* the rows of a group are not cut */
    bool cut_outer = outer >= rest;
    if (!cut_outer && rest > inner) rest = inner;
    for (int64_t a = 0; a < by_params; a++)
        for (int64_t b = 0; b < rest; b++) {
            int64_t p0 = grains * a / by_params * grain, p1 = grains * (a + 1) / by_params * grain;
            if (a + 1 == by_params) p1 = params;
            piece p = {.o0 = 0, .o1 = outer, .p0 = p0, .p1 = p1, .i0 = 0, .i1 = inner};
            if (cut_outer) p.o0 = outer * b / rest, p.o1 = outer * (b + 1) / rest;
            else p.i0 = inner * b / rest, p.i1 = inner * (b + 1) / rest;
            j->pieces[j->count++] = p;
        }
}

static void merge_ranges(qn_range *to, const qn_range *from, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        if (from[k].min < to[k].min) to[k].min = from[k].min;
        if (from[k].max > to[k].max) to[k].max = from[k].max;
        to[k].nan += from[k].nan, to[k].infinite += from[k].infinite;
    }
}

/* Merges pieces of the same parameters. */
static int join_pieces(counting *j) {
    int64_t last = 0;
    for (int64_t k = 1; k < j->count; k++) {
        qn_histogram *into = &j->pieces[last].histogram, *next = &j->pieces[k].histogram, sum;
        if (j->pieces[k].p0 == j->pieces[last].p0) {
            if (qn_histogram_merge(into, next, &sum)) return qn_histogram_free(&sum), -1;
            merge_ranges(into->ranges, next->ranges, into->params);
            sum.ranges = into->ranges, into->ranges = NULL;
            qn_histogram_free(into), qn_histogram_free(next);
            *into = sum;
        } else if (++last != k) {
            j->pieces[last] = j->pieces[k];
            j->pieces[k].histogram = (qn_histogram){0};
        }
    }
    j->count = j->count ? last + 1 : 0;
    return 0;
}

static int concatenate(counting *j, qn_histogram *h) {
    int64_t used = 0, bins = 0;
    if (j->count == 1) {
        *h = j->pieces[0].histogram, j->pieces[0].histogram = (qn_histogram){0};
        return shrink(h);
    }
    for (int64_t k = 0; k < j->count; k++) bins += j->pieces[k].histogram.offsets[j->pieces[k].histogram.params];
    if (start(h, qn_grid_params(&j->grid), bins, true)) return -1;
    for (int64_t k = 0; k < h->params; k++) h->ranges[k] = (qn_range){INFINITY, -INFINITY, 0, 0};
    for (int64_t k = 0; k < j->count; k++) {
        const piece *p = &j->pieces[k];
        int64_t n = p->histogram.offsets[p->histogram.params];
        memcpy(h->ranges + p->p0, p->histogram.ranges, (size_t)p->histogram.params * sizeof *h->ranges);
        memcpy(h->keys + used, p->histogram.keys, (size_t)n * sizeof *h->keys);
        memcpy(h->counts + used, p->histogram.counts, (size_t)n * sizeof *h->counts);
        for (int64_t i = 1; i <= p->histogram.params; i++) h->offsets[p->p0 + i] = used + p->histogram.offsets[i];
        used += n;
    }
    return 0;
}

int qn_histogram_of(const qn_source *x, const qn_grid *grid, int bits, qn_histogram *h) {
    counting *j = calloc(1, sizeof *j);
    *h = (qn_histogram){0};
    if (!j) return -1;
    j->source = x, j->grid = *grid, j->bits = bits;
    j->columns = qn_grid_columns(grid);
    int64_t total = grid->outer * grid->channels * grid->inner, params = qn_grid_params(grid);
    j->ways = !j->columns && params && total / params >= MANY ? 4 : 1;
    pthread_mutex_init(&j->mutex, NULL);
    if (total) cut(j);
    qn_parallel_for(j->count, 1, total * (int64_t)x->itemsize, make_pieces, j);
    bool failed = false;
    for (int64_t k = 0; k < j->count; k++) failed |= j->pieces[k].failed;
    failed = failed || join_pieces(j) || concatenate(j, h);
    for (int64_t k = 0; k < MAX_PIECES; k++) qn_histogram_free(&j->pieces[k].histogram);
    for (workspace *b = j->idle, *next; b; b = next) next = b->next, free(b->counters), free(b);
    pthread_mutex_destroy(&j->mutex);
    free(j);
    return failed ? -1 : 0;
}

int qn_histogram_merge(const qn_histogram *a, const qn_histogram *b, qn_histogram *h) {
    int64_t used = 0;
    if (start(h, a->params, a->offsets[a->params] + b->offsets[b->params], false)) return -1;
    for (int64_t k = 0; k < a->params; k++) {
        int64_t i = a->offsets[k], j = b->offsets[k], i1 = a->offsets[k + 1], j1 = b->offsets[k + 1];
        while (i < i1 || j < j1) {
            bool left = j == j1 || (i < i1 && a->keys[i] <= b->keys[j]);
            bool right = i == i1 || (j < j1 && b->keys[j] <= a->keys[i]);
            h->keys[used] = left ? a->keys[i] : b->keys[j];
            h->counts[used++] = (left ? a->counts[i] : 0) + (right ? b->counts[j] : 0);
            i += left, j += right;
        }
        h->offsets[k + 1] = used;
    }
    return shrink(h);
}
