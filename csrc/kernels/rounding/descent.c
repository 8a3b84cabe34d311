#include "descent.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "slivers.h"
#include "threads.h"

enum { BAND = 16, BAND_ROWS = BAND * SLIVER }; /* slivers that share each read of h */

typedef struct {
    const qn_rounded *r;
    int64_t groups;
    double *objective;
    int32_t qmin, qmax;
    int64_t sweeps;
    int16_t *codes;
    float *scale;
    atomic_bool failed;
} job;

/* BAND_ROWS rows from `row` on, and what is computed from them. */
typedef struct {
    int64_t row, count; /* rows of the matrix; those after them are zeros */
    double *a;          /* [sliver][column][4] */
    double *strip;      /* 4 columns of h, [row of h][4] */
    double *results;
} band;

static double *sliver_of(const job *j, const band *b, int64_t s) { return b->a + s * j->r->columns * SLIVER; }

/* `at` is the place of a scale: that of a row and a group. */
static float step_of(const job *j, int64_t row, int64_t at, int16_t code) {
    const qn_books *books = j->r->books;
    return books ? books->levels[row * books->step + code] : (float)((int64_t)code - j->r->zero[at]);
}

static double level_of(const job *j, int64_t row, int64_t at, int16_t code) {
    return (double)(j->r->scale[at] * step_of(j, row, at, code)); /* rounded once, to float32 */
}

/* The slivers hold w - level, of which less products are those of level - w; or the steps. */
static void fill(const job *j, const band *b, const int16_t *codes, bool errors) {
    const qn_rounded *r = j->r;
    memset(b->a, 0, (size_t)(BAND_ROWS * r->columns) * sizeof *b->a);
    for (int64_t k = 0; k < b->count; k++)
        for (int64_t g = 0; g < j->groups; g++) {
            int64_t row = b->row + k, at = row * j->groups + g, end = least((g + 1) * r->group, r->columns);
            double *a = sliver_of(j, b, k / SLIVER) + k % SLIVER;
            for (int64_t i = g * r->group; i < end; i++) {
                int16_t code = codes[row * r->columns + i];
                a[i * SLIVER] = errors ? (double)r->w[row * r->columns + i] - level_of(j, row, at, code)
                                       : (double)step_of(j, row, at, code);
            }
        }
}

/* The 4 columns of h from `first` on, which are its rows, up to row n; zeros past the last column. */
static void fill_strip(const job *j, const band *b, int64_t first, int64_t n) {
    for (int64_t c = 0; c < SLIVER; c++) {
        bool inside = first + c < j->r->columns;
        const double *row = j->r->h + (inside ? first + c : 0) * j->r->columns;
        for (int64_t i = 0; i < n; i++) b->strip[i * SLIVER + c] = inside ? row[i] : 0;
    }
}

/* Processes the rows [begin, end), with `results` doubles for a band. */
static void walk(job *j, int64_t begin, int64_t end, int64_t results, void (*process)(const job *, const band *)) {
    int64_t columns = j->r->columns;
    double *scratch = qn_allocate((BAND_ROWS + SLIVER) * columns + results, sizeof *scratch);
    if (!scratch) {
        atomic_store(&j->failed, true);
        return;
    }
    uint64_t modes = qn_fp_begin();
    double *strip = scratch + BAND_ROWS * columns;
    for (int64_t row = begin; row < end; row += BAND_ROWS) {
        band b = {row, least(BAND_ROWS, end - row), scratch, strip, strip + SLIVER * columns};
        process(j, &b);
    }
    qn_fp_end(modes);
    free(scratch);
}

/* `products` for each element of w. */
static bool run(job *j, double products, qn_piece piece) {
    const qn_rounded *r = j->r;
    j->groups = r->columns ? (r->columns - 1) / r->group + 1 : 0;
    qn_parallel_for(r->rows, BAND_ROWS, work_bytes(products * (double)r->rows * (double)r->columns), piece, j);
    return !atomic_load(&j->failed);
}

/* ---- objective ---- */

static void band_objective(const job *j, const band *b) {
    int64_t columns = j->r->columns;
    double sum[BAND_ROWS] = {0};
    fill(j, b, j->r->codes, true);
    for (int64_t p = 0; p < columns; p += SLIVER) {
        int64_t end = least(p + SLIVER, columns);
        fill_strip(j, b, p, end);
        for (int64_t s = 0; s < BAND; s++) {
            const double *a = sliver_of(j, b, s);
            sliver_sums c = sums_less((sliver_sums){0}, a, b->strip, p);
            for (int64_t i = p; i < end; i++)
                for (int k = 0; k < SLIVER; k++) {
                    double before = sums_get(&c, (int)(i - p), k), e = -a[i * SLIVER + k];
                    for (int64_t m = p; m < i; m++) before -= a[m * SLIVER + k] * b->strip[m * SLIVER + i - p];
                    sum[s * SLIVER + k] += e * (2 * before + e * b->strip[i * SLIVER + i - p]);
                }
        }
    }
    memcpy(j->objective + b->row, sum, (size_t)b->count * sizeof *sum);
}

static void objective_piece(void *context, int64_t begin, int64_t end) { walk(context, begin, end, 0, band_objective); }

bool qn_rounding_objective(const qn_rounded *r, double *objective) {
    job j = {.r = r, .objective = objective};
    return run(&j, (double)r->columns / 2, objective_piece);
}

/* ---- descent ---- */

/* The best code of one column of `group`; `gradient` is (level - w) h of the row. Returns whether the code changed. */
static bool improve(const job *j, int64_t row, int64_t column, int64_t group, double *gradient) {
    const double *h = j->r->h + column * j->r->columns;
    const qn_books *books = j->r->books;
    int64_t at = row * j->groups + group;
    double cost = h[column] * (double)j->r->scale[at];
    if (!(cost > 0) || (!books && !(fabs(gradient[column]) > 0.5 * cost))) return false;
    int16_t *code = j->codes + row * j->r->columns + column, best;
    double step = -gradient[column] / cost, low = j->qmin - *code, high = j->qmax - *code;
    if (books)
        best = (int16_t)qn_nearest_level(books->levels + row * books->step, books->count,
                                         (double)step_of(j, row, at, *code) + step);
    else best = (int16_t)(*code + (int)rint(step < low ? low : step > high ? high : step));
    double change = level_of(j, row, at, best) - level_of(j, row, at, *code), own = change * change * h[column];
    if (!(2 * change * gradient[column] + own < -0x1p-30 * own)) return false;
    for (int64_t i = 0; i < j->r->columns; i++) gradient[i] += change * h[i];
    *code = best;
    return true;
}

static void band_descend(const job *j, const band *b) {
    int64_t columns = j->r->columns;
    double *gradient = b->results; /* [row][column] */
    fill(j, b, j->codes, true);
    for (int64_t p = 0; p < columns; p += SLIVER) {
        fill_strip(j, b, p, columns);
        for (int64_t s = 0; s < BAND; s++) {
            sliver_sums c = sums_less((sliver_sums){0}, sliver_of(j, b, s), b->strip, columns);
            for (int64_t i = p; i < least(p + SLIVER, columns); i++)
                for (int k = 0; k < SLIVER; k++)
                    gradient[(s * SLIVER + k) * columns + i] = sums_get(&c, (int)(i - p), k);
        }
    }
    bool moves[BAND_ROWS]; /* a row that a sweep did not change ends */
    memset(moves, 1, sizeof moves);
    bool any = true;
    for (int64_t sweep = 0; any && sweep < j->sweeps; sweep++) {
        bool moved[BAND_ROWS] = {0};
        for (int64_t i = 0; i < columns; i++) {
            int64_t group = i / j->r->group;
            for (int64_t k = 0; k < b->count; k++)
                if (moves[k]) moved[k] |= improve(j, b->row + k, i, group, gradient + k * columns);
        }
        memcpy(moves, moved, sizeof moves);
        any = memchr(moved, true, sizeof moved) != NULL;
    }
}

static void descend_piece(void *context, int64_t begin, int64_t end) {
    job *j = context;
    walk(j, begin, end, BAND_ROWS * j->r->columns, band_descend);
}

bool qn_descend(const qn_rounded *r, int32_t qmin, int32_t qmax, int64_t sweeps, int16_t *codes) {
    job j = {.r = r, .qmin = qmin, .qmax = qmax, .sweeps = sweeps, .codes = codes};
    memcpy(codes, r->codes, (size_t)(r->rows * r->columns) * sizeof *codes);
    return run(&j, (double)r->columns, descend_piece);
}

/* ---- scales ---- */

/* The normal equations of the scales of 4 rows, t = code - zero and g, h groups: normal[g][h] = t_g h t_h for g <= h,
 * right[g] = t_g h w. */
typedef struct {
    pair (*normal)[2], (*right)[2];
} equations;

static equations equations_of(const job *j, const band *b, int64_t s) {
    int64_t groups = j->groups, unknowns = groups * groups;
    pair(*at)[2] = (pair(*)[2])b->results + s * (unknowns + groups);
    return (equations){at, at + unknowns};
}

static void add_strip(const job *j, const band *b, int64_t s, int64_t p) {
    const qn_rounded *r = j->r;
    const double *a = sliver_of(j, b, s);
    equations e = equations_of(j, b, s);
    int64_t end = least(p + SLIVER, r->columns);
    _Alignas(pair) double w[SLIVER][SLIVER] = {0};
    for (int64_t i = p; i < end; i++)
        for (int64_t k = 0; k < least(SLIVER, b->count - s * SLIVER); k++)
            w[i - p][k] = (double)r->w[(b->row + s * SLIVER + k) * r->columns + i];
    for (int64_t g = 0; g < j->groups; g++) {
        int64_t first = g * r->group, n = least(r->group, r->columns - first);
        sliver_sums c = sums_less((sliver_sums){0}, a + first * SLIVER, b->strip + first * SLIVER, n);
        for (int64_t i = p; i < end; i++) {
            const pair *less = c.sum[i - p];
            pair x[2];
            sliver_load(w[i - p], x);
            e.right[g][0] -= less[0] * x[0], e.right[g][1] -= less[1] * x[1];
            int64_t h = i / r->group;
            if (h < g) continue;
            sliver_load(a + i * SLIVER, x);
            pair *to = e.normal[g * j->groups + h];
            to[0] -= less[0] * x[0], to[1] -= less[1] * x[1];
        }
    }
}

void qn_solve_positive(double *a, double *x, const double *diagonal, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        double *row = a + k * n, pivot = row[k];
        if (!(pivot > 0x1p-40 * diagonal[k])) {
            memset(row, 0, (size_t)n * sizeof *row);
            x[k] = 0;
            continue;
        }
        double root = sqrt(pivot);
        for (int64_t i = k; i < n; i++) row[i] /= root;
        x[k] /= root;
        for (int64_t i = k + 1; i < n; i++) {
            x[i] -= row[i] * x[k];
            for (int64_t m = i; m < n; m++) a[i * n + m] -= row[i] * row[m];
        }
    }
    for (int64_t k = n - 1; k >= 0; k--) {
        const double *row = a + k * n;
        for (int64_t i = k + 1; i < n; i++) x[k] -= row[i] * x[i];
        x[k] = row[k] > 0 ? x[k] / row[k] : 0;
    }
}

/* The part of a step that changes no scale by more than a factor 4 and leaves all of them normal. */
static double allowed_part(const float *scale, const double *step, int64_t n) {
    double part = 1;
    for (int64_t g = 0; g < n; g++) {
        double s = (double)scale[g], low = s / 4 < FLT_MIN ? FLT_MIN : s / 4, high = 4 * s > FLT_MAX ? FLT_MAX : 4 * s;
        double room = step[g] < 0 ? low - s : high - s;
        if (fabs(step[g]) * part > fabs(room)) part = room / step[g];
    }
    return part;
}

/* What the rounding of levels to float32 may add to the objective: its errors have 2^-24 of the levels, and four times
 * that is a margin. */
static double rounding_noise(const job *j, int64_t row) {
    const qn_rounded *r = j->r;
    double levels = 0, errors = 0;
    for (int64_t i = 0; i < r->columns; i++) {
        int64_t at = row * r->columns + i;
        double h = r->h[i * r->columns + i], level = level_of(j, row, row * j->groups + i / r->group, r->codes[at]);
        double e = level - (double)r->w[at];
        levels += level * level * h, errors += e * e * h;
    }
    return 0x1p-22 * sqrt(levels * errors);
}

static void refit_row(const job *j, const band *b, int64_t k, double *scratch) {
    int64_t n = j->groups, row = b->row + k;
    const float *scale = j->r->scale + row * n;
    float *result = j->scale + row * n;
    equations e = equations_of(j, b, k / SLIVER);
    double *a = scratch, *step = a + n * n, *right = step + n, *diagonal = right + n;
    for (int64_t g = 0; g < n; g++) {
        right[g] = e.right[g][k % SLIVER / 2][k % 2];
        for (int64_t h = g; h < n; h++) a[g * n + h] = e.normal[g * n + h][k % SLIVER / 2][k % 2];
        diagonal[g] = a[g * n + g];
    }
    for (int64_t g = 0; g < n; g++)
        for (int64_t h = g; h < n; h++) {
            right[g] -= a[g * n + h] * (double)scale[h];
            if (h > g) right[h] -= a[g * n + h] * (double)scale[g];
        }
    memcpy(step, right, (size_t)n * sizeof *step);
    qn_solve_positive(a, step, diagonal, n);
    double part = allowed_part(scale, step, n), gain = 0;
    for (int64_t g = 0; g < n; g++) {
        result[g] = (float)((double)scale[g] + part * step[g]);
        step[g] = (double)result[g] - (double)scale[g];
    }
    for (int64_t g = 0; g < n; g++) {
        double slope = right[g] * 2 - diagonal[g] * step[g];
        for (int64_t h = g + 1; h < n; h++) slope -= 2 * e.normal[g * n + h][k % SLIVER / 2][k % 2] * step[h];
        gain += slope * step[g];
    }
    if (!(gain > rounding_noise(j, row))) memcpy(result, scale, (size_t)n * sizeof *result);
}

static int64_t equations_size(int64_t groups) { return BAND_ROWS * (groups + 1) * groups; }

static void band_refit(const job *j, const band *b) {
    int64_t size = equations_size(j->groups);
    memset(b->results, 0, (size_t)size * sizeof *b->results);
    fill(j, b, j->r->codes, false);
    for (int64_t p = 0; p < j->r->columns; p += SLIVER) {
        fill_strip(j, b, p, j->r->columns);
        for (int64_t s = 0; s < BAND; s++) add_strip(j, b, s, p);
    }
    for (int64_t k = 0; k < b->count; k++) refit_row(j, b, k, b->results + size);
}

static void refit_piece(void *context, int64_t begin, int64_t end) {
    job *j = context;
    walk(j, begin, end, equations_size(j->groups) + (j->groups + 3) * j->groups, band_refit);
}

bool qn_refit_scales(const qn_rounded *r, float *scale) {
    job j = {.r = r, .scale = scale};
    return run(&j, (double)r->columns, refit_piece);
}
