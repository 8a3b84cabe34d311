/* Short parameters are sorted side by side. A hash table for each long one takes its elements until it has too many
 * values. Most of these are refused at once, by their number of occupied bins, or after some hundreds of elements. */
#include "distinct.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "dispatch.h"
#include "source.h"
#include "threads.h"

enum {
    COLUMNS = 16,      /* read side by side: one cache line of each row */
    SLOTS_A_VALUE = 8, /* two values seldom share a slot, so that the branch predictor is right about probes */
    SHORT_SORT = 16,
    SHORT = 256, /* elements of a parameter: up to so many, sorting side by side is fastest */
    FEWEST = 16, /* parameters: fewer are read one after the other */
    FIRST = 384, /* elements of a long one that tell whether it has too many values */
    CELLS = 4096,
    MAX_PIECES = 64,
    PIECE = 1 << 15, /* elements: with fewer, another thread costs more than it saves */
};

typedef struct {
    double value;
    int64_t count;
} few;

/* The values of one parameter so far. */
typedef struct {
    int64_t n, limit, mask;
    int shift;
    bool full;
    uint16_t *slots; /* [mask + 1] the number of a value plus one, or 0 */
    uint16_t *taken; /* [limit] the slot of each value */
    double *values;  /* [limit + 1], from 1 on */
    int64_t *counts; /* [2][limit + 1]: neighbours count in turn, as in count_f32; [0] counts NaN and infinities */
} census;

static bool census_start(census *c, int64_t limit) {
    int bits = 1;
    while ((int64_t)1 << bits < limit * SLOTS_A_VALUE) bits++;
    *c = (census){.limit = limit, .mask = ((int64_t)1 << bits) - 1, .shift = 64 - bits};
    c->slots = calloc((size_t)c->mask + 1, sizeof *c->slots);
    c->taken = malloc((size_t)limit * sizeof *c->taken);
    c->values = malloc((size_t)(limit + 1) * sizeof *c->values);
    c->counts = calloc(2 * (size_t)(limit + 1), sizeof *c->counts);
    return c->slots && c->taken && c->values && c->counts;
}

static void census_free(census *c) { free(c->slots), free(c->taken), free(c->values), free(c->counts); }

static void census_clear(census *c) {
    for (int64_t k = 0; k < c->n; k++) c->slots[c->taken[k]] = 0;
    memset(c->counts, 0, (size_t)(c->n + 1) * sizeof *c->counts);
    memset(c->counts + c->limit + 1, 0, (size_t)(c->n + 1) * sizeof *c->counts);
    c->n = 0, c->full = false;
}

/* The number of a value plus one; 0 if it is not finite, -1 if the census is full or no float32 scale reaches it. */
static inline int64_t number_of(census *c, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    int64_t slot = (int64_t)((bits * 0x9E3779B97F4A7C15u) >> c->shift);
    while (c->slots[slot] && c->values[c->slots[slot]] != v) slot = (slot + 1) & c->mask;
    if (c->slots[slot]) return c->slots[slot];
    if (!isfinite(v)) return 0;
    if (fabs(v) > FLT_MAX || c->n == c->limit) return -1;
    c->taken[c->n] = (uint16_t)slot;
    c->values[++c->n] = v;
    return c->slots[slot] = (uint16_t)c->n;
}

static void census_take(census *c, const double *values, int64_t n) {
    for (int64_t i = 0; i < n && !c->full; i++) {
        int64_t k = number_of(c, values[i] + 0.0);
        if (k < 0) c->full = true;
        else c->counts[(i & 1) * (c->limit + 1) + k]++;
    }
}

/* Whether the first elements alone have more values than the limit: these mark at most as many cells. */
static bool too_many(const double *x, int64_t n, int64_t limit) {
    uint64_t cells[CELLS / 64] = {0};
    int64_t marked = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = fabs(x[i]) <= FLT_MAX ? x[i] + 0.0 : 0.0;
        uint64_t bits;
        memcpy(&bits, &v, sizeof bits);
        uint64_t cell = bits * 0x9E3779B97F4A7C15u >> 52;
        cells[cell / 64] |= (uint64_t)1 << cell % 64;
    }
    for (int i = 0; i < CELLS / 64; i++) marked += __builtin_popcountll(cells[i]);
    return marked - 1 > limit; /* NaN and infinities mark the cell of 0 */
}

static void sort_few(few *v, few *scratch, int64_t n) {
    for (int64_t start = 0; start < n; start += SHORT_SORT) {
        int64_t end = least(start + SHORT_SORT, n);
        for (int64_t i = start + 1; i < end; i++) {
            few x = v[i];
            int64_t at = i;
            for (; at > start && v[at - 1].value > x.value; at--) v[at] = v[at - 1];
            v[at] = x;
        }
    }
    for (int64_t width = SHORT_SORT; width < n; width *= 2) {
        for (int64_t start = 0; start < n; start += 2 * width) {
            int64_t i = start, middle = least(start + width, n), j = middle, end = least(start + 2 * width, n);
            for (int64_t to = start; to < end; to++)
                scratch[to] = j == end || (i < middle && v[i].value <= v[j].value) ? v[i++] : v[j++];
        }
        memcpy(v, scratch, (size_t)n * sizeof *v);
    }
}

/* ---- parameters ---- */

typedef struct {
    int64_t p0, p1, room;
    qn_distinct found;
    bool failed;
} piece;

typedef struct {
    const qn_source *source;
    qn_grid grid;
    const qn_histogram *h;
    const uint8_t *lost;
    int64_t limit;
    int64_t elements; /* of a parameter, at most */
    bool side_by_side;
    bool columns;
    piece pieces[MAX_PIECES];
} counting;

static bool wanted(const counting *j, int64_t k) { /* -0, which counts as 0, has a bin of its own */
    return !j->lost[k] && j->h->offsets[k + 1] - j->h->offsets[k] <= j->limit + 1;
}

static const double *doubles_at(const qn_source *x, int64_t start, int64_t n, double *tile) {
    float wide[QN_TILE];
    if (x->type == QN_F64) {
        if (x->direct) return (const double *)x->data + start;
        qn_gather(x, start, n, tile);
    } else {
        const float *f = qn_floats_at(x, start, n, wide);
        for (int64_t i = 0; i < n; i++) tile[i] = f[i];
    }
    return tile;
}

static bool reserve(piece *p, int64_t used, int64_t n) {
    qn_distinct *d = &p->found;
    if (used + n <= p->room) return true;
    int64_t room = 2 * p->room + n;
    double *values = realloc(d->values, (size_t)room * sizeof *values);
    if (values) d->values = values;
    int64_t *counts = realloc(d->counts, (size_t)room * sizeof *counts);
    if (counts) d->counts = counts;
    if (!values || !counts) return p->failed = true, false;
    return p->room = room, true;
}

/* Appends the values of a parameter to those of its piece. */
static void emit(piece *p, census *c, few *sorted) {
    qn_distinct *d = &p->found;
    int64_t used = d->offsets[d->params], n = c->full ? 0 : c->n;
    if (!reserve(p, used, n)) n = 0;
    const int64_t *counts = c->counts, *more = c->counts + c->limit + 1;
    for (int64_t k = 0; k < n; k++) sorted[k] = (few){c->values[k + 1], counts[k + 1] + more[k + 1]};
    sort_few(sorted, sorted + c->limit, n);
    for (int64_t k = 0; k < n; k++) d->values[used + k] = sorted[k].value, d->counts[used + k] = sorted[k].count;
    d->offsets[++d->params] = used + n;
    census_clear(c);
}

/* The same of a sorted lane of n elements; infinities at the end are none. */
static void emit_lane(piece *p, const double *lane, int64_t n, bool keep) {
    qn_distinct *d = &p->found;
    int64_t used = d->offsets[d->params], from = 0;
    while (n > 0 && lane[(n - 1) * QN_COLUMNS] == INFINITY) n--;
    keep = keep && n > 0 && lane[(n - 1) * QN_COLUMNS] <= FLT_MAX && lane[0] >= -FLT_MAX;
    if (keep && reserve(p, used, n))
        for (int64_t i = 0; i < n;) { /* no branch: every element writes a value, see emit_lane of histogram.c */
            double value = lane[i * QN_COLUMNS];
            d->values[used] = value, d->counts[used] = ++i - from;
            bool last = i == n || lane[i * QN_COLUMNS] != value;
            used += last, from = last ? i : from;
        }
    d->offsets[++d->params] = used;
}

static void take_run(const counting *j, int64_t k, census *c) {
    double tile[QN_TILE];
    for (int64_t o = 0; o < (j->grid.group ? 1 : j->grid.outer) && !c->full; o++) {
        int64_t length, from = qn_grid_run(&j->grid, o, k, &length);
        for (int64_t i = 0; i < length && !c->full; i += QN_TILE) {
            int64_t n = least(length - i, QN_TILE);
            const double *x = doubles_at(j->source, from + i, n, tile);
            if (o == 0 && i == 0 && c->limit < FIRST && too_many(x, least(n, FIRST), c->limit)) c->full = true;
            else census_take(c, x, n);
        }
    }
}

/* Columns are read side by side, because neighbours in memory belong to different parameters. */
static void take_strip(const counting *j, int64_t k, const qn_strip *s, census *c) {
    double tile[QN_TILE];
    int64_t left = 0;
    for (int64_t i = 0; i < s->count; i++) c[i].full = !wanted(j, k + i), left += !c[i].full;
    for (int64_t r = 0; r < s->rows && left; r++) {
        const double *x = doubles_at(j->source, s->start + r * s->stride, s->count, tile);
        for (int64_t i = 0; i < s->count; i++) {
            if (c[i].full) continue;
            census_take(&c[i], x + i, 1);
            left -= c[i].full;
        }
    }
}

static void put(double *lane, int64_t i, double x) { /* +0 for -0; what is not finite comes last */
    lane[i * QN_COLUMNS] = isfinite(x) ? x + 0.0 : INFINITY;
}

/* Sorts up to QN_COLUMNS short parameters from k on side by side. Returns how many. */
static int64_t take_lanes(const counting *j, piece *p, int64_t k, double *lanes) {
    double tile[QN_TILE];
    const qn_grid *g = &j->grid;
    qn_strip s = {.count = least(p->p1 - k, QN_COLUMNS), .rows = j->elements};
    bool any = false;
    if (j->columns) s = qn_grid_strip(g, 0, g->outer, k, s.count);
    for (int64_t c = 0; c < s.count; c++) any |= wanted(j, k + c);
    for (int64_t r = 0; j->columns && any && r < s.rows; r++) {
        const double *x = doubles_at(j->source, s.start + r * s.stride, s.count, tile);
        for (int64_t c = 0; c < s.count; c++) put(lanes + c, r, x[c]);
    }
    for (int64_t c = 0; !j->columns && any && c < s.count; c++) {
        int64_t n = 0, length;
        for (int64_t o = 0; o < (g->group ? 1 : g->outer); o++) {
            int64_t from = qn_grid_run(g, o, k + c, &length);
            const double *x = doubles_at(j->source, from, length, tile);
            for (int64_t i = 0; i < length; i++) put(lanes + c, n++, x[i]);
        }
        for (; n < s.rows; n++) put(lanes + c, n, INFINITY);
    }
    for (int64_t c = s.count; c < QN_COLUMNS; c++)
        for (int64_t r = 0; any && r < s.rows; r++) put(lanes + c, r, INFINITY);
    if (any) qn_kernels()->sort_columns_f64(lanes, s.rows);
    for (int64_t c = 0; c < s.count && !p->failed; c++) emit_lane(p, lanes + c, s.rows, any && wanted(j, k + c));
    return s.count;
}

static void make_short_piece(counting *j, piece *p) {
    double *lanes = malloc((size_t)j->elements * QN_COLUMNS * sizeof *lanes);
    p->found.offsets = calloc((size_t)(p->p1 - p->p0) + 1, sizeof *p->found.offsets);
    for (int64_t k = p->p0; k < p->p1; k++) p->room += wanted(j, k) ? j->elements : 0;
    p->found.values = qn_allocate(p->room, sizeof *p->found.values);
    p->found.counts = qn_allocate(p->room, sizeof *p->found.counts);
    p->failed = !lanes || !p->found.offsets || !p->found.values || !p->found.counts;
    for (int64_t k = p->p0; k < p->p1 && !p->failed;) k += take_lanes(j, p, k, lanes);
    free(lanes);
}

static void make_piece(counting *j, piece *p) {
    census c[COLUMNS] = {0};
    int64_t width = j->columns ? COLUMNS : 1;
    p->found.offsets = calloc((size_t)(p->p1 - p->p0) + 1, sizeof *p->found.offsets);
    few *sorted = malloc(2 * (size_t)j->limit * sizeof *sorted);
    p->failed = !p->found.offsets || !sorted;
    for (int64_t i = 0; i < width; i++) p->failed |= !census_start(&c[i], j->limit);
    for (int64_t k = p->p0; k < p->p1 && !p->failed;) {
        qn_strip s = {.count = 1};
        if (j->columns) {
            s = qn_grid_strip(&j->grid, 0, j->grid.outer, k, least(p->p1 - k, COLUMNS));
            take_strip(j, k, &s, c);
        } else if (!(c[0].full = !wanted(j, k))) {
            take_run(j, k, c);
        }
        for (int64_t i = 0; i < s.count && !p->failed; i++) emit(p, &c[i], sorted);
        k += s.count;
    }
    for (int64_t i = 0; i < width; i++) census_free(&c[i]);
    free(sorted);
}

static void make_pieces(void *context, int64_t begin, int64_t end) {
    counting *j = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t k = begin; k < end; k++) {
        if (j->side_by_side) make_short_piece(j, &j->pieces[k]);
        else make_piece(j, &j->pieces[k]);
    }
    qn_fp_end(modes);
}

/* ---- one parameter: the bins may tell ---- */

/* If all elements of each bin are the same number, the counts of the bins are the counts of the values. The check takes
 * two loads an element and no branch. For types that convert exactly to float32. */
static bool alone_in_bins(const qn_source *x, int64_t total, const qn_histogram *h, qn_distinct *d) {
    enum { UNSEEN = 0x7FC00000 }; /* a NaN */
    uint16_t numbers[QN_BINS] = {0};
    uint32_t seen[QN_FEW_OF_TENSOR + 2] = {UNSEEN};
    float wide[QN_TILE], value;
    const int64_t bins = h->offsets[1];
    for (int64_t k = 0; k < bins; k++) {
        uint16_t key = h->keys[k];
        numbers[key < QN_ZERO_BIN ? QN_BINS - 1 - key : key - QN_ZERO_BIN] = (uint16_t)(k + 1);
        seen[k + 1] = UNSEEN;
    }
    for (int64_t start = 0; start < total; start += QN_TILE) {
        int64_t n = least(total - start, QN_TILE);
        const float *f = qn_floats_at(x, start, n, wide);
        uint32_t bits, other = 0;
        for (int64_t i = 0; i < n; i++) memcpy(&bits, f + i, sizeof bits), other |= seen[numbers[bits >> 16]] ^ bits;
        for (int64_t i = 0; i < n && other; i++) { /* a new value, or not finite */
            memcpy(&bits, f + i, sizeof bits);
            uint32_t *first = seen + numbers[bits >> 16];
            if (!isfinite(f[i]) || *first == bits) continue;
            if (*first != UNSEEN || first == seen) return false;
            *first = bits;
        }
    }
    int64_t n = 0;
    for (int64_t k = 0; k < bins; k++) {
        memcpy(&value, seen + k + 1, sizeof value);
        if (n && value == d->values[n - 1]) d->counts[n - 1] += h->counts[k]; /* -0 and 0 */
        else d->values[n] = (double)value + 0.0, d->counts[n++] = h->counts[k];
    }
    if (n <= QN_FEW_OF_TENSOR) d->offsets[1] = n;
    return true;
}

static bool by_bins(const qn_source *x, int64_t total, const counting *j, qn_distinct *d) {
    if (j->limit != QN_FEW_OF_TENSOR || j->h->params != 1 || !wanted(j, 0)) return false;
    if (total < QN_BINS / 8 || x->type == QN_F64) return false; /* filling the table would cost more */
    d->offsets = calloc(2, sizeof *d->offsets);
    d->values = malloc((size_t)(j->h->offsets[1] + 1) * sizeof *d->values);
    d->counts = malloc((size_t)(j->h->offsets[1] + 1) * sizeof *d->counts);
    if (d->offsets && d->values && d->counts && alone_in_bins(x, total, j->h, d)) return true;
    qn_distinct_free(d);
    return false;
}

void qn_distinct_free(qn_distinct *d) {
    free(d->offsets), free(d->values), free(d->counts);
    *d = (qn_distinct){0};
}

static int start(qn_distinct *d, int64_t params, int64_t room) {
    *d = (qn_distinct){.params = params};
    d->offsets = calloc((size_t)params + 1, sizeof *d->offsets);
    d->values = qn_allocate(room, sizeof *d->values);
    d->counts = qn_allocate(room, sizeof *d->counts);
    return d->offsets && d->values && d->counts ? 0 : -1;
}

static bool move_piece(piece *p, qn_distinct *d) {
    if (p->failed) return true;
    *d = p->found, p->found = (qn_distinct){0};
    size_t used = (size_t)d->offsets[d->params];
    void *values = realloc(d->values, used * sizeof *d->values + 1); /* frees what is not used */
    if (values) d->values = values;
    void *counts = realloc(d->counts, used * sizeof *d->counts + 1);
    if (counts) d->counts = counts;
    return !values || !counts;
}

static bool join_pieces(counting *j, int64_t count, qn_distinct *d) {
    int64_t used = 0;
    for (int64_t k = 0; k < count; k++) {
        if (j->pieces[k].failed) return true;
        used += j->pieces[k].found.offsets[j->pieces[k].found.params];
    }
    if (start(d, j->h->params, used)) return true;
    used = 0;
    for (int64_t k = 0; k < count; k++) {
        const qn_distinct *part = &j->pieces[k].found;
        int64_t n = part->offsets[part->params];
        if (n) memcpy(d->values + used, part->values, (size_t)n * sizeof *d->values);
        if (n) memcpy(d->counts + used, part->counts, (size_t)n * sizeof *d->counts);
        for (int64_t i = 1; i <= part->params; i++) d->offsets[j->pieces[k].p0 + i] = used + part->offsets[i];
        used += n;
    }
    return false;
}

int qn_distinct_of(const qn_source *x, const qn_grid *grid, int bits, const qn_histogram *h, const uint8_t *lost,
                   qn_distinct *d) {
    *d = (qn_distinct){.params = h->params};
    int64_t total = qn_elements(x), any = 0;
    counting *j = calloc(1, sizeof *j);
    if (!j) return -1;
    j->source = x, j->grid = *grid, j->h = h, j->lost = lost, j->limit = qn_few_of(bits);
    j->columns = qn_grid_columns(grid);
    j->elements = grid->group ? least(grid->group, grid->channels) : grid->outer * grid->inner;
    j->side_by_side = j->elements <= SHORT && h->params >= FEWEST;
    for (int64_t k = 0; k < h->params; k++) any += wanted(j, k);
    uint64_t modes = qn_fp_begin();
    bool done = any && by_bins(x, total, j, d);
    qn_fp_end(modes);
    if (done || !any) return free(j), done ? 0 : start(d, h->params, 0);
    int64_t grain = j->side_by_side ? QN_COLUMNS : j->columns ? COLUMNS : 1, grains = (h->params + grain - 1) / grain;
    int64_t count = least(least(most(total / PIECE, 1), MAX_PIECES), grains);
    if (qn_num_threads() == 1) count = 1;
    for (int64_t k = 0; k < count; k++) {
        j->pieces[k].p0 = grains * k / count * grain;
        j->pieces[k].p1 = k + 1 == count ? h->params : grains * (k + 1) / count * grain;
    }
    qn_parallel_for(count, 1, total * (int64_t)x->itemsize, make_pieces, j);
    bool failed = count == 1 ? move_piece(&j->pieces[0], d) : join_pieces(j, count, d);
    for (int64_t k = 0; k < count; k++) qn_distinct_free(&j->pieces[k].found);
    free(j);
    return failed ? -1 : 0;
}

int qn_distinct_merge(const qn_distinct *a, const qn_distinct *b, int bits, const uint8_t *lost, qn_distinct *d) {
    int64_t used = 0, limit = qn_few_of(bits);
    if (start(d, a->params, a->offsets[a->params] + b->offsets[b->params])) return -1;
    for (int64_t k = 0; k < a->params; k++) {
        int64_t i = a->offsets[k], j = b->offsets[k], i1 = a->offsets[k + 1], j1 = b->offsets[k + 1], from = used;
        while (!lost[k] && (i < i1 || j < j1)) {
            bool left = j == j1 || (i < i1 && a->values[i] <= b->values[j]);
            bool right = i == i1 || (j < j1 && b->values[j] <= a->values[i]);
            d->values[used] = left ? a->values[i] : b->values[j];
            d->counts[used++] = (left ? a->counts[i] : 0) + (right ? b->counts[j] : 0);
            i += left, j += right;
        }
        if (used - from > limit) used = from;
        d->offsets[k + 1] = used;
    }
    return 0;
}
