#include "nearest.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "allocate.h"
#include "dispatch.h"
#include "threads.h"

enum {
    STRIP = 1024,       /* rows that one query scores at a time: their scores stay in the L1 cache */
    L1_BYTES = 1 << 14, /* of packed rows that all queries read in turn */
    PARTS = 4,          /* of the rows for each thread: a thread that starts late takes fewer */
    PART_ROWS = 64,     /* rows of a part for each place of its heap, at least: filling heaps then costs little */
};

typedef struct {
    qn_best *best;
    int64_t n;
    const int32_t *sums;
    const double *factor, *scale, *offset;
    const uint8_t *rows, *queries;
    int64_t bytes;
    qn_best *parts; /* one for each of the equal parts of the rows */
    int64_t part_rows;
} offer;

/* ---- the heap of one query ---- */

static bool is_worse(double score, int64_t id, double other, int64_t other_id) {
    return score < other || (score == other && id > other_id);
}

static void sink(double *scores, int64_t *ids, int64_t n, double score, int64_t id) {
    int64_t at = 0;
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && is_worse(scores[child + 1], ids[child + 1], scores[child], ids[child])) child++;
        if (!is_worse(scores[child], ids[child], score, id)) break;
        scores[at] = scores[child], ids[at] = ids[child];
        at = child;
    }
    scores[at] = score, ids[at] = id;
}

static void rise(double *scores, int64_t *ids, int64_t at, double score, int64_t id) {
    for (; at > 0; at = (at - 1) / 2) {
        int64_t parent = (at - 1) / 2;
        if (!is_worse(score, id, scores[parent], ids[parent])) break;
        scores[at] = scores[parent], ids[at] = ids[parent];
    }
    scores[at] = score, ids[at] = id;
}

static double *scores_of(const qn_best *best, int64_t query) { return best->scores + query * best->k; }
static int64_t *ids_of(const qn_best *best, int64_t query) { return best->ids + query * best->k; }

/* The rows that come next go to free places, whatever their scores: how many of n do. */
static int64_t free_places(const qn_best *best, int64_t seen, int64_t n) {
    return seen < best->k ? least(best->k - seen, n) : 0;
}

/* ---- rows of codes ---- */

static void offer_scores(const qn_best *best, int64_t query, int64_t seen, const double *scores, int64_t n) {
    double *kept = scores_of(best, query);
    int64_t *ids = ids_of(best, query), i = 0;
    for (int64_t free = free_places(best, seen, n); i < free; i++)
        rise(kept, ids, seen + i, scores[i], best->first + seen + i);
    for (; i < n; i++) {
        int64_t ahead;
        qn_kernels()->first_above(scores + i, kept[0], n - i, &ahead); /* ids grow: an equal score is worse */
        i += ahead;
        if (i < n) sink(kept, ids, best->k, scores[i], best->first + seen + i);
    }
}

static void offer_sums(void *context, int64_t begin, int64_t end) {
    const offer *o = context;
    double scores[STRIP];
    for (int64_t query = begin; query < end; query++)
        for (int64_t i = 0; i < o->n; i += STRIP) {
            int64_t n = least(o->n - i, STRIP);
            qn_kernels()->score_sums(o->sums + query * o->n + i, o->scale + i, o->offset ? o->offset + i : NULL,
                                     o->factor[query], scores, n);
            offer_scores(o->best, query, o->best->seen + i, scores, n);
        }
}

void qn_best_of_sums(qn_best *best, const int32_t *sums, int64_t n, const double *factor, const double *scale,
                     const double *offset) {
    offer o = {.best = best, .n = n, .sums = sums, .factor = factor, .scale = scale, .offset = offset};
    if (best->k) qn_parallel_for(best->queries, 1, 4 * n * best->queries, offer_sums, &o);
    best->seen += n;
}

/* ---- rows of bits ---- */

static void offer_distances(const qn_best *best, int64_t query, int64_t seen, const int32_t *distances, int64_t n) {
    double *kept = scores_of(best, query);
    int64_t *ids = ids_of(best, query), i = 0;
    for (int64_t free = free_places(best, seen, n); i < free; i++)
        rise(kept, ids, seen + i, -distances[i], best->first + seen + i);
    for (; i < n; i++) {
        int64_t ahead;
        qn_kernels()->first_below(distances + i, (int32_t)-kept[0], n - i, &ahead);
        i += ahead;
        if (i < n) sink(kept, ids, best->k, -distances[i], best->first + seen + i);
    }
}

/* Offers the n rows from `rows` on to the queries [begin, end) of best. */
static void offer_strips(const offer *o, const qn_best *best, const uint8_t *rows, int64_t n, int64_t begin,
                         int64_t end) {
    int32_t distances[STRIP];
    int64_t strip = o->bytes ? most(1, least(L1_BYTES / o->bytes, STRIP)) : STRIP;
    for (int64_t i = 0; i < n; i += strip)
        for (int64_t query = begin; query < end; query++) {
            int64_t count = least(n - i, strip);
            qn_kernels()->hamming_rows(rows + i * o->bytes, count, o->queries + query * o->bytes, o->bytes, distances);
            offer_distances(best, query, best->seen + i, distances, count);
        }
}

static void offer_bits(void *context, int64_t begin, int64_t end) {
    const offer *o = context;
    offer_strips(o, o->best, o->rows, o->n, begin, end);
}

static void offer_part(void *context, int64_t begin, int64_t end) {
    const offer *o = context;
    for (int64_t part = begin; part < end; part++) {
        int64_t start = part * o->part_rows, n = least(o->n - start, o->part_rows);
        offer_strips(o, o->parts + part, o->rows + start * o->bytes, n, 0, o->best->queries);
        o->parts[part].seen = n;
    }
}

/* Offers what a part kept. The order of (score, id) is total, so any split keeps the same rows. */
static void join(const qn_best *best, const qn_best *part, int64_t seen) {
    int64_t count = least(part->k, part->seen);
    for (int64_t query = 0; query < best->queries; query++) {
        double *kept = scores_of(best, query), *scores = scores_of(part, query);
        int64_t *ids = ids_of(best, query), *offered = ids_of(part, query), taken = least(best->k, seen);
        for (int64_t i = 0; i < count; i++)
            if (taken < best->k) rise(kept, ids, taken++, scores[i], offered[i]);
            else if (is_worse(kept[0], ids[0], scores[i], offered[i])) sink(kept, ids, best->k, scores[i], offered[i]);
    }
}

/* A few queries: threads share the rows, each part with heaps of its own. false: without memory for them. */
static bool offer_parts(offer *o, int64_t parts) {
    const qn_best *best = o->best;
    int64_t places = best->queries * best->k;
    qn_best *part = malloc((size_t)parts * sizeof *part);
    double *scores = qn_allocate(parts * places, sizeof *scores);
    int64_t *ids = qn_allocate(parts * places, sizeof *ids);
    bool done = part && scores && ids;
    if (done) {
        o->parts = part, o->part_rows = (o->n + parts - 1) / parts;
        for (int64_t p = 0; p < parts; p++)
            part[p] = (qn_best){.scores = scores + p * places,
                                .ids = ids + p * places,
                                .queries = best->queries,
                                .k = best->k,
                                .first = best->first + best->seen + p * o->part_rows};
        qn_parallel_for(parts, 1, o->n * o->bytes, offer_part, o);
        for (int64_t p = 0; p < parts; p++) join(best, part + p, best->seen + p * o->part_rows);
    }
    free(part), free(scores), free(ids);
    return done;
}

void qn_best_of_bits(qn_best *best, const uint8_t *rows, int64_t n, const uint8_t *queries, int64_t bytes) {
    offer o = {.best = best, .n = n, .rows = rows, .queries = queries, .bytes = bytes};
    int64_t threads = qn_num_threads(), parts = best->k ? least(PARTS * threads, n / best->k / PART_ROWS) : 0;
    bool share = best->queries && best->queries < threads && parts > 1 && n * bytes >= QN_PARALLEL_BYTES_AWAKE;
    if (best->k && !(share && offer_parts(&o, parts)))
        qn_parallel_for(best->queries, 1, n * bytes * best->queries, offer_bits, &o);
    best->seen += n;
}

/* ---- results ---- */

void qn_best_sort(qn_best *best) {
    int64_t kept = least(best->k, best->seen);
    for (int64_t query = 0; query < best->queries; query++) {
        double *scores = scores_of(best, query);
        int64_t *ids = ids_of(best, query);
        for (int64_t n = kept - 1; n > 0; n--) { /* the worst of the first n + 1 goes to place n */
            double score = scores[n];
            int64_t id = ids[n];
            scores[n] = scores[0], ids[n] = ids[0];
            sink(scores, ids, n, score, id);
        }
    }
}

typedef struct {
    const float *x, *rows;
    const int64_t *ids;
    int64_t count, d;
    double *y;
} rescoring;

static void dot_candidates(void *context, int64_t begin, int64_t end) {
    const rescoring *r = context;
    for (int64_t i = begin; i < end; i++)
        qn_kernels()->dot_f64(r->x + i / r->count * r->d, r->rows + r->ids[i] * r->d, r->d, r->y + i);
}

void qn_dot_candidates(const float *x, const float *rows, const int64_t *ids, int64_t queries, int64_t count, int64_t d,
                       double *y) {
    rescoring r = {x, rows, ids, count, d, y};
    qn_parallel_for(queries * count, 64, 4 * queries * count * d, dot_candidates, &r);
}
