/* From arrays to kernels: cuts a grid into spans of contiguous elements, copies elements
 * that a kernel cannot read in place into a tile in the L1 cache, and shares the spans among threads. */
#ifndef QN_WALK_H
#define QN_WALK_H

#include <pthread.h>

#include "packing.h"
#include "source.h"

enum {
    QN_WIDE = 4096,             /* columns of a strip, whose parameters or ranges fit the L1 cache */
    QN_CODE_TILE = 2 * QN_WIDE, /* codes of a byte between a kernel and their packed form; they stay in the L1 cache */
    QN_ROWS_TILE = 8 * QN_WIDE, /* the same of rows that share their parameters, in the L2 cache */
};

typedef struct qn_walk qn_walk;
typedef void (*qn_span_function)(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p);

struct qn_walk {
    const qn_source *source;
    qn_grid grid;
    qn_affine params;
    int64_t total;
    qn_type out_type;
    char *out;
    size_t out_size;
    qn_span_function span;
    bool in_place;       /* the kernel reads the input and writes the output directly; else through tiles */
    bool staged;         /* the output is narrowed from a tile: no streaming stores */
    bool by_codes;       /* packed codes pass through a tile, float32 is read or written in place */
    qn_byte_rows packed; /* the output, if its width has bits */
    const void *own;     /* arguments of the operation */
    /* Replaces spans of one row: processes rows [r0, r1), which share the parameters at `offset`. */
    void (*rows)(const qn_walk *w, int64_t r0, int64_t r1, int64_t offset, void *room);
    void *(*room)(const qn_walk *w); /* workspace of `rows`, freed after it; NULL: no memory */
    pthread_mutex_t *merge;
    int64_t row; /* elements after which the parameters repeat or advance */
    int64_t columns_begin, columns_end;
};

qn_walk qn_new_walk(const qn_source *source, const qn_grid *grid, const qn_affine *params, void *out, qn_type type,
                    qn_span_function span);
void qn_walk_all(qn_walk *w);

/* Call function(w, start, n, p) on tiles of a span of one row, or on a span of p->rows rows that fit one code tile. */
void qn_by_tiles(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p, qn_span_function function);
void qn_by_code_tiles(const qn_walk *w, int64_t start, int64_t n, const qn_affine *p, qn_span_function function);

#endif
