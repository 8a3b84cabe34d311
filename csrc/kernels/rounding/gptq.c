#include "gptq.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "allocate.h"
#include "slivers.h"
#include "threads.h"

enum {
    LANES = 8, /* rows side by side */
    STRIP = 4, /* columns that the errors of those before them reach together */
    BANDS = 4, /* of LANES rows, which share each read of the factor */
};
static const float ROUNDER = 0x1.8p23f; /* added and taken away: rounds what is below 2^22, half to even */

typedef float four __attribute__((vector_size(16), may_alias));

/* The weights of LANES rows, [place][lane]; once a column has its codes, its errors. */
typedef struct {
    float *x;
    int64_t row, count; /* rows of the matrix; the lanes after them are zeros */
} band;

typedef struct {
    const qn_column_loop *loop;
    const float *v;          /* [strip][place][STRIP], the places before the end of the strip */
    const float *importance; /* [place] */
    int64_t groups;
    atomic_bool failed;
} column_loop;

static int64_t strip_at(int64_t j) { return 2 * j * (j / STRIP + 1); } /* the floats before the strip at place j */

static void normalize(const qn_column_loop *loop, float *v) {
    int64_t n = loop->columns;
    for (int64_t j = 0; j < n; j += STRIP)
        for (int64_t i = 0; i < j + STRIP; i++)
            for (int64_t c = 0; c < STRIP; c++) {
                bool inside = i < j + c && j + c < n;
                v[strip_at(j) + i * STRIP + c] =
                    inside ? (float)(loop->factor[i * n + j + c] / loop->factor[i * n + i]) : 0;
            }
}

/* The columns of a strip less the errors of the places [first, first + n). */
static inline void less_errors(four c[STRIP][2], const float *x, const float *v, int64_t n) {
    four s0 = c[0][0], s1 = c[0][1], s2 = c[1][0], s3 = c[1][1], s4 = c[2][0], s5 = c[2][1], s6 = c[3][0], s7 = c[3][1];
    for (int64_t k = 0; k < n; k++, x += LANES, v += STRIP) {
        four a = *(const four *)x, b = *(const four *)(x + 4), y;
        y = (four){v[0], v[0], v[0], v[0]}, s0 -= a * y, s1 -= b * y;
        y = (four){v[1], v[1], v[1], v[1]}, s2 -= a * y, s3 -= b * y;
        y = (four){v[2], v[2], v[2], v[2]}, s4 -= a * y, s5 -= b * y;
        y = (four){v[3], v[3], v[3], v[3]}, s6 -= a * y, s7 -= b * y;
    }
    c[0][0] = s0, c[0][1] = s1, c[1][0] = s2, c[1][1] = s3, c[2][0] = s4, c[2][1] = s5, c[3][0] = s6, c[3][1] = s7;
}

/* The places [begin, end) of one strip less the errors of those from `first` up to `last`. */
static void update(const column_loop *l, const band *b, int64_t j, int64_t begin, int64_t end, int64_t first,
                   int64_t last) {
    four c[STRIP][2];
    memcpy(c, b->x + j * LANES, sizeof c);
    less_errors(c, b->x + first * LANES, l->v + strip_at(j) + first * STRIP, last - first);
    memcpy(b->x + begin * LANES, c[begin - j], (size_t)(end - begin) * sizeof c[0]);
}

/* round_column with tables of levels. */
static void round_to_levels(const column_loop *l, const band *b, int64_t p) {
    const qn_column_loop *loop = l->loop;
    int64_t column = loop->order[p], group = column / loop->group;
    for (int64_t r = 0; r < b->count; r++) {
        int64_t row = b->row + r;
        const float *levels = loop->books->levels + row * loop->books->step;
        float *x = b->x + p * LANES + r, scale = loop->scale[row * l->groups + group];
        int32_t code = qn_nearest_level(levels, loop->books->count, (double)*x / (double)scale);
        *x -= scale * levels[code];
        loop->codes[row * loop->columns + column] = (int16_t)code;
    }
}

/* Codes of the column at place p; its weights become its errors. */
static void round_column(const column_loop *l, const band *b, int64_t p) {
    const qn_column_loop *loop = l->loop;
    if (loop->books) {
        round_to_levels(l, b, p);
        return;
    }
    float scale[LANES], low[LANES], high[LANES], *x = b->x + p * LANES, step[LANES];
    int64_t column = loop->order[p], at = b->row * l->groups + column / loop->group;
    for (int64_t r = 0; r < LANES; r++) {
        bool inside = r < b->count;
        int64_t zero = inside ? loop->zero[at + r * l->groups] : 0;
        scale[r] = inside ? loop->scale[at + r * l->groups] : 1;
        low[r] = (float)(loop->levels.qmin - zero), high[r] = (float)(loop->levels.qmax - zero);
    }
    for (int r = 0; r < LANES; r++) {
        float t = x[r] / scale[r];
        t = t > low[r] ? t : low[r];
        t = t < high[r] ? t : high[r];
        step[r] = (t + ROUNDER) - ROUNDER;
        x[r] -= scale[r] * step[r];
    }
    for (int64_t r = 0; r < b->count; r++)
        loop->codes[(b->row + r) * loop->columns + column] =
            (int16_t)((int64_t)step[r] + loop->zero[at + r * l->groups]);
}

/* Codes of the places [begin, end) of the strip j, from which the errors before `first` are subtracted. */
static void round_strip(const column_loop *l, const band *b, int64_t j, int64_t begin, int64_t end, int64_t first) {
    const float *v = l->v + strip_at(j);
    if (j > first) update(l, b, j, begin, end, first, j);
    for (int64_t p = begin; p < end; p++) {
        float *x = b->x + p * LANES;
        for (int64_t k = most(j, first); k < p; k++) {
            float y = v[k * STRIP + p - j];
            for (int r = 0; r < LANES; r++) x[r] -= b->x[k * LANES + r] * y;
        }
        round_column(l, b, p);
    }
}

static void search(const column_loop *l, const band *b, int64_t begin, int64_t end, float *weights) {
    const qn_column_loop *loop = l->loop;
    int64_t group = loop->order[begin] / loop->group;
    for (int64_t r = 0; r < b->count; r++) {
        for (int64_t p = begin; p < end; p++) weights[p - begin] = b->x[p * LANES + r];
        int64_t at = (b->row + r) * l->groups + group;
        qn_grid_search(weights, l->importance ? l->importance + begin : NULL, end - begin, &loop->levels,
                       loop->scale + at, loop->zero + at);
    }
}

/* The end of the places whose columns have one grid, or of all where no grid is searched. */
static int64_t run_end(const qn_column_loop *loop, int64_t begin) {
    int64_t end = begin + 1, group = loop->order[begin] / loop->group;
    while (end < loop->columns && (!loop->search || loop->order[end] / loop->group == group)) end++;
    return end;
}

static void round_bands(const column_loop *l, const band *bands, int count, float *weights) {
    int64_t n = l->loop->columns;
    for (int64_t begin = 0, end; begin < n; begin = end) {
        end = run_end(l->loop, begin);
        int64_t strip = begin / STRIP * STRIP;
        for (int64_t j = strip; begin && j < end; j += STRIP)
            for (int k = 0; k < count; k++) update(l, bands + k, j, most(j, begin), least(j + STRIP, end), 0, begin);
        for (int k = 0; l->loop->search && k < count; k++) search(l, bands + k, begin, end, weights);
        for (int64_t j = strip; j < end; j += STRIP)
            for (int k = 0; k < count; k++) round_strip(l, bands + k, j, most(j, begin), least(j + STRIP, end), begin);
    }
}

static void round_rows(void *context, int64_t begin, int64_t end) {
    column_loop *l = context;
    const qn_column_loop *loop = l->loop;
    int64_t places = round_up(loop->columns, STRIP);
    float *x = qn_allocate((BANDS * LANES + 1) * places, sizeof *x);
    if (!x) {
        atomic_store(&l->failed, true);
        return;
    }
    float *weights = x + BANDS * LANES * places;
    uint64_t modes = qn_fp_begin();
    for (int64_t row = begin; row < end; row += BANDS * LANES) {
        band bands[BANDS];
        int count = 0;
        for (int64_t first = row; first < least(row + BANDS * LANES, end); first += LANES, count++) {
            band b = {x + count * LANES * places, first, least(LANES, end - first)};
            memset(b.x, 0, (size_t)(LANES * places) * sizeof *x);
            for (int64_t r = 0; r < b.count; r++)
                for (int64_t p = 0; p < loop->columns; p++)
                    b.x[p * LANES + r] = loop->w[(first + r) * loop->columns + loop->order[p]];
            bands[count] = b;
        }
        round_bands(l, bands, count, weights);
    }
    qn_fp_end(modes);
    free(x);
}

bool qn_round_columns(const qn_column_loop *loop) {
    int64_t n = loop->columns, places = round_up(n, STRIP);
    if (!n) return true;
    column_loop l = {.loop = loop, .groups = (n - 1) / loop->group + 1};
    float *v = qn_allocate(strip_at(places), sizeof *v), *importance = qn_allocate(n, sizeof *importance);
    bool done = v && importance;
    if (done) {
        uint64_t modes = qn_fp_begin();
        normalize(loop, v);
        qn_fp_end(modes);
        l.v = v, l.importance = loop->importance ? importance : NULL;
        for (int64_t p = 0; loop->importance && p < n; p++) importance[p] = loop->importance[loop->order[p]];
        double products = (double)loop->rows * (double)n * (double)n / 4; /* float32: two in the time of one */
        qn_parallel_for(loop->rows, BANDS * LANES, work_bytes(products), round_rows, &l);
    }
    free(v), free(importance);
    return done && !atomic_load(&l.failed);
}
