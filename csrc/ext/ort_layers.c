/* Embedding and SkipLayerNormalization; docs/onnx-operators.md defines them. */
#include <stdlib.h>
#include <string.h>

#include "layers.h"
#include "ort_kernel.h"

/* ---- Embedding ---- */

typedef struct {
    int64_t rows, n;
    const int8_t *codes;
    const float *scale;
} embedding;

static ort_status *create_embedding(const ort_node *n, void **kernel) {
    ort_tensor codes;
    const void *scale = NULL;
    ort_status *s = ort_constant(n, 1, "codes", ORT_INT8, 2, &codes);
    if (!s && !codes.data) s = ort_error(n->api, n->name, "codes must be given; got a node without it");
    if (!s) s = ort_vector(n, 2, "scale", ORT_FLOAT, codes.dims[0], true, &scale);
    if (s) return s;
    embedding *e = malloc(sizeof *e);
    if (!e) return ort_no_memory(n->api, n->name);
    *e = (embedding){codes.dims[0], codes.dims[1], codes.data, scale};
    *kernel = e;
    return NULL;
}

static ort_status *compute_embedding(void *kernel, const ort_call *c) {
    const embedding *e = kernel;
    ort_tensor ids;
    float *y;
    ort_status *s = ort_input(c, 0, &ids);
    if (s) return s;
    if (ids.type != ORT_INT64 && ids.type != ORT_INT32)
        return ort_error(c->api, c->name, "ids must be of int64 or int32; got element type %d", ids.type);
    if (ids.rank == ORT_MOST_DIMS)
        return ort_error(c->api, c->name, "ids must have at most %d axes; got %zu", ORT_MOST_DIMS - 1, ids.rank);
    ids.dims[ids.rank] = e->n;
    if ((s = ort_output(c, 0, ids.dims, ids.rank + 1, (void **)&y))) return s;
    const qn_look_up l = {e->codes, e->scale, e->rows, e->n, ids.data, ids.type == ORT_INT64, y};
    if (qn_look_up_rows(&l, ort_elements(ids.dims, ids.rank))) return NULL;
    return ort_error(c->api, c->name, "ids must be in [-%lld, %lld); got another one", (long long)e->rows,
                     (long long)e->rows);
}

const ort_operator qn_ort_embedding = {
    .name = "Embedding",
    .inputs = 3,
    .required = 3,
    .input_types = {ORT_ANY, ORT_INT8, ORT_FLOAT},
    .outputs = 1,
    .required_outputs = 1,
    .create = create_embedding,
    .compute = compute_embedding,
    .destroy = free,
};

/* ---- SkipLayerNormalization ---- */

typedef struct {
    int64_t n;
    const float *gamma, *beta;
    float epsilon;
} norm;

static ort_status *create_norm(const ort_node *n, void **kernel) {
    ort_tensor gamma;
    const void *beta = NULL;
    ort_status *s = ort_constant(n, 2, "gamma", ORT_FLOAT, 1, &gamma);
    if (!s && (!gamma.data || gamma.dims[0] < 1))
        s = ort_error(n->api, n->name, "gamma must be given and not be empty");
    if (!s) s = ort_vector(n, 3, "beta", ORT_FLOAT, gamma.dims[0], false, &beta);
    if (s) return s;
    norm *k = malloc(sizeof *k);
    if (!k) return ort_no_memory(n->api, n->name);
    *k = (norm){gamma.dims[0], gamma.data, beta, ort_float(n, "epsilon", 1e-5f)};
    *kernel = k;
    return NULL;
}

static ort_status *compute_norm(void *kernel, const ort_call *c) {
    const norm *k = kernel;
    ort_tensor x, residual;
    size_t outputs = 1;
    ort_status *s = ort_input(c, 0, &x);
    if (!s) s = ort_input(c, 1, &residual);
    if (!s) s = ORT(c->api, output_count)(c->context, &outputs);
    if (s) return s;
    if (x.rank < 1 || x.dims[x.rank - 1] != k->n)
        return ort_error(c->api, c->name, "x must be of shape (..., %lld); got a last axis of %lld", (long long)k->n,
                         x.rank ? (long long)x.dims[x.rank - 1] : 0LL);
    if (residual.rank != x.rank || memcmp(x.dims, residual.dims, x.rank * sizeof *x.dims))
        return ort_error(c->api, c->name, "residual must be of the shape of x; got another one");
    qn_norm rows = {.x = x.data, .residual = residual.data, .gamma = k->gamma, .beta = k->beta};
    rows.epsilon = k->epsilon, rows.n = k->n;
    if ((s = ort_output(c, 0, x.dims, x.rank, (void **)&rows.y))) return s;
    if (outputs > 1 && (s = ort_output(c, 1, x.dims, x.rank, (void **)&rows.sum))) return s;
    if (!rows.sum) rows.sum = rows.y;
    qn_add_norm_rows(&rows, ort_elements(x.dims, x.rank - 1));
    return NULL;
}

const ort_operator qn_ort_norm = {
    .name = "SkipLayerNormalization",
    .inputs = 4,
    .required = 3,
    .input_types = {ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_FLOAT},
    .outputs = 2,
    .required_outputs = 1,
    .create = create_norm,
    .compute = compute_norm,
    .destroy = free,
};
