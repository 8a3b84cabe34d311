#include "nearest.h"

#include <stdbool.h>
#include <stddef.h>

#include "dispatch.h"
#include "threads.h"

enum {
    STRIP = 1024,       /* rows that one query scores at a time: their scores stay in the L1 cache */
    L1_BYTES = 1 << 14, /* of packed rows that all queries read in turn */
};

typedef struct {
    qn_best *best;
    int64_t n;
    const int32_t *sums;
    const float *factor, *scale, *offset;
    const uint8_t *rows, *queries;
    int64_t bytes;
} offer;

/* ---- the heap of one query ---- */

static bool is_worse(float score, int64_t id, float other, int64_t other_id) {
    return score < other || (score == other && id > other_id);
}

static void sink(float *scores, int64_t *ids, int64_t n, float score, int64_t id) {
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

static void rise(float *scores, int64_t *ids, int64_t at, float score, int64_t id) {
    for (; at > 0; at = (at - 1) / 2) {
        int64_t parent = (at - 1) / 2;
        if (!is_worse(score, id, scores[parent], ids[parent])) break;
        scores[at] = scores[parent], ids[at] = ids[parent];
    }
    scores[at] = score, ids[at] = id;
}

static void offer_scores(const qn_best *best, int64_t query, int64_t first_id, const float *scores, int64_t n) {
    float *kept = best->scores + query * best->k;
    int64_t *ids = best->ids + query * best->k, i = 0;
    if (best->k == 0) return;
    for (; i < n && first_id + i < best->k; i++) rise(kept, ids, first_id + i, scores[i], first_id + i);
    for (; i < n; i++) {
        int64_t ahead;
        qn_kernels()->first_above(scores + i, kept[0], n - i, &ahead); /* ids grow: an equal score is worse */
        i += ahead;
        if (i < n) sink(kept, ids, best->k, scores[i], first_id + i);
    }
}

/* ---- rows of codes ---- */

static void offer_sums(void *context, int64_t begin, int64_t end) {
    const offer *o = context;
    float scores[STRIP];
    for (int64_t query = begin; query < end; query++)
        for (int64_t i = 0; i < o->n; i += STRIP) {
            int64_t n = o->n - i < STRIP ? o->n - i : STRIP;
            qn_kernels()->score_sums(o->sums + query * o->n + i, o->scale + i, o->offset ? o->offset + i : NULL,
                                     o->factor[query], scores, n);
            offer_scores(o->best, query, o->best->seen + i, scores, n);
        }
}

void qn_best_of_sums(qn_best *best, const int32_t *sums, int64_t n, const float *factor, const float *scale,
                     const float *offset) {
    offer o = {.best = best, .n = n, .sums = sums, .factor = factor, .scale = scale, .offset = offset};
    qn_parallel_for(best->queries, 1, 4 * n * best->queries, offer_sums, &o);
    best->seen += n;
}

/* ---- rows of bits ---- */

static void offer_bits(void *context, int64_t begin, int64_t end) {
    const offer *o = context;
    int32_t distances[STRIP];
    float scores[STRIP];
    int64_t fitting = o->bytes ? L1_BYTES / o->bytes : STRIP;
    int64_t strip = fitting < 1 ? 1 : fitting > STRIP ? STRIP : fitting;
    for (int64_t i = 0; i < o->n; i += strip)
        for (int64_t query = begin; query < end; query++) {
            int64_t n = o->n - i < strip ? o->n - i : strip;
            qn_kernels()->hamming_rows(o->rows + i * o->bytes, n, o->queries + query * o->bytes, o->bytes, distances);
            for (int64_t j = 0; j < n; j++) scores[j] = (float)-distances[j];
            offer_scores(o->best, query, o->best->seen + i, scores, n);
        }
}

void qn_best_of_bits(qn_best *best, const uint8_t *rows, int64_t n, const uint8_t *queries, int64_t bytes) {
    offer o = {.best = best, .n = n, .rows = rows, .queries = queries, .bytes = bytes};
    qn_parallel_for(best->queries, 1, n * bytes, offer_bits, &o);
    best->seen += n;
}

/* ---- results ---- */

void qn_best_sort(qn_best *best) {
    int64_t kept = best->k < best->seen ? best->k : best->seen;
    for (int64_t query = 0; query < best->queries; query++) {
        float *scores = best->scores + query * best->k;
        int64_t *ids = best->ids + query * best->k;
        for (int64_t n = kept - 1; n > 0; n--) { /* the worst of the first n + 1 goes to place n */
            float score = scores[n];
            int64_t id = ids[n];
            scores[n] = scores[0], ids[n] = ids[0];
            sink(scores, ids, n, score, id);
        }
    }
}

typedef struct {
    const float *x, *candidates;
    int64_t count, d;
    double *y;
} rescoring;

static void dot_candidates(void *context, int64_t begin, int64_t end) {
    const rescoring *r = context;
    for (int64_t i = begin; i < end; i++)
        qn_kernels()->dot_f64(r->x + i / r->count * r->d, r->candidates + i * r->d, r->d, r->y + i);
}

void qn_dot_candidates(const float *x, const float *candidates, int64_t queries, int64_t count, int64_t d, double *y) {
    rescoring r = {x, candidates, count, d, y};
    qn_parallel_for(queries * count, 64, 4 * queries * count * d, dot_candidates, &r);
}
