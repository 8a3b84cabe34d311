/* Integer products: kblocks, routes, threads. matmul_pack.c packs the right matrix, matmul_raw.c takes raw matrices.
 *
 *   panel: 16 columns of B, 64 bytes a quartet of k        sliver: 4 rows of A, 16 bytes a quartet of k
 *     column 0          column 1          ... column 15      row 0             row 1             row 2      row 3
 *     k k+1 k+2 k+3     k k+1 k+2 k+3     ...                k k+1 k+2 k+3     k k+1 k+2 k+3     ...
 *     the same of k+4 .. k+7, ...                            the same of k+4 .. k+7, ...
 *   A 16-bit word takes two bytes, so that its quartet holds two k. The layout of a sliver is private to each ISA row.
 *
 * A byte u of a panel stands for the code b = u + base: int8 is stored as b ^ 0x80 with base -128, uint8 as it is with
 * base 0, a narrow matrix (codes that span at most 128 values) with its smallest code as base. With a' the left code as
 * stored (int8; uint8 less 128), za' its zero point likewise, e = zb - base:
 *
 *   sum (a - za)(b - zb) = sum a' u  -  za' sum u  -  e sum (a - za)
 *
 * Kernels that multiply Winograd's pairs subtract za and 128 beforehand:
 *
 *   sum (a - za)(b - zb) = sum (a - za)(u - 128)  -  (e - 128) sum (a - za)
 *
 * Quads (excess.h) subtract 128, or 64 from a narrow u, and no zero point:
 *
 *   sum (a - za)(b - zb) = sum a' (u - 128)  -  za' sum (u - 128)  -  (e - 128) sum (a - za)
 *
 * Packing computes the sums of the last terms. The terms are start values of a tile; a term that differs by row and by
 * column is added as an outer product. docs/matmul.md proves that no step overflows.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "dispatch.h"
#include "matmul_private.h"
#include "threads.h"

enum {
    TILE_ROWS = 48, /* rows of a tile that goes through a buffer, at most */
    QUAD_ROWS = 96, /* the same with quads: whole bands, for their excess */
    FEW_ROWS = 48,  /* up to so many rows kblocks are long: one linear read of a panel saves more than the L1 cache */
    FEW_KBLOCK = 1024,   /* quartets of such a kblock */
    PIECE_COLUMNS = 384, /* columns of a piece, at least: with fewer, packing A again for it costs more than it saves */
};

typedef struct {
    const qn_matrix *a;
    qn_zeros za;
    const qn_packed *b;
    const qn_packing *strips; /* NULL, or packs b strip by strip during the product */
    const qn_result *out;
    const qn_table *kernels; /* of the whole product, even if another thread selects another ISA meanwhile */
    qn_tiling tiling;
    int64_t largest;         /* bound of |(a - za)(b - zb)| */
    bool wide;               /* sums between kblocks are int64 */
    bool pairs;              /* the kernel multiplies Winograd's pairs */
    bool quads;              /* the kernel adds four products in int16 */
    bool in_bits;            /* the kernel reads codes of 4 or 2 bits; else panels of bytes are made of them */
    const qn_excess *excess; /* of quads; NULL if a is so narrow that there is none */
    int32_t less;            /* the b of the kernel is the stored byte less this */
    int32_t offset;          /* the a of the kernel is the code less this, unless packing subtracts the zero point */
    uint8_t center;          /* the a of a quad is the packed byte less this */
    void (*multiply)(const qn_tile *t);
    void (*left)(const qn_left *l);
    int64_t left_bytes; /* packed bytes of a quartet of one row */
    bool by_rows;
    atomic_int outcome;
} multiplication;

/* Buffers for one piece. */
typedef struct {
    void *memory;
    uint8_t *left;                               /* packed */
    uint8_t *staging;                            /* [48][ks] */
    int32_t *start, *sum;                        /* [rows] of qn_left */
    int32_t *row_start, *minus_sum, *minus_zero; /* [rows] */
    uint8_t *strip;                              /* [panels][quartets][64] packed during the product */
    uint8_t *turned;                             /* [ks][turned_step] */
    int64_t turned_step;
    int32_t *more;    /* [96][16] excess times a */
    uint8_t *bytes;   /* [panels][quartets][64] of codes of 4 or 2 bits */
    uint8_t *panel;   /* a panel widened, or as quads */
    int32_t *tile;    /* [48 or 96][16 * panels] */
    int32_t *between; /* [rows][columns] sums between kblocks */
    int64_t *wide;    /* the same in int64 */
} scratch;

typedef struct {
    int64_t rows, quartets; /* of a band and of a kblock: all of about equal size */
    int64_t columns;        /* of the piece, whole panels */
    int64_t panels, tile;   /* panels packed at a time, panels of a tile */
    int64_t buffered;       /* rows of a tile that goes through a buffer */
    bool keeps_sums, widen;
} plan;

static plan plan_of(const multiplication *j, int64_t rows, int64_t panels) {
    const qn_packed *b = j->b;
    plan s = {.columns = panels * QN_PANEL};
    /* Few rows: reading four panels at once is faster. */
    s.tile = j->quads ? 1 : rows <= QN_SLIVER ? QN_PANELS : j->tiling.panels;
    s.panels = j->strips ? QN_PANELS : s.tile;
    s.widen = j->pairs && rows >= j->tiling.widen_rows;
    int64_t most_quartets = j->excess                        ? j->excess->kblock
                            : j->in_bits                     ? b->quartets
                            : b->bits < 8                    ? j->tiling.kblock
                            : rows <= FEW_ROWS && !j->strips ? rows <= QN_SLIVER ? b->quartets : FEW_KBLOCK
                                                             : j->tiling.kblock;
    if (j->wide) /* sums of one kblock fit int32 */
        most_quartets = least(most_quartets, most(INT32_MAX / j->largest / qn_ks_a_quartet(b->form) / 2 * 2, 2));
    s.quartets = qn_even_kblock(b->quartets, most_quartets);
    if (b->bits == 2) s.quartets = round_up(s.quartets, 4);
    int64_t bands = most(1, (rows + j->tiling.band_rows - 1) / j->tiling.band_rows);
    s.rows = round_up((rows + bands - 1) / bands, 12);
    s.keeps_sums = s.quartets < b->quartets && !j->wide && j->out->type != QN_I32;
    s.buffered = j->quads ? QUAD_ROWS : s.keeps_sums || !j->tiling.finish_rows ? TILE_ROWS : j->tiling.finish_rows;
    return s;
}

static bool scratch_make(scratch *s, const multiplication *j, const plan *g) {
    int64_t width = g->tile * QN_PANEL, ks = g->quartets * qn_ks_a_quartet(j->b->form);
    s->turned_step = j->excess ? round_up(g->rows, QN_BAND) : 0;
    int64_t sizes[] = {
        round_up(g->rows, QN_BAND) * g->quartets * j->left_bytes,
        TILE_ROWS * ks * (j->b->form == QN_WORDS ? 2 : 1),
        g->rows * 4 * 5,
        j->strips ? g->panels * g->quartets * QN_QUARTET : 0,
        j->quads   ? g->quartets / 2 * QN_QUADS
        : g->widen ? g->quartets * QN_QUARTET * 2
                   : 0,
        (j->quads ? QUAD_ROWS : TILE_ROWS) * width * 4,
        g->keeps_sums ? g->rows * g->columns * 4 : 0,
        j->wide ? g->rows * g->columns * 8 : 0,
        ks * s->turned_step,
        j->excess ? QUAD_ROWS * QN_PANEL * 4 : 0,
        j->b->bits < 8 && !j->in_bits ? g->tile * g->quartets * QN_QUARTET : 0,
    };
    enum { SIZES = sizeof sizes / sizeof *sizes };
    int64_t offset[SIZES], total = 0;
    for (int i = 0; i < SIZES; i++) offset[i] = total, total += round_up(sizes[i], QN_QUARTET);
    uint8_t *p = s->memory = qn_allocate(total, 1);
    if (!p) return false;
    s->left = p + offset[0], s->staging = p + offset[1], s->start = (int32_t *)(void *)(p + offset[2]);
    s->sum = s->start + g->rows, s->row_start = s->sum + g->rows, s->minus_sum = s->row_start + g->rows;
    s->minus_zero = s->minus_sum + g->rows;
    s->strip = p + offset[3], s->panel = p + offset[4], s->turned = p + offset[8],
    s->more = (int32_t *)(void *)(p + offset[9]), s->bytes = p + offset[10];
    s->tile = (int32_t *)(void *)(p + offset[5]);
    s->between = g->keeps_sums ? (int32_t *)(void *)(p + offset[6]) : NULL;
    s->wide = j->wide ? (int64_t *)(void *)(p + offset[7]) : NULL;
    return true;
}

static int32_t zero_of(const multiplication *j, int64_t row) {
    return j->za.count == 0 ? 0 : j->za.values[j->za.count == 1 ? 0 : row];
}

/* Packs rows for multiply_u4 and multiply_u2: [rows][4 quartets] of int8. */
static void left_plain(const qn_left *l) {
    const uint8_t flip = l->is_signed ? 0 : 128;
    for (int64_t r = 0; r < l->rows; r++) {
        const uint8_t *from = (const uint8_t *)l->a + r * l->stride;
        int8_t *to = (int8_t *)l->packed + r * l->quartets * 4;
        int32_t sum = 0;
        for (int64_t k = 0; k < l->k; k++) to[k] = (int8_t)(from[k] ^ flip);
        for (int64_t k = 0; k < l->k; k++) sum += to[k];
        memset(to + l->k, 0, (size_t)(l->quartets * 4 - l->k));
        l->start[r] = 0, l->sum[r] = sum - (int32_t)l->k * (l->zero[r * l->zero_step] - flip);
    }
}

/* Packs rows [i0, i0 + rows) x quartets [g0, g0 + quartets). */
static void pack_left(const multiplication *j, int64_t i0, int64_t rows, int64_t g0, int64_t quartets, scratch *s) {
    static const int32_t nothing = 0;
    const qn_matrix *a = j->a;
    int64_t per = qn_ks_a_quartet(j->b->form), k0 = g0 * per, k = most(0, least(quartets * per, j->b->k - k0));
    bool words = j->b->form == QN_WORDS, direct = !words && a->column_stride == 1;
    qn_left l = {.is_signed = a->type != QN_U8, .center = j->center, .k = k, .quartets = quartets, .zero = &nothing};
    for (int64_t i = 0; i < rows; i += l.rows) {
        l.rows = direct ? rows : least(TILE_ROWS, rows - i);
        if (j->za.count) l.zero = j->za.values + (j->za.count == 1 ? 0 : i0 + i), l.zero_step = j->za.count > 1;
        if (direct) {
            l.a = a->data + (i0 + i) * a->row_stride + k0, l.stride = a->row_stride;
        } else {
            qn_stage(a, i0 + i, k0, l.rows, k, 0, words, s->staging, k);
            l.a = s->staging, l.stride = k * (words ? 2 : 1);
        }
        l.packed = s->left + i * quartets * j->left_bytes, l.start = s->start + i, l.sum = s->sum + i;
        j->left(&l);
    }
    if (j->excess) j->kernels->left_turned(s->left, quartets, rows, s->turned, s->turned_step);
}

/* The terms of one kblock in the start values of its columns. */
typedef struct {
    int32_t start[QN_PANELS * QN_PANEL], sum[QN_PANELS * QN_PANEL];
} panel_terms;

static void column_terms(const multiplication *j, int64_t p, const qn_tile *tile, int64_t g0, panel_terms *t) {
    const qn_packed *b = j->b;
    const int32_t *sum = b->sum + p * QN_PANEL, *pairs = b->pairs + p * QN_PANEL;
    int32_t own_pairs[QN_PANELS * QN_PANEL] = {0};
    const int64_t quartets = tile->quartets;
    const int count = tile->panels * QN_PANEL;
    const uint32_t zero = (uint32_t)(zero_of(j, 0) - j->offset);
    const bool of_row = !j->pairs && j->za.count > 1; /* an outer product */
    memset(t, 0, sizeof *t);
    if (j->strips && !j->pairs && !of_row && zero == 0) return;
    if (j->wide || j->strips) { /* sums of this kblock alone */
        int64_t per = qn_ks_a_quartet(b->form), padded = most(0, (g0 + quartets) * per - most(b->k, g0 * per));
        for (int i = 0; i < tile->panels; i++)
            qn_sum_panel(b, tile->right + i * tile->right_step, quartets, t->sum + i * QN_PANEL,
                         own_pairs + i * QN_PANEL);
        for (int c = 0; c < count; c++) t->sum[c] -= (int32_t)padded * b->pad;
        pairs = own_pairs;
    } else if (g0 == 0) {
        memcpy(t->sum, sum, (size_t)count * 4);
    } else {
        return;
    }
    if (j->out->acc_bias && !j->wide)
        memcpy(t->start, j->out->acc_bias + p * QN_PANEL, (size_t)least(count, b->n - p * QN_PANEL) * 4);
    if (j->pairs) {
        for (int c = 0; c < count; c++) t->start[c] = (int32_t)((uint32_t)t->start[c] + (uint32_t)pairs[c]);
        return;
    }
    for (int c = 0; j->quads && c < count; c++)
        t->sum[c] = (int32_t)((uint32_t)t->sum[c] - (uint32_t)b->k * (uint32_t)j->less);
    if (of_row) return;
    for (int c = 0; c < count; c++) t->start[c] = (int32_t)((uint32_t)t->start[c] - zero * (uint32_t)t->sum[c]);
}

/* Start values of rows. */
static void row_terms(const multiplication *j, int64_t i0, int64_t rows, bool first, scratch *s) {
    const int32_t *bias = first && !j->wide ? j->out->row_bias : NULL;
    uint32_t e = j->b->uniform && j->b->panels ? (uint32_t)(j->b->e[0] - j->less) : 0u;
    for (int64_t r = 0; r < rows; r++) {
        s->row_start[r] = (int32_t)((uint32_t)s->start[r] - e * (uint32_t)s->sum[r]);
        if (bias) s->row_start[r] = (int32_t)((uint32_t)s->row_start[r] + (uint32_t)bias[i0 + r]);
        s->minus_sum[r] = (int32_t)(0u - (uint32_t)s->sum[r]);
        s->minus_zero[r] = j->offset - zero_of(j, i0 + r);
    }
}

/* The output stage for the sums from (row, column) on. */
static qn_finish stage_of(const multiplication *j, int64_t row, int64_t column) {
    const qn_result *o = j->out;
    qn_finish f = {.out_step = o->row_stride, .row_scale_step = o->row_scales > 1};
    int64_t offset = row * o->row_stride + column;
    f.out = o->type == QN_F32 ? (void *)((float *)o->data + offset) : (void *)((uint8_t *)o->data + offset);
    f.row_scale = o->row_scale + row * f.row_scale_step;
    f.column_scale = o->column_scale + column, f.bias = o->bias ? o->bias + column : NULL;
    f.lo = o->lo, f.hi = o->hi, f.zero_point = o->zero_point, f.qmin = o->qmin, f.qmax = o->qmax;
    return f;
}

static int32_t saturated(const qn_finish *f, float x) {
    const float widest = (float)QN_WIDEST_CODE;
    int32_t code = isnan(x) ? 0 : (int32_t)rintf(fmaxf(-widest, fminf(widest, x)));
    code += f->zero_point;
    return code < f->qmin ? f->qmin : code > f->qmax ? f->qmax : code;
}

/* Codes of the few columns whose bias does not fit int32; the ISA row has written the others. */
static void finish_wide(const qn_result *o, const qn_finish *f, int64_t column) {
    for (int64_t c = 0; c < f->columns; c++) {
        const double bias = o->wide_bias[column + c];
        for (int64_t r = 0; bias != 0 && r < f->rows; r++) {
            const float scale = f->row_scale[r * f->row_scale_step] * f->column_scale[c];
            const int32_t code = saturated(f, (float)((double)f->acc[r * f->acc_step + c] + bias) * scale);
            ((uint8_t *)f->out)[r * f->out_step + c] = (uint8_t)code;
        }
    }
}

static void finish(const multiplication *j, const int32_t *acc, int64_t acc_step, int64_t row, int64_t rows,
                   int64_t column, int64_t count) {
    const qn_result *o = j->out;
    if (o->type == QN_I32) {
        for (int64_t r = 0; r < rows; r++)
            memcpy((int32_t *)o->data + (row + r) * o->row_stride + column, acc + r * acc_step, (size_t)count * 4);
        return;
    }
    qn_finish f = stage_of(j, row, column);
    f.acc = acc, f.acc_step = acc_step, f.rows = rows, f.columns = count;
    if (o->type == QN_F32) j->kernels->finish_f32(&f);
    else if (o->type == QN_I8) j->kernels->finish_i8(&f);
    else j->kernels->finish_u8(&f);
    if (o->wide_bias && o->type != QN_F32) finish_wide(o, &f, column);
}

static void activate(const multiplication *j, int64_t row, int64_t rows, int64_t column, int64_t count) {
    float *y = (float *)j->out->data + row * j->out->row_stride + column;
    for (int64_t r = 0; r < rows; r++, y += j->out->row_stride) j->kernels->gelu_f32(y, y, count);
}

/* Prefetches the output lines for finish(), so that their cache misses overlap the product. */
static void fetch_lines(const qn_result *o, int64_t row, int64_t rows, int64_t column, int64_t count) {
    int64_t size = o->type == QN_I8 || o->type == QN_U8 ? 1 : 4;
    const char *line = (const char *)o->data + (row * o->row_stride + column) * size;
    for (int64_t r = 0; r < rows; r++, line += o->row_stride * size) {
        __builtin_prefetch(line, 1);
        __builtin_prefetch(line + count * size - 1, 1);
    }
}

/* Rows [row, row + rows) x quartets [quartet, quartet + quartets) of a piece whose first column is `left`. */
typedef struct {
    int64_t row, rows, quartet, quartets, left;
    bool first, last; /* kblock of the product */
    int64_t strip;    /* first panel of the packed strip */
} kblock;

/* Chooses the destination of the sums of rows from i on: the output, the sums between kblocks, or a buffer. */
static void place_tile(const multiplication *j, const scratch *s, const plan *g, const kblock *range, int64_t i,
                       int64_t column, int64_t count, bool direct, qn_tile *t) {
    const qn_result *o = j->out;
    int32_t *out = o->type == QN_I32 ? (int32_t *)o->data + (range->row + i) * o->row_stride + column : NULL;
    t->c = s->tile, t->c_step = t->panels * QN_PANEL, t->add = !range->first && !j->wide;
    if (direct) t->c = out, t->c_step = o->row_stride;
    else if (t->finish && !s->between) t->c = t->finish->out, t->c_step = o->row_stride;
    else if (s->between) t->c = s->between + i * g->columns + (column - range->left), t->c_step = g->columns;
    else if (t->add)
        for (int64_t r = 0; r < t->rows; r++) memcpy(t->c + r * t->c_step, out + r * o->row_stride, (size_t)count * 4);
}

/* Adds the sums of a kblock in int64; after the last kblock stores them as int32; a sum that does not fit sets the
 * outcome. */
static void add_wide(multiplication *j, const qn_tile *t, const kblock *range, int64_t row, int64_t column,
                     int64_t count, int64_t *wide, const plan *g) {
    const int32_t *bias = j->out->acc_bias ? j->out->acc_bias + column : NULL;
    for (int64_t r = 0; r < t->rows; r++) {
        int64_t start = j->out->row_bias ? j->out->row_bias[row + r] : 0;
        for (int64_t c = 0; c < count; c++) {
            int64_t *sum = wide + r * g->columns + c;
            int32_t *tile = t->c + r * t->c_step + c;
            *sum = (!range->first ? *sum : start + (bias ? bias[c] : 0)) + *tile;
            if (!range->last) continue;
            if (*sum < INT32_MIN || *sum > INT32_MAX) atomic_store(&j->outcome, QN_OVERFLOW);
            *tile = (int32_t)*sum;
        }
    }
}

/* Converts a panel to quads, without their excess. */
static void make_quads(const multiplication *j, const scratch *s, const kblock *range, int64_t p,
                       const uint8_t *panel) {
    j->kernels->right_quads(panel, range->quartets, (uint8_t)j->less, j->center, s->panel);
    if (j->excess)
        qn_excess_take(j->excess, p * j->excess->kblocks + range->quartet / j->excess->kblock, j->center, s->panel);
}

/* Multiplies the excess of a panel by the rows of a tile, those of the kblock from i on. */
static void add_excess(const multiplication *j, const scratch *s, const kblock *range, int64_t i, int64_t p,
                       qn_tile *t) {
    const qn_excess *r = j->excess;
    const int64_t first = p * r->kblocks + range->quartet / r->kblock;
    qn_excess_tile x = {.turned = s->turned + i, .step = s->turned_step, .center = j->center, .sums = s->more};
    x.bands = (int)((t->rows + QN_BAND - 1) / QN_BAND);
    t->more = NULL;
    for (uint32_t n = r->first[first]; n < r->first[first + 1]; n++, x.add = true) {
        x.pass = r->passes + n, x.pairs = r->pairs + x.pass->first;
        j->kernels->add_excess(&x);
        t->more = s->more;
    }
}

/* Makes panels of bytes of the codes of 4 or 2 bits of a tile. */
static void unpack(const multiplication *j, const scratch *s, qn_tile *t) {
    const int64_t step = t->quartets * QN_QUARTET;
    for (int i = 0; i < t->panels; i++)
        j->kernels->right_unpack(t->right + i * t->right_step, j->b->bits, t->quartets, s->bytes + i * step);
    t->right = s->bytes, t->right_step = step;
}

/* Multiplies the packed rows of a kblock by panels side by side. */
static void multiply_panels(multiplication *j, scratch *s, const plan *g, const kblock *range, int64_t p, int panels) {
    const qn_packed *b = j->b;
    const qn_table *k = j->kernels;
    const int64_t column = p * QN_PANEL, width = panels * QN_PANEL, count = least(width, b->n - column);
    const bool outer_a = !j->pairs && j->za.count > 1 && (range->first || j->wide || j->strips), outer_b = !b->uniform;
    const bool direct = j->out->type == QN_I32 && !j->wide && count == width,
               done = range->last || !(j->wide || s->between);
    const bool fused = j->out->type == QN_F32 && j->tiling.finishes && done && range->rows > QN_SLIVER &&
                       count == width && !(outer_a || outer_b || j->wide || b->form == QN_WORDS);
    qn_finish stage;
    int32_t e[QN_PANELS * QN_PANEL];
    panel_terms terms;
    qn_tile t = {
        .quartets = range->quartets, .right_step = qn_panel_bytes(b), .panels = panels, .column_start = terms.start};
    if (j->strips)
        t.right = s->strip + (p - range->strip) * range->quartets * QN_QUARTET,
        t.right_step = range->quartets * QN_QUARTET;
    else t.right = b->panel + p * qn_panel_bytes(b) + qn_quartets_bytes(b, range->quartet);
    if (b->bits < 8 && !j->in_bits) unpack(j, s, &t);
    column_terms(j, p, &t, range->quartet, &terms);
    if (j->quads) make_quads(j, s, range, p, t.right), t.right = s->panel;
    else if (g->widen) k->right_widen(t.right, range->quartets, (uint16_t *)(void *)s->panel), t.right = s->panel;
    for (int64_t c = 0; outer_b && c < width; c++) e[c] = b->e[column + c] - j->less;
    for (int64_t i = 0; i < range->rows; i += t.rows) {
        t.rows = (direct || fused) && !j->excess ? range->rows : least(g->buffered, range->rows - i);
        t.left = s->left + i * range->quartets * j->left_bytes, t.row_start = s->row_start + i;
        if (fused) stage = stage_of(j, range->row + i, column), t.finish = &stage;
        place_tile(j, s, g, range, i, column, count, direct, &t);
        if (!direct && !fused && done) fetch_lines(j->out, range->row + i, t.rows, column, count);
        if (j->excess) add_excess(j, s, range, i, p, &t);
        if (g->widen) k->multiply_pairs_wide(&t);
        else j->multiply(&t);
        if (outer_b) k->add_outer(s->minus_sum + i, e, t.rows, width, t.c, t.c_step);
        if (outer_a) k->add_outer(s->minus_zero + i, terms.sum, t.rows, width, t.c, t.c_step);
        if (j->wide)
            add_wide(j, &t, range, range->row + i, column, count, s->wide + i * g->columns + (column - range->left), g);
        if (!direct && !fused && done) finish(j, t.c, t.c_step, range->row + i, t.rows, column, count);
        if (j->out->gelu && done) activate(j, range->row + i, t.rows, column, count);
    }
}

/* Packs `panels` panels of a kblock; they are multiplied before the next ones overwrite them. */
static void pack_strip(const multiplication *j, scratch *s, const kblock *range, int panels) {
    for (int64_t g = 0; g < range->quartets; g += QN_PACK_QUARTETS)
        qn_pack_bytes(j->strips, range->strip, panels, range->quartet + g, least(QN_PACK_QUARTETS, range->quartets - g),
                      s->strip + g * QN_QUARTET, range->quartets * QN_QUARTET);
}

/* Multiplies rows [m0, m1) by panels [p0, p1). */
static void multiply_rectangle(multiplication *j, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
    if (m0 >= m1 || p0 >= p1) return;
    const plan g = plan_of(j, m1 - m0, p1 - p0);
    scratch s;
    if (!scratch_make(&s, j, &g)) {
        atomic_store(&j->outcome, QN_NO_MEMORY);
        return;
    }
    kblock range = {.left = p0 * QN_PANEL};
    for (range.row = m0; range.row < m1; range.row += g.rows)
        for (range.quartet = 0; range.quartet < j->b->quartets; range.quartet += g.quartets) {
            range.rows = least(g.rows, m1 - range.row),
            range.quartets = least(g.quartets, j->b->quartets - range.quartet);
            range.first = range.quartet == 0, range.last = range.quartet + range.quartets == j->b->quartets;
            pack_left(j, range.row, range.rows, range.quartet, range.quartets, &s);
            row_terms(j, range.row, range.rows, range.first, &s);
            for (range.strip = p0; range.strip < p1; range.strip += g.panels) {
                int64_t end = least(range.strip + g.panels, p1);
                if (j->strips) pack_strip(j, &s, &range, (int)(end - range.strip));
                for (int64_t p = range.strip; p < end; p += g.tile)
                    multiply_panels(j, &s, &g, &range, p, (int)least(g.tile, end - p));
            }
        }
    free(s.memory);
}

static void multiply_piece(void *context, int64_t begin, int64_t end) {
    multiplication *j = context;
    uint64_t modes = qn_fp_begin();
    int64_t rows = j->a->rows, panels = j->b->panels;
    if (j->by_rows) multiply_rectangle(j, begin, end, 0, panels);
    else multiply_rectangle(j, 0, rows, begin, end);
    qn_fp_end(modes);
}

/* One row at a time in int64, for words so large that even a short kblock may overflow int32. */
static void multiply_slowly(void *context, int64_t begin, int64_t end) {
    multiplication *j = context;
    const qn_packed *b = j->b;
    uint64_t modes = qn_fp_begin();
    for (int64_t i = begin; i < end; i++)
        for (int64_t p = 0; p < b->panels; p++) {
            const int16_t *word = (const int16_t *)(const void *)(b->panel + p * qn_panel_bytes(b));
            const int32_t *e = b->e + p * QN_PANEL, *bias = j->out->acc_bias;
            int64_t sum[QN_PANEL] = {0}, count = least(QN_PANEL, b->n - p * QN_PANEL);
            int32_t acc[QN_PANEL];
            for (int64_t k = 0; k < b->k; k++) {
                int64_t a = qn_code_at(j->a, i, k) - zero_of(j, i);
                for (int c = 0; c < QN_PANEL; c++) sum[c] += a * (word[k / 2 * 32 + 2 * c + k % 2] - e[c]);
            }
            for (int64_t c = 0; c < count; c++) {
                if (bias) sum[c] += bias[p * QN_PANEL + c];
                if (sum[c] < INT32_MIN || sum[c] > INT32_MAX) atomic_store(&j->outcome, QN_OVERFLOW);
                acc[c] = (int32_t)sum[c];
            }
            finish(j, acc, QN_PANEL, i, 1, p * QN_PANEL, count);
        }
    qn_fp_end(modes);
}

enum { SHORT_KBLOCK = 64 }; /* k: with shorter kblocks in int32, multiply_slowly is as good */

/* `each` bounds the products of one k; `wide`: their sum may overflow int32. */
static qn_outcome multiply(const qn_matrix *a, qn_zeros za, const qn_packed *b, const qn_packing *strips,
                           const qn_result *out, int64_t largest, bool wide) {
    const qn_table *k = qn_kernels();
    multiplication j = {.a = a, .za = za, .b = b, .strips = strips, .out = out, .kernels = k, .wide = wide};
    j.largest = most(largest, 1);
    int64_t m = a->rows, macs;
    if (__builtin_mul_overflow(m, b->k, &macs) || __builtin_mul_overflow(macs, b->n, &macs)) macs = INT64_MAX;
    k->matmul_tiling(&j.tiling);
    int64_t cost = most(b->k * b->n, macs / j.tiling.macs_a_byte);
    if (wide && INT32_MAX / j.largest < SHORT_KBLOCK) {
        qn_parallel_for(m, 1, macs, multiply_slowly, &j);
        return (qn_outcome)atomic_load(&j.outcome);
    }
    /* No quad exceeds int16. */
    const bool whole = b->bits < 8 || (a->narrow && !b->lowest && b->form != QN_WORDS);
    j.quads = j.tiling.quads && m >= j.tiling.widen_rows && !wide && (b->excess || whole);
    j.excess = j.quads && !whole && b->excess->first[b->panels * b->excess->kblocks] ? b->excess : NULL;
    j.in_bits = b->bits < 8 && m <= QN_SLIVER && !wide;
    const bool parts = b->form == QN_FULL && j.tiling.parts && m == 1;
    j.pairs = b->form == QN_FULL && j.tiling.pairs && !j.quads && !parts;
    j.center = a->narrow ? 64 : 128;
    j.less = j.pairs || j.quads ? qn_middle_of(b) : 0;
    j.offset = a->type == QN_U8 && b->form != QN_WORDS ? j.quads ? j.center : 128 : 0;
    j.multiply = b->form == QN_WORDS    ? k->multiply_words
                 : j.in_bits            ? b->bits == 4 ? k->multiply_u4 : k->multiply_u2
                 : j.quads              ? k->multiply_quads
                 : b->form == QN_NARROW ? k->multiply_u7
                 : parts                ? k->multiply_parts
                 : j.pairs              ? k->multiply_pairs
                                        : k->multiply_u8;
    j.left = b->form == QN_WORDS ? k->left_words
             : j.in_bits         ? left_plain
             : j.quads           ? k->left_quads
             : parts             ? k->left_parts
             : j.pairs           ? k->left_pairs
                                 : k->left_bytes;
    j.left_bytes = j.pairs || parts ? 8 : 4;
    j.by_rows = !strips && m >= 2 * b->n && m >= 2 * QN_SLIVER;
    int64_t threads = qn_num_threads(), extent = j.by_rows ? m : b->panels,
            unit = j.by_rows ? 12
                   : strips  ? QN_PANELS
                             : j.tiling.panels;
    int64_t turns = most(1, least(4, extent * (j.by_rows ? 1 : QN_PANEL) / (threads * PIECE_COLUMNS)));
    int64_t grain = round_up(most(1, (extent + threads * turns - 1) / (threads * turns)), unit);
    qn_parallel_for(extent, grain, cost, multiply_piece, &j);
    return (qn_outcome)atomic_load(&j.outcome);
}

bool qn_may_overflow(int64_t largest, int64_t k, int64_t extra) {
    int64_t bound;
    return __builtin_mul_overflow(largest, k, &bound) || bound > INT32_MAX - extra;
}

qn_outcome qn_multiply_safely(const qn_matrix *a, qn_zeros za, const qn_packed *b, const qn_packing *strips,
                              const qn_result *out) {
    int64_t largest = qn_magnitude_of(qn_extremes_of_type(a->type), za) * b->magnitude, extra = 0;
    for (int64_t n = 0; out->acc_bias && n < b->n; n++) extra = most(extra, llabs((long long)out->acc_bias[n]));
    for (int64_t m = 0; out->row_bias && m < a->rows; m++) extra = most(extra, llabs((long long)out->row_bias[m]));
    if (b->form == QN_WORDS && qn_may_overflow(largest, b->k, extra))
        largest = qn_magnitude_of(qn_extremes_of_matrix(a), za) * b->magnitude;
    return multiply(a, za, b, strips, out, largest, qn_may_overflow(largest, b->k, extra));
}

qn_outcome qn_matmul_packed(const qn_matrix *a, qn_zeros za, const qn_packed *b, const qn_result *out) {
    return qn_multiply_safely(a, za, b, NULL, out);
}
