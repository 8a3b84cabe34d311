#include "cholesky.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "slivers.h"
#include "threads.h"

enum {
    STRIP = 64, /* columns that are factored before the rows below them, which threads share */
    BAND = 4,   /* slivers that are solved together: the factor is read once for all of them */
};

/* h with its rows and columns in reverse is l l^T with l lower triangular, and r is l in reverse: the code below
 * factors and inverts l. l is in slivers, of n rows and columns, a multiple of 4: those that are added are those of the
 * identity. */
typedef struct {
    double *l;
    int64_t n, columns; /* columns: those of h */
    int64_t begin, end; /* of the strip */
    double *u;
    atomic_bool failed;
} factoring;

static double *sliver_at(const factoring *f, int64_t row) { return f->l + row * f->n; }

/* The 4 columns of x from j on, where x l^T = a; those in [first, j) are done, and before them x is zero. x replaces a.
 */
static void solve(const factoring *f, double *a, int64_t first, int64_t j) {
    const double *l = sliver_at(f, j);
    sliver_sums c;
    for (int t = 0; t < SLIVER; t++) sliver_load(a + (j + t) * SLIVER, c.sum[t]);
    c = sums_less(c, a + first * SLIVER, l + first * SLIVER, j - first);
    for (int t = 0; t < SLIVER; t++) {
        for (int k = 0; k < t; k++) {
            pair y = pair_of(l[(j + k) * SLIVER + t]);
            c.sum[t][0] -= c.sum[k][0] * y, c.sum[t][1] -= c.sum[k][1] * y;
        }
        pair y = pair_of(l[(j + t) * SLIVER + t]);
        c.sum[t][0] /= y, c.sum[t][1] /= y;
        sliver_store(a + (j + t) * SLIVER, c.sum[t]);
    }
}

/* The 4 x 4 block of the diagonal at row i, once the columns before it are done. */
static bool factor_diagonal(const factoring *f, int64_t i) {
    double *a = sliver_at(f, i), *at = a + i * SLIVER;
    sliver_sums c;
    for (int t = 0; t < SLIVER; t++) sliver_load(at + t * SLIVER, c.sum[t]);
    c = sums_less(c, a, a, i);
    for (int t = 0; t < SLIVER; t++) {
        double column[SLIVER];
        for (int r = t; r < SLIVER; r++) {
            column[r] = sums_get(&c, t, r);
            for (int k = 0; k < t; k++) column[r] -= at[k * SLIVER + r] * at[k * SLIVER + t];
        }
        if (!(column[t] > (double)f->columns * 0x1p-52 * at[t * SLIVER + t]) || !isfinite(column[t])) return false;
        double root = sqrt(column[t]);
        for (int r = 0; r < SLIVER; r++) at[t * SLIVER + r] = r < t ? 0 : r == t ? root : column[r] / root;
    }
    return true;
}

static void solve_strip(void *context, int64_t begin, int64_t end) {
    const factoring *f = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t band = begin; band < end; band += BAND)
        for (int64_t j = f->begin; j < f->end; j += SLIVER)
            for (int64_t s = band; s < least(band + BAND, end); s++) solve(f, sliver_at(f, f->end + s * SLIVER), 0, j);
    qn_fp_end(modes);
}

static bool factor(factoring *f) {
    for (f->begin = 0; f->begin < f->n; f->begin = f->end) {
        f->end = least(f->begin + STRIP, f->n);
        for (int64_t i = f->begin; i < f->end; i += SLIVER) {
            for (int64_t j = f->begin; j < i; j += SLIVER) solve(f, sliver_at(f, i), 0, j);
            if (!factor_diagonal(f, i)) return false;
        }
        int64_t below = f->n - f->end;
        double products = (double)below * (double)(f->end - f->begin) * (double)f->end;
        qn_parallel_for(below / SLIVER, BAND, work_bytes(products), solve_strip, f);
    }
    return true;
}

/* Rows of l^-T, which are columns of u in reverse: each begins at the diagonal. */
static void invert(void *context, int64_t begin, int64_t end) {
    factoring *f = context;
    double *x = qn_allocate(BAND * SLIVER * f->n, sizeof *x);
    if (!x) {
        atomic_store(&f->failed, true);
        return;
    }
    uint64_t modes = qn_fp_begin();
    int64_t last = f->columns - 1;
    for (int64_t band = begin; band < end; band += BAND) {
        int64_t count = least(band + BAND, end) - band, first = band * SLIVER;
        memset(x, 0, (size_t)(BAND * SLIVER * f->n) * sizeof *x);
        for (int64_t s = 0; s < count; s++)
            for (int64_t r = 0; r < SLIVER; r++) x[(s * f->n + first + s * SLIVER + r) * SLIVER + r] = 1;
        for (int64_t j = first; j < f->n; j += SLIVER)
            for (int64_t s = 0; s < count; s++) solve(f, x + s * f->n * SLIVER, first, j);
        for (int64_t i = 0; i < f->columns; i++)
            for (int64_t s = 0; s < count; s++)
                for (int64_t r = 0; r < SLIVER; r++) {
                    int64_t row = first + s * SLIVER + r;
                    if (row < f->columns) f->u[(last - i) * f->columns + last - row] = x[(s * f->n + i) * SLIVER + r];
                }
    }
    qn_fp_end(modes);
    free(x);
}

qn_factor_outcome qn_inverse_factor(const double *h, int64_t n, double *u) {
    factoring f = {.n = round_up(n, SLIVER), .columns = n, .u = u};
    int64_t elements;
    if (__builtin_mul_overflow(f.n, f.n, &elements)) return QN_FACTOR_NO_MEMORY;
    f.l = qn_allocate(elements, sizeof *f.l);
    if (!f.l) return QN_FACTOR_NO_MEMORY;
    uint64_t modes = qn_fp_begin();
    for (int64_t i = 0; i < f.n; i++)
        for (int64_t j = 0; j < f.n; j++)
            f.l[i / SLIVER * SLIVER * f.n + j * SLIVER + i % SLIVER] = j > i    ? 0
                                                                       : i >= n ? i == j
                                                                                : h[(n - 1 - i) * n + n - 1 - j];
    bool positive = factor(&f);
    if (positive) qn_parallel_for(f.n / SLIVER, BAND, work_bytes((double)elements * (double)n / 6), invert, &f);
    qn_fp_end(modes);
    free(f.l);
    return !positive ? QN_NOT_POSITIVE : atomic_load(&f.failed) ? QN_FACTOR_NO_MEMORY : QN_FACTORED;
}
