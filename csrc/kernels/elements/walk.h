/* From arrays to kernels: cuts a grid into spans of contiguous elements, stages what a kernel cannot read in place through
 * a tile in the L1 cache, and shares the spans among threads. */
#ifndef QN_WALK_H
#define QN_WALK_H

#include "qn_types.h"

/* Parameter arrays hold qn_grid_params(grid) elements; outputs are C-contiguous with the source's element count. */
void qn_quantize(const qn_source *x, void *q, qn_type code, const qn_grid *grid, const qn_affine *params);
void qn_dequantize(const qn_source *q, void *x, qn_type type, const qn_grid *grid, const qn_affine *params);
void qn_fake_quantize(const qn_source *x, void *y, qn_type type, const qn_grid *grid, const qn_affine *params);
void qn_requantize(const qn_source *acc, void *q, qn_type code, const qn_grid *grid, const qn_affine *params);
void qn_cast_array(const qn_source *x, void *y, qn_type type, const qn_cast *cast); /* index and stream are set */
void qn_find_float_error(const qn_source *x, qn_type type, double overflow, float normal, qn_float_error *sums);
bool qn_min_max(const qn_source *x, const qn_grid *grid, qn_range *ranges); /* false: no memory */

int64_t qn_grid_params(const qn_grid *grid);
size_t qn_itemsize(qn_type type);
void qn_gather(const qn_source *source, int64_t start, int64_t n, void *tile); /* native byte order, C order */

enum { QN_TILE = 2048 }; /* elements staged at a time: 16 KiB of float64 at most */

/* At most a tile of a source of floats as float32, in place or in `buffer`; float64 is rounded to odd. */
const float *qn_floats_at(const qn_source *source, int64_t start, int64_t n, float *buffer);
void qn_narrow(qn_type type, const float *x, void *h, int64_t n, const qn_cast *p); /* to a type of float_list.h */

#endif
