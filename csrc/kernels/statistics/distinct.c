/* A hash table for each parameter takes its elements until it has too many values. Most arrays are refused at once, by
 * their number of occupied bins, or after some hundreds of elements. */
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

/* Appends the values of a parameter to those of its piece. */
static void emit(piece *p, census *c, few *sorted) {
    qn_distinct *d = &p->found;
    int64_t used = d->offsets[d->params], n = c->full ? 0 : c->n;
    if (used + n > p->room) {
        int64_t room = 2 * p->room + n;
        double *values = realloc(d->values, (size_t)room * sizeof *values);
        if (values) d->values = values;
        int64_t *counts = realloc(d->counts, (size_t)room * sizeof *counts);
        if (counts) d->counts = counts;
        if (!values || !counts) p->failed = true, n = 0;
        else p->room = room;
    }
    const int64_t *counts = c->counts, *more = c->counts + c->limit + 1;
    for (int64_t k = 0; k < n; k++) sorted[k] = (few){c->values[k + 1], counts[k + 1] + more[k + 1]};
    sort_few(sorted, sorted + c->limit, n);
    for (int64_t k = 0; k < n; k++) d->values[used + k] = sorted[k].value, d->counts[used + k] = sorted[k].count;
    d->offsets[++d->params] = used + n;
    census_clear(c);
}

static void take_run(const counting *j, int64_t k, census *c) {
    double tile[QN_TILE];
    for (int64_t o = 0; o < (j->grid.group ? 1 : j->grid.outer) && !c->full; o++) {
        int64_t length, from = qn_grid_run(&j->grid, o, k, &length);
        for (int64_t i = 0; i < length && !c->full; i += QN_TILE) {
            int64_t n = least(length - i, QN_TILE);
            census_take(c, doubles_at(j->source, from + i, n, tile), n);
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
    for (int64_t k = begin; k < end; k++) make_piece(j, &j->pieces[k]);
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
    d->values = malloc((size_t)room * sizeof *d->values + 1);
    d->counts = malloc((size_t)room * sizeof *d->counts + 1);
    return d->offsets && d->values && d->counts ? 0 : -1;
}

int qn_distinct_of(const qn_source *x, const qn_grid *grid, int bits, const qn_histogram *h, const uint8_t *lost,
                   qn_distinct *d) {
    *d = (qn_distinct){.params = h->params};
    int64_t total = qn_elements(x), any = 0, used = 0;
    counting *j = calloc(1, sizeof *j);
    if (!j) return -1;
    j->source = x, j->grid = *grid, j->h = h, j->lost = lost, j->limit = qn_few_of(bits);
    j->columns = qn_grid_columns(grid);
    for (int64_t k = 0; k < h->params; k++) any += wanted(j, k);
    uint64_t modes = qn_fp_begin();
    bool done = any && by_bins(x, total, j, d);
    qn_fp_end(modes);
    if (done || !any) return free(j), done ? 0 : start(d, h->params, 0);
    int64_t grain = j->columns ? COLUMNS : 1, grains = (h->params + grain - 1) / grain;
    int64_t count = least(least(most(total / PIECE, 1), MAX_PIECES), grains);
    if (qn_num_threads() == 1) count = 1;
    for (int64_t k = 0; k < count; k++) {
        j->pieces[k].p0 = grains * k / count * grain;
        j->pieces[k].p1 = k + 1 == count ? h->params : grains * (k + 1) / count * grain;
    }
    qn_parallel_for(count, 1, total * (int64_t)x->itemsize, make_pieces, j);
    bool failed = false;
    for (int64_t k = 0; k < count; k++) {
        failed |= j->pieces[k].failed;
        if (!failed) used += j->pieces[k].found.offsets[j->pieces[k].found.params];
    }
    failed = failed || start(d, h->params, used);
    used = 0;
    for (int64_t k = 0; k < count; k++) {
        qn_distinct *part = &j->pieces[k].found;
        if (!failed) {
            int64_t n = part->offsets[part->params];
            memcpy(d->values + used, part->values, (size_t)n * sizeof *d->values);
            memcpy(d->counts + used, part->counts, (size_t)n * sizeof *d->counts);
            for (int64_t i = 1; i <= part->params; i++) d->offsets[j->pieces[k].p0 + i] = used + part->offsets[i];
            used += n;
        }
        qn_distinct_free(part);
    }
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
