/* Reads arrays: sizes of elements and grids, and copies in tiles of elements that a kernel cannot read in place. */
#ifndef QN_SOURCE_H
#define QN_SOURCE_H

#include "qn_types.h"

static inline bool qn_is_float(qn_type type) { return type < QN_I8; }
size_t qn_itemsize(qn_type type);
int64_t qn_elements(const qn_source *x);
int64_t qn_grid_params(const qn_grid *grid);
int64_t qn_grid_groups(const qn_grid *grid); /* along the channels; 0 without groups */

/* The first element and the length of run o of parameter p: neighbours in memory. A group has one run. */
int64_t qn_grid_run(const qn_grid *g, int64_t o, int64_t p, int64_t *length);

bool qn_grid_columns(const qn_grid *g); /* whether neighbours in memory belong to different parameters */

/* Columns side by side, the parameters k, k + 1, ...: their elements are start, start + stride, ... */
typedef struct {
    int64_t start, rows, stride;
    int64_t count; /* of columns */
} qn_strip;

/* At most `most` columns from parameter k on; without groups, rows [o0, o1) of them. */
qn_strip qn_grid_strip(const qn_grid *g, int64_t o0, int64_t o1, int64_t k, int64_t most);

enum { QN_TILE = 2048 }; /* elements staged at a time: 16 KiB of float64 at most */

typedef union {
    double align;
    char bytes[QN_TILE * sizeof(double)];
} qn_tile_buffer;

void qn_gather(const qn_source *source, int64_t start, int64_t n, void *tile); /* native byte order, C order */

/* Elements [start, start + n) of the source in their own type: in place, or gathered into t. */
const void *qn_source_raw(const qn_source *s, int64_t start, int64_t n, qn_tile_buffer *t);

/* The same of a source of floats; a type narrower than float32 is widened into `wide`. */
const float *qn_source_floats(const qn_source *s, int64_t start, int64_t n, qn_tile_buffer *t, float *wide);

/* At most QN_TILE floats of a source as float32, in place or in `buffer`; float64 is rounded to odd. */
const float *qn_floats_at(const qn_source *source, int64_t start, int64_t n, float *buffer);

/* From and to a type of float_list.h other than float32 and float64. */
void qn_widen(qn_type type, const void *h, float *x, int64_t n, const qn_cast *p);
void qn_narrow(qn_type type, const float *x, void *h, int64_t n, const qn_cast *p);
extern const qn_cast qn_plain_cast; /* neither saturates nor rounds stochastically */

#endif
