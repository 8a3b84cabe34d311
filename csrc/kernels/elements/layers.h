/* Layers between products: embeddings, and LayerNormalization of a sum. */
#ifndef QN_LAYERS_H
#define QN_LAYERS_H

#include "qn_types.h"

typedef struct {
    const int8_t *codes; /* [rows][n] */
    const float *scale;  /* [rows] */
    int64_t rows, n;
    const void *ids; /* int64 or int32, in [-rows, rows) */
    bool wide;       /* int64 */
    float *y;        /* [ids][n] */
} qn_look_up;

/* Each y = codes[id] * scale[id]. False if an id is outside; then some rows of y are not set. */
bool qn_look_up_rows(const qn_look_up *l, int64_t ids);

/* add_norm_f32 of `rows` rows, of which *first is the first. */
void qn_add_norm_rows(const qn_norm *first, int64_t rows);

#endif
