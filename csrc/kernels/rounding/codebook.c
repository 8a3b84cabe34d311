#include "codebook.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "descent.h"
#include "qparams.h"
#include "slivers.h"
#include "threads.h"

enum {
    EXACT = 1 << 14, /* weights of a row whose levels are the exact minimum */
    RUNS = 1 << 12,  /* of longer rows */
    ITERATIONS = 100,
    LEVELS = 256,
    BAND = 16, /* rows that share each read of h */
    PANEL = 8, /* columns of h side by side */
};

/* ---- levels of least squares of one row: k-means in one dimension ---- */

typedef struct {
    float x, weight;
} weighted;

/* The sorted weights of a row as sums before each of them, and its cut into runs. */
typedef struct {
    weighted *sorted;
    double (*sums)[3]; /* weight, weight x, weight x^2 of the elements before */
    int64_t *ends;     /* of the runs */
    double *cost[2];   /* of the best clusters of the first runs */
    int32_t *starts;   /* [level][run]: where the last cluster of the best ones starts */
    int64_t runs, n;
    double middle; /* subtracted from x, which keeps the digits of the sums */
} clusters;

typedef struct {
    const float *w, *importance;
    int64_t rows, columns;
    int32_t count;
    float *levels;
    double least; /* importance */
    atomic_bool failed;
} cluster_job;

/* Equal elements are alike, so that the result is one for any order in which qsort leaves them. */
static int by_value(const void *a, const void *b) {
    const weighted *s = a, *t = b;
    if (s->x != t->x) return s->x < t->x ? -1 : 1;
    return (s->weight > t->weight) - (s->weight < t->weight);
}

static double spread(const clusters *c, int64_t first, int64_t end) {
    const double *a = c->sums[first], *b = c->sums[end];
    double weight = b[0] - a[0], sum = b[1] - a[1], cost = b[2] - a[2] - sum * sum / weight;
    return cost > 0 ? cost : 0;
}

static double run_spread(const clusters *c, int64_t first, int64_t end) {
    return spread(c, first ? c->ends[first - 1] : 0, c->ends[end - 1]);
}

/* The best start of the last of `level` + 1 clusters for the runs up to each j in [low, high], which rises with j. */
static void choose_starts(const clusters *c, int32_t level, int64_t low, int64_t high, int64_t first, int64_t last) {
    if (low > high) return;
    const double *before = c->cost[(level + 1) % 2];
    int64_t j = low + (high - low) / 2, best = most(first, level);
    double least_cost = INFINITY;
    for (int64_t i = best; i <= least(last, j); i++) {
        double cost = before[i - 1] + run_spread(c, i, j + 1);
        if (cost < least_cost) least_cost = cost, best = i;
    }
    c->cost[level % 2][j] = least_cost;
    c->starts[level * c->runs + j] = (int32_t)best;
    choose_starts(c, level, low, j - 1, first, best);
    choose_starts(c, level, j + 1, high, best, last);
}

/* Never outside of its cluster: behind an outlier, differences of the sums may hold nothing but rounding. */
static double mean(const clusters *c, int64_t first, int64_t end) {
    const double *a = c->sums[first], *b = c->sums[end];
    double x = c->middle + (b[1] - a[1]) / (b[0] - a[0]);
    double low = (double)c->sorted[first].x, high = (double)c->sorted[end - 1].x;
    x = x > low ? x : low; /* NaN, where weights underflow: low */
    return x < high ? x : high;
}

/* The first sorted weight that is nearer to the level above a boundary. */
static int64_t first_above(const clusters *c, int64_t low, double boundary) {
    for (int64_t n = c->n - low; n > 0;) {
        int64_t half = n / 2;
        bool below = (double)c->sorted[low + half].x <= boundary;
        low = below ? low + half + 1 : low;
        n = below ? n - half - 1 : half;
    }
    return low;
}

/* Moves the boundaries halfway between the means, until none moves. */
static void settle(const clusters *c, int64_t *bounds, int64_t used) {
    for (int iteration = 0; iteration < ITERATIONS; iteration++) {
        bool moved = false;
        double below = mean(c, bounds[0], bounds[1]);
        for (int64_t k = 1; k < used; k++) {
            double above = mean(c, bounds[k], bounds[k + 1]);
            int64_t at = first_above(c, bounds[k - 1], 0.5 * (below + above));
            below = above;
            if (at == bounds[k] || at <= bounds[k - 1] || at >= bounds[k + 1]) continue;
            bounds[k] = at, moved = true;
        }
        if (!moved) return;
    }
}

static void cut_into_runs(clusters *c) {
    int64_t size = c->n <= EXACT ? 1 : (c->n + RUNS - 1) / RUNS;
    c->runs = 0;
    for (int64_t end = size; end < c->n + size; end += size) {
        end = least(end, c->n);
        while (end < c->n && c->sorted[end].x == c->sorted[end - 1].x) end++; /* equal weights stay together */
        c->ends[c->runs++] = end;
    }
}

static void cluster(clusters *c, int32_t count, float *levels) {
    int64_t used, bounds[LEVELS + 1];
    c->middle = 0;
    for (int64_t i = 0; i < c->n; i++) c->middle += (double)c->sorted[i].x / (double)c->n;
    c->sums[0][0] = c->sums[0][1] = c->sums[0][2] = 0;
    for (int64_t i = 0; i < c->n; i++) {
        double x = (double)c->sorted[i].x - c->middle, weight = (double)c->sorted[i].weight;
        c->sums[i + 1][0] = c->sums[i][0] + weight;
        c->sums[i + 1][1] = c->sums[i][1] + weight * x;
        c->sums[i + 1][2] = c->sums[i][2] + weight * x * x;
    }
    cut_into_runs(c);
    used = least(count, c->runs);
    for (int64_t j = 0; j < c->runs; j++) c->cost[0][j] = run_spread(c, 0, j + 1);
    for (int32_t level = 1; level < used; level++) choose_starts(c, level, level, c->runs - 1, level, c->runs - 1);
    int64_t j = c->runs - 1;
    bounds[used] = c->n;
    for (int64_t level = used - 1; level > 0; level--) {
        int64_t start = c->starts[level * c->runs + j];
        bounds[level] = c->ends[start - 1];
        j = start - 1;
    }
    bounds[0] = 0;
    if (c->n > EXACT) settle(c, bounds, used);
    for (int32_t k = 0; k < count; k++) {
        int64_t at = least(k, used - 1);
        levels[k] = (float)mean(c, bounds[at], bounds[at + 1]);
    }
}

static void cluster_piece(void *context, int64_t begin, int64_t end) {
    cluster_job *j = context;
    int64_t n = j->columns, runs = n <= EXACT ? n : least(n, RUNS + 1);
    clusters c = {.n = n};
    c.sorted = qn_allocate(n, sizeof *c.sorted), c.sums = qn_allocate(n + 1, sizeof *c.sums);
    c.ends = qn_allocate(runs, sizeof *c.ends);
    c.cost[0] = qn_allocate(runs, sizeof(double)), c.cost[1] = qn_allocate(runs, sizeof(double));
    c.starts = qn_allocate(runs * j->count, sizeof *c.starts);
    if (c.sorted && c.sums && c.ends && c.cost[0] && c.cost[1] && c.starts) {
        uint64_t modes = qn_fp_begin();
        for (int64_t row = begin; row < end; row++) {
            for (int64_t i = 0; i < n; i++) {
                double weight = j->importance ? (double)j->importance[i] : 1;
                float x = j->w[row * n + i] + 0.0f; /* no -0, which compares equal to 0 */
                c.sorted[i] = (weighted){x, (float)(weight > j->least ? weight : j->least)};
            }
            qsort(c.sorted, (size_t)n, sizeof *c.sorted, by_value);
            cluster(&c, j->count, j->levels + row * j->count);
        }
        qn_fp_end(modes);
    } else atomic_store(&j->failed, true);
    free(c.sorted), free(c.sums), free(c.ends), free(c.cost[0]), free(c.cost[1]), free(c.starts);
}

bool qn_cluster_rows(const float *w, const float *importance, int64_t rows, int64_t columns, int32_t count,
                     float *levels) {
    cluster_job j = {w, importance, rows, columns, count, levels, .least = 1};
    if (!columns) {
        memset(levels, 0, (size_t)(rows * count) * sizeof *levels);
        return true;
    }
    if (importance) {
        double sum = 0;
        for (int64_t i = 0; i < columns; i++) sum += (double)importance[i];
        j.least = sum > 0 ? sum / (double)columns * 0x1p-20 : 1;
    }
    double steps = (double)rows * (double)columns * 16 * count;
    qn_parallel_for(rows, 1, work_bytes(steps), cluster_piece, &j);
    return !atomic_load(&j.failed);
}

/* ---- codes and scales ---- */

typedef struct {
    const float *w, *importance;
    int64_t columns, group, groups;
    const qn_books *books;
    const float *given;
    float *scale;
    int16_t *codes;
} group_job;

static void code_rows(void *context, int64_t begin, int64_t end) {
    const group_job *j = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < j->columns; i++) {
            double scale = (double)j->given[row * j->groups + i / j->group];
            const float *levels = j->books->levels + row * j->books->step;
            j->codes[row * j->columns + i] =
                (int16_t)qn_nearest_level(levels, j->books->count, (double)j->w[row * j->columns + i] / scale);
        }
    qn_fp_end(modes);
}

static int64_t groups_of(int64_t columns, int64_t group) { return columns / group + (columns % group > 0); }

void qn_nearest_codes(const float *w, int64_t rows, int64_t columns, int64_t group, const qn_books *books,
                      const float *scale, int16_t *codes) {
    group_job j = {.w = w,
                   .columns = columns,
                   .group = group,
                   .groups = groups_of(columns, group),
                   .books = books,
                   .given = scale,
                   .codes = codes};
    qn_parallel_for(rows, 1, work_bytes((double)rows * (double)columns * 32), code_rows, &j);
}

/* The error of the codes nearest to the weights with a scale; next: the scale of least squares of these codes. */
static double scale_error(const float *w, const float *importance, int64_t n, const float *levels, int32_t count,
                          float scale, double *next) {
    double error = 0, products = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double weight = importance ? (double)importance[i] : 1;
        double level = (double)levels[qn_nearest_level(levels, count, (double)w[i] / (double)scale)];
        double e = (double)(scale * (float)level) - (double)w[i];
        error += weight * e * e;
        products += weight * level * (double)w[i], squares += weight * level * level;
    }
    *next = squares > 0 ? products / squares : 0;
    return error;
}

static float search_scale(const float *w, const float *importance, int64_t n, const qn_books *books) {
    double largest = 0, best = INFINITY, next = 0, kept = 0;
    float chosen = 1;
    for (int64_t i = 0; i < n; i++) largest = fabs((double)w[i]) > largest ? fabs((double)w[i]) : largest;
    if (!(largest > 0)) return 1;
    for (int step = 0; step <= 40; step++) {
        float scale = qn_scale_rounded(largest * (1.2 - 0.02 * step));
        double error = scale_error(w, importance, n, books->levels, books->count, scale, &next);
        if (error < best) best = error, chosen = scale, kept = next;
    }
    for (int round = 0; round < 2; round++) {
        if (!(kept >= (double)FLT_MIN && kept <= (double)FLT_MAX)) break;
        float scale = (float)kept;
        double error = scale_error(w, importance, n, books->levels, books->count, scale, &next);
        if (!(error < best)) break;
        best = error, chosen = scale, kept = next;
    }
    return chosen;
}

static void scale_groups(void *context, int64_t begin, int64_t end) {
    const group_job *j = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t at = begin; at < end; at++) {
        int64_t row = at / j->groups, first = at % j->groups * j->group, n = least(j->columns - first, j->group);
        const float *importance = j->importance ? j->importance + first : NULL;
        j->scale[at] = search_scale(j->w + row * j->columns + first, importance, n, j->books);
    }
    qn_fp_end(modes);
}

void qn_search_scales(const float *w, const float *importance, int64_t rows, int64_t columns, int64_t group,
                      const qn_books *books, float *scale) {
    group_job j = {.w = w,
                   .importance = importance,
                   .columns = columns,
                   .group = group,
                   .groups = groups_of(columns, group),
                   .books = books,
                   .scale = scale};
    qn_parallel_for(rows * j.groups, 1, work_bytes((double)rows * (double)columns * 1024), scale_groups, &j);
}

/* ---- levels against the objective ---- */

typedef struct {
    const qn_level_fit *fit;
    atomic_bool failed;
} fit_job;

/* The equations of one row: normal[a][b] = sum of h_ij over codes a and b, right[a] = that of h_ij (w_j - level_j). */
typedef struct {
    double *normal, *right;
    int32_t *columns, *ends; /* those of code 0, of code 1, ...; where each code's end */
} equations;

static void list_columns(const qn_level_fit *f, const equations *e, int64_t row) {
    const int16_t *codes = f->codes + row * f->columns;
    memset(e->ends, 0, (size_t)f->count * sizeof *e->ends);
    for (int64_t i = 0; i < f->columns; i++) e->ends[codes[i]]++;
    for (int32_t a = 1; a < f->count; a++) e->ends[a] += e->ends[a - 1];
    for (int64_t i = f->columns - 1; i >= 0; i--) e->columns[--e->ends[codes[i]]] = (int32_t)i;
    for (int32_t a = 0; a + 1 < f->count; a++) e->ends[a] = e->ends[a + 1];
    e->ends[f->count - 1] = (int32_t)f->columns;
}

/* Adds the columns [first, first + PANEL) of h, which are in `panel`, [row of h][PANEL]. */
static void add_panel(const qn_level_fit *f, const equations *e, int64_t row, int64_t first, const double *panel) {
    const int16_t *codes = f->codes + row * f->columns + first;
    int64_t n = least(PANEL, f->columns - first);
    double error[PANEL];
    for (int64_t c = 0; c < n; c++)
        error[c] = (double)f->w[row * f->columns + first + c] - (double)f->levels[row * f->count + codes[c]];
    for (int32_t a = 0, at = 0; a < f->count; a++) {
        pair s0 = {0, 0}, s1 = s0, s2 = s0, s3 = s0;
        for (; at < e->ends[a]; at++) {
            const pair *h = (const pair *)(panel + (int64_t)e->columns[at] * PANEL);
            s0 += h[0], s1 += h[1], s2 += h[2], s3 += h[3];
        }
        double sum[PANEL] = {s0[0], s0[1], s1[0], s1[1], s2[0], s2[1], s3[0], s3[1]};
        for (int64_t c = 0; c < n; c++) e->normal[a * f->count + codes[c]] += sum[c], e->right[a] += error[c] * sum[c];
    }
}

/* Puts the levels in ascending order and renumbers the codes. */
static void sort_levels(const qn_level_fit *f, int64_t row) {
    float *levels = f->levels + row * f->count;
    int16_t place[LEVELS], *codes = f->codes + row * f->columns;
    int32_t order[LEVELS];
    float sorted[LEVELS];
    for (int32_t a = 0; a < f->count; a++) { /* insertion: they are almost in order */
        int32_t at = a;
        for (; at > 0 && levels[order[at - 1]] > levels[a]; at--) order[at] = order[at - 1];
        order[at] = a;
    }
    for (int32_t a = 0; a < f->count; a++) sorted[a] = levels[order[a]], place[order[a]] = (int16_t)a;
    memcpy(levels, sorted, (size_t)f->count * sizeof *levels);
    for (int64_t i = 0; i < f->columns; i++) codes[i] = place[codes[i]];
}

/* `a`: room for a copy of the equations. */
static void fit_row(const qn_level_fit *f, const equations *e, int64_t row, double *a) {
    int32_t n = f->count;
    float *levels = f->levels + row * n, fitted[LEVELS];
    double step[LEVELS], diagonal[LEVELS] = {0}, gain = 0;
    memcpy(a, e->normal, (size_t)(n * n) * sizeof *a);
    memcpy(step, e->right, (size_t)n * sizeof *step);
    for (int32_t k = 0; k < n; k++) diagonal[k] = a[k * n + k];
    qn_solve_positive(a, step, diagonal, n);
    for (int32_t k = 0; k < n; k++) {
        fitted[k] = (float)((double)levels[k] + step[k]);
        if (!(fabs((double)fitted[k]) <= (double)FLT_MAX)) return;
        step[k] = (double)fitted[k] - (double)levels[k];
    }
    for (int32_t k = 0; k < n; k++) {
        double slope = 2 * e->right[k];
        for (int32_t m = 0; m < n; m++) slope -= e->normal[k * n + m] * step[m];
        gain += slope * step[k];
    }
    if (!(gain > 0)) return;
    memcpy(levels, fitted, (size_t)n * sizeof *levels);
    sort_levels(f, row);
}

static void fill_panel(const qn_level_fit *f, int64_t first, double *panel) {
    int64_t n = least(PANEL, f->columns - first);
    for (int64_t i = 0; i < f->columns; i++)
        for (int64_t c = 0; c < PANEL; c++) panel[i * PANEL + c] = c < n ? f->h[i * f->columns + first + c] : 0;
}

static void fit_piece(void *context, int64_t begin, int64_t end) {
    fit_job *j = context;
    const qn_level_fit *f = j->fit;
    int64_t n = f->count, each = n * n + n, lists = f->columns + n;
    double *panel = qn_allocate(PANEL * f->columns + BAND * each + n * n, sizeof *panel);
    int32_t *columns = qn_allocate(BAND * lists, sizeof *columns);
    if (!panel || !columns) {
        atomic_store(&j->failed, true);
        free(panel), free(columns);
        return;
    }
    double *normal = panel + PANEL * f->columns, *copy = normal + BAND * each;
    uint64_t modes = qn_fp_begin();
    for (int64_t row = begin; row < end; row += BAND) {
        equations e[BAND];
        int64_t rows = least(BAND, end - row);
        memset(normal, 0, (size_t)(BAND * each) * sizeof *normal);
        for (int64_t r = 0; r < rows; r++) {
            e[r] = (equations){normal + r * each, normal + r * each + n * n, columns + r * lists,
                               columns + r * lists + f->columns};
            list_columns(f, &e[r], row + r);
        }
        for (int64_t first = 0; first < f->columns; first += PANEL) {
            fill_panel(f, first, panel);
            for (int64_t r = 0; r < rows; r++) add_panel(f, &e[r], row + r, first, panel);
        }
        for (int64_t r = 0; r < rows; r++) fit_row(f, &e[r], row + r, copy);
    }
    qn_fp_end(modes);
    free(panel), free(columns);
}

bool qn_refit_levels(const qn_level_fit *fit) {
    fit_job j = {.fit = fit};
    double products = (double)fit->rows * (double)fit->columns * (double)fit->columns / 4;
    qn_parallel_for(fit->rows, BAND, work_bytes(products), fit_piece, &j);
    return !atomic_load(&j.failed);
}
