#include "gradients.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "dispatch.h"
#include "quantize.h"
#include "threads.h"
#include "walk.h"

static void put(qn_type type, void *to, int64_t start, int64_t n, const float *x) {
    qn_narrow(type, x, (char *)to + (size_t)start * qn_itemsize(type), n, &qn_plain_cast);
}

/* ---- the values and where they saturate ---- */

static void inside_tile(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    qn_tile_buffer t;
    float wide[QN_TILE], narrow[QN_TILE];
    _Alignas(64) uint8_t inside[QN_CODE_TILE];
    float *y = w->out_type == QN_F32 ? (float *)w->out + start : narrow;
    qn_kernels()->fake_quantize_inside_f32(qn_source_floats(w->source, start, n, &t, wide), y, inside, n, p);
    if (y == narrow) put(w->out_type, w->out, start, n, narrow);
    qn_pack_span(&w->packed, inside, start, n);
}

static void inside_span(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p) {
    if (w->source->direct && w->source->type == QN_F32 && w->out_type == QN_F32)
        qn_by_code_tiles(w, start, n, p, inside_tile); /* nothing but the marks is staged */
    else qn_by_tiles(w, start, n, p, inside_tile);
}

void qn_fake_quantize_inside(const qn_source *x, void *y, qn_type type, uint8_t *inside, const qn_grid *grid,
                             const qn_affine *params) {
    const qn_table *k = qn_kernels();
    qn_walk w = qn_new_walk(x, grid, params, y, type, inside_span);
    w.packed = (qn_byte_rows){{1, k->pack_1, k->unpack_u1, k->unpack_u1}, qn_elements(x), inside};
    w.params.exact_inverse = qn_exact_inverse(params, grid);
    qn_walk_all(&w);
}

/* ---- the gradient of x ---- */

typedef struct {
    const qn_source *g;
    const uint8_t *inside;
    void *dx;
    qn_type type;
    int64_t n;
    bool stream;
} keeping;

/* Pieces are whole tiles, which begin with a whole byte. */
static void keep_piece(void *context, int64_t begin, int64_t end) {
    const keeping *k = context;
    qn_tile_buffer t;
    float wide[QN_TILE], narrow[QN_TILE];
    _Alignas(64) uint8_t inside[QN_TILE];
    uint64_t modes = qn_fp_begin();
    for (int64_t at = begin; at < end; at += QN_TILE) {
        int64_t n = end - at < QN_TILE ? end - at : QN_TILE;
        float *dx = k->type == QN_F32 ? (float *)k->dx + at : narrow;
        qn_kernels()->unpack_u1(k->inside + at / 8, inside, n);
        qn_kernels()->keep_f32(qn_source_floats(k->g, at, n, &t, wide), inside, dx, n, k->stream && dx != narrow);
        if (dx == narrow) put(k->type, k->dx, at, n, narrow);
    }
    qn_fp_end(modes);
}

void qn_keep_inside(const qn_source *g, const uint8_t *inside, void *dx, qn_type type) {
    const int64_t n = qn_elements(g), bytes = n * (int64_t)(g->itemsize + qn_itemsize(type));
    keeping k = {g, inside, dx, type, n, n * (int64_t)sizeof(float) >= qn_stream_bytes()};
    qn_parallel_for(n, 8 * QN_TILE, bytes, keep_piece, &k);
}

/* ---- the gradients of scale, zero point and range ----
 *
 * The elements of a parameter are cut into blocks: BLOCK elements of a run, or BAND rows of a strip of columns. The
 * sums of a block are those of the kernel, the blocks are added in their order. So the cuts, and with them the bits of
 * the sums, depend on the grid alone, and threads share the blocks. */

enum {
    BLOCK = QN_TILE,
    BAND = 256,   /* rows */
    COLUMNS = 512 /* of a strip: their sums and their parameters stay in the L1 cache */
};

typedef struct {
    const qn_source *x, *g;
    void *dx;
    qn_type type;
    const qn_grid *grid;
    qn_affine params;
    double *sums;                      /* [3][n] */
    int64_t n;                         /* parameters */
    int64_t blocks, bands, long_strip; /* blocks of a run; bands of the rows; columns of a row */
    qn_gradient *part; /* [runs of a parameter][n][blocks]; NULL: a thread takes all blocks of a parameter */
    double *band;      /* [bands][3][n]; NULL: one band */
} job;

/* Elements [start, start + n) of x and of g, and where their dx goes. */
typedef struct {
    qn_tile_buffer x_buffer, g_buffer;
    float x_wide[QN_TILE], g_wide[QN_TILE], narrow[QN_TILE];
} staging;

static void process(const job *j, staging *s, int64_t start, int64_t n, const qn_affine *p, qn_gradient *sums,
                    double *columns, int64_t step) {
    const float *x = qn_source_floats(j->x, start, n, &s->x_buffer, s->x_wide);
    const float *g = qn_source_floats(j->g, start, n, &s->g_buffer, s->g_wide);
    float *dx = j->type == QN_F32 ? (float *)j->dx + start : s->narrow;
    if (sums) qn_kernels()->gradient_f32(x, g, dx, n, p, sums);
    else qn_kernels()->gradient_columns_f32(x, g, dx, n, p, columns, columns + step, columns + 2 * step);
    if (dx == s->narrow) put(j->type, j->dx, start, n, dx);
}

static qn_affine affine_of(const job *j, int64_t parameter) {
    qn_affine p = j->params;
    p.scale += parameter, p.zero_point += parameter;
    return p;
}

/* Block b of run o of a parameter; nothing beyond the end of the run. */
static qn_gradient sums_of_block(const job *j, staging *s, int64_t o, int64_t parameter, int64_t b) {
    qn_gradient sums = {0};
    int64_t length, start = qn_grid_run(j->grid, o, parameter, &length), at = b * BLOCK;
    qn_affine p = affine_of(j, parameter);
    if (at < length) process(j, s, start + at, length - at < BLOCK ? length - at : BLOCK, &p, &sums, NULL, 0);
    return sums;
}

static void add(const job *j, int64_t parameter, const qn_gradient *more) {
    j->sums[parameter] += more->error;
    j->sums[j->n + parameter] += more->below;
    j->sums[2 * j->n + parameter] += more->above;
}

static int64_t runs_of(const job *j) { return j->grid->group ? 1 : j->grid->outer; }

static void sum_parameters(void *context, int64_t begin, int64_t end) {
    const job *j = context;
    staging s;
    uint64_t modes = qn_fp_begin();
    for (int64_t k = begin; k < end; k++)
        for (int64_t o = 0; o < runs_of(j); o++)
            for (int64_t b = 0; b < j->blocks; b++) {
                qn_gradient sums = sums_of_block(j, &s, o, k, b);
                add(j, k, &sums);
            }
    qn_fp_end(modes);
}

static void sum_blocks(void *context, int64_t begin, int64_t end) {
    const job *j = context;
    staging s;
    uint64_t modes = qn_fp_begin();
    for (int64_t i = begin; i < end; i++) {
        int64_t run = i / j->blocks;
        j->part[i] = sums_of_block(j, &s, run / j->n, run % j->n, i % j->blocks);
    }
    qn_fp_end(modes);
}

static bool sum_runs(job *j, int64_t elements, int64_t bytes) {
    enum { ENOUGH = 64 }; /* parameters for all threads to share */
    int64_t longest = j->grid->group ? j->grid->group : j->grid->inner;
    if (longest > elements) longest = elements;
    j->blocks = (longest + BLOCK - 1) / BLOCK;
    int64_t parts = runs_of(j) * j->n * j->blocks, mean = elements / (parts ? parts : 1);
    if (j->n >= ENOUGH || parts == 1) {
        qn_parallel_for(j->n, 1, bytes, sum_parameters, j);
        return true;
    }
    j->part = malloc((size_t)parts * sizeof *j->part);
    if (!j->part) return false;
    qn_parallel_for(parts, 1 + BLOCK / (mean + 1), bytes, sum_blocks, j);
    for (int64_t i = 0; i < parts; i++) add(j, i / j->blocks % j->n, &j->part[i]);
    free(j->part);
    return true;
}

/* Strips of one band: [begin, end) counts the strips of all bands. */
static void sum_strips(void *context, int64_t begin, int64_t end) {
    const job *j = context;
    const qn_grid *grid = j->grid;
    staging s;
    uint64_t modes = qn_fp_begin();
    const int64_t a_band = j->n / j->long_strip * ((j->long_strip + COLUMNS - 1) / COLUMNS);
    for (int64_t i = begin; i < end; i++) {
        const int64_t band = i / a_band, strips = a_band / (j->n / j->long_strip), strip = i % a_band;
        const int64_t column = strip % strips * COLUMNS, k = strip / strips * j->long_strip + column;
        const int64_t left = j->long_strip - column,
                      o1 = (band + 1) * BAND < grid->outer ? (band + 1) * BAND : grid->outer;
        const qn_strip rows = qn_grid_strip(grid, band * BAND, o1, k, left < COLUMNS ? left : COLUMNS);
        double *sums = (j->band ? j->band + band * 3 * j->n : j->sums) + k;
        const qn_affine p = affine_of(j, k);
        for (int64_t r = 0; r < rows.rows; r++)
            process(j, &s, rows.start + r * rows.stride, rows.count, &p, NULL, sums, j->n);
    }
    qn_fp_end(modes);
}

/* Neighbours in memory belong to different parameters. The rows of a group are one band. */
static bool sum_columns(job *j, int64_t bytes) {
    const qn_grid *g = j->grid;
    j->long_strip = g->group ? g->inner : g->channels;
    j->bands = g->group ? 1 : (g->outer + BAND - 1) / BAND;
    const int64_t strips = j->bands * (j->n / j->long_strip) * ((j->long_strip + COLUMNS - 1) / COLUMNS);
    if (j->bands > 1) {
        j->band = calloc((size_t)(j->bands * 3 * j->n), sizeof *j->band);
        if (!j->band) return false;
    }
    qn_parallel_for(strips, 1, bytes, sum_strips, j);
    for (int64_t b = 0; j->band && b < j->bands; b++)
        for (int64_t i = 0; i < 3 * j->n; i++) j->sums[i] += j->band[b * 3 * j->n + i];
    free(j->band);
    return true;
}

bool qn_gradients(const qn_source *x, const qn_source *g, void *dx, qn_type type, const qn_grid *grid,
                  const qn_affine *params, double *sums) {
    job j = {.x = x, .g = g, .dx = dx, .type = type, .grid = grid, .params = *params, .sums = sums};
    const int64_t elements = qn_elements(x);
    j.n = qn_grid_params(grid);
    for (int64_t i = 0; i < 3 * j.n; i++) sums[i] = 0;
    if (!elements) return true;
    const int64_t bytes = elements * (int64_t)(x->itemsize + g->itemsize + qn_itemsize(type));
    return qn_grid_columns(grid) ? sum_columns(&j, bytes) : sum_runs(&j, elements, bytes);
}
