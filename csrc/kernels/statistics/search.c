#include "search.h"

#include <float.h>
#include <stdlib.h>

#include "search_private.h"
#include "threads.h"

enum { SEARCH_BYTES = 1 << 18 }; /* the search of a parameter takes as long as so much memory traffic */

/* ---- percentile ---- */

static double share_outside(const qn_sketch *r, double low, double high) {
    return (beyond(r, true, -low) + beyond(r, false, high)) / r->total;
}

static void search_percentile(const qn_sketch *r, const qn_search_spec *p, double *low, double *high, double *error) {
    double tail = r->total * (1 - p->share);
    if (p->symmetric) {
        *high = quantile(r, true, false, tail), *low = -*high;
    } else {
        *high = quantile(r, false, false, tail / 2), *low = -quantile(r, false, true, tail / 2);
    }
    *error = share_outside(r, *low, *high);
}

/* ---- all parameters ---- */

typedef struct {
    const qn_histogram *h;
    const qn_distinct *distinct;
    const qn_search_spec *spec;
    int64_t n; /* ranges of each parameter; 0: search */
    const double *lows, *highs;
    double *low, *high, *error;
    _Atomic bool failed;
} range_search;

static void search_sketch(const range_search *j, int64_t k, qn_search_room *space) {
    qn_sketch r = sketch_of(j->h, j->spec, k);
    double *low = j->low + k, *high = j->high + k, *error = j->error + k;
    switch (j->spec->criterion) {
    case QN_ENTROPY: qn_search_entropy(&r, j->spec, space, low, high, error); break;
    case QN_PERCENTILE: search_percentile(&r, j->spec, low, high, error); break;
    default: {
        qn_points v = qn_points_of(&r, j->distinct, k, space);
        if (v.n) qn_search_points(&r, &v, j->spec, low, high, error);
        else qn_search_mse(&r, j->spec, space, low, high, error);
    }
    }
}

static void errors_of_sketch(const range_search *j, int64_t k, qn_search_room *space) {
    const qn_search_spec *p = j->spec;
    qn_sketch r = sketch_of(j->h, p, k);
    qn_sides s = {0};
    qn_points v = {0};
    qn_linear_bins l = {0};
    qn_bin_sums sum = {0};
    outliers apart = outliers_of(&r);
    bool tiny = fmax(extreme(&r, true), extreme(&r, false)) < FLT_MIN;
    if ((p->criterion == QN_MSE || p->criterion == QN_SQUARE) && !tiny) {
        v = qn_points_of(&r, j->distinct, k, space);
        if (!v.n) s = qn_sides_of(&r, p->symmetric, space);
    }
    if (p->criterion == QN_ENTROPY && !tiny) {
        l = qn_linear_of(&r, p->symmetric, space);
        sum = qn_sums_of(space->counts, l.bins, space->sums);
    }
    for (int64_t i = k * j->n; i < (k + 1) * j->n; i++) {
        double low = j->lows[i], high = j->highs[i];
        if (p->criterion == QN_PERCENTILE) {
            j->error[i] = share_outside(&r, low, high);
        } else if (p->criterion == QN_APART) {
            j->error[i] = apart.count;
        } else if (p->criterion == QN_APART_FROM) {
            j->error[i] = apart.from;
        } else if (tiny) {
            j->error[i] = 0;
        } else if (p->criterion == QN_ENTROPY) {
            j->error[i] = qn_entropy_error(p, &l, &sum, space, low, high);
        } else if (p->criterion == QN_SQUARE) {
            j->error[i] = v.n ? v.square / v.total : qn_mean_square(&s, p->symmetric);
        } else {
            j->error[i] = v.n ? qn_points_mse(&v, p, low, high) : qn_mse(&s, p, low, high);
        }
    }
}

static void search_piece(void *context, int64_t begin, int64_t end) {
    range_search *j = context;
    uint64_t modes = qn_fp_begin();
    qn_search_room *space = malloc(sizeof *space);
    if (!space) j->failed = true;
    for (int64_t k = begin; k < end && space; k++) {
        if (j->n) errors_of_sketch(j, k, space);
        else search_sketch(j, k, space);
    }
    free(space);
    qn_fp_end(modes);
}

int qn_search(const qn_histogram *h, const qn_distinct *d, const qn_search_spec *spec, double *low, double *high,
              double *error) {
    range_search j = {.h = h, .distinct = d, .spec = spec, .low = low, .high = high, .error = error};
    qn_parallel_for(h->params, 1, h->params * SEARCH_BYTES, search_piece, &j);
    return j.failed ? -1 : 0;
}

int qn_search_errors(const qn_histogram *h, const qn_distinct *d, const qn_search_spec *spec, int64_t n,
                     const double *low, const double *high, double *error) {
    range_search j = {.h = h, .distinct = d, .spec = spec, .n = n, .lows = low, .highs = high, .error = error};
    if (n) qn_parallel_for(h->params, 1, h->params * SEARCH_BYTES, search_piece, &j);
    return j.failed ? -1 : 0;
}
