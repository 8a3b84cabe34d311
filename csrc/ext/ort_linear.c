/* Linear: rows of float32 times a weight of integers; docs/onnx-operators.md defines it. The kernels read the panels
 * where the runtime holds them. */
#include <stdlib.h>

#include "hadamard.h"
#include "ort_kernel.h"
#include "packed_columns.h"
#include "packed_groups.h"

static const float unbounded = __builtin_inff();

enum { X, W, SCALE, ZERO_POINT, BIAS, SMOOTH, SIGNS };
enum { PANELS_AT = 64 }; /* bytes: a cache line */

typedef struct {
    int64_t k, n, outputs; /* n: columns of an output */
    bool in_groups, is_signed, symmetric, by_row;
    int bits, activation_bits;
    ort_activation activation;
    const float *scale, *bias, *smooth;
    qn_hadamard hadamard;
    float *factors; /* of it; NULL: no transform */
    const uint8_t *panels;
    qn_packed **packed; /* [outputs], without groups */
    qn_grouped grouped;
} linear;

static void destroy(void *kernel) {
    linear *l = kernel;
    for (int64_t i = 0; l->packed && i < l->outputs; i++) qn_packed_free(l->packed[i]);
    free(l->packed), free(l->factors), free(l);
}

static int64_t panels_of(const linear *l) { return (l->n + QN_PANEL - 1) / QN_PANEL; }

static ort_status *read_attributes(const ort_node *n, linear *l) {
    static const char *const granularities[] = {"row", "group"};
    const ort_api *api = n->api;
    const int64_t columns = ort_int(n, "N", 0), group = ort_int(n, "group_size", 0), bits = ort_int(n, "bits", 8),
                  activation_bits = ort_int(n, "activation_bits", 8);
    size_t outputs = 1;
    int granularity;
    ort_status *s = ORT(api, info_output_count)(n->info, &outputs);
    if (!s) s = ort_read_activation(n, &l->activation);
    if (!s) s = ort_choice(n, "x_granularity", granularities, 2, &granularity);
    if (s) return s;
    l->k = ort_int(n, "K", 0), l->outputs = (int64_t)outputs;
    if (l->k < 1 || l->k > INT32_MAX)
        return ort_error(api, n->name, "K must be in [1, 2147483647]; got %lld", (long long)l->k);
    if (columns < 1 || columns > INT32_MAX || columns % l->outputs)
        return ort_error(api, n->name, "N must be a multiple of the %zu outputs, in [1, 2147483647]; got %lld", outputs,
                         (long long)columns);
    if (bits != 8 && bits != 4 && bits != 2)
        return ort_error(api, n->name, "bits must be 8, 4 or 2; got %lld", (long long)bits);
    if (group != 0 && group != 16 && group != 32 && group != 64 && group != 128)
        return ort_error(api, n->name, "group_size must be 0, 16, 32, 64 or 128; got %lld", (long long)group);
    if (activation_bits != 8 && activation_bits != 7)
        return ort_error(api, n->name, "activation_bits must be 8 or 7; got %lld", (long long)activation_bits);
    if (granularity && !group) return ort_error(api, n->name, "x_granularity must be \"row\" without groups");
    l->n = columns / l->outputs, l->bits = (int)bits, l->in_groups = group > 0,
    l->activation_bits = (int)activation_bits;
    l->is_signed = ort_int(n, "signed", 1) != 0, l->symmetric = ort_int(n, "symmetric", 0) != 0;
    l->by_row = granularity == 0;
    l->grouped = (qn_grouped){.k = l->k, .n = l->n, .bits = l->bits, .group = group};
    return NULL;
}

/* The factors of qn.weights.hadamard. */
static ort_status *read_hadamard(const ort_node *n, linear *l) {
    const void *signs;
    ort_status *s = ort_vector(n, SIGNS, "signs", ORT_INT8, l->k, false, &signs);
    if (s || !signs) return s;
    const int64_t block = ort_int(n, "hadamard_block", 0);
    l->factors = malloc((size_t)l->k * sizeof(float));
    if (!l->factors) return ort_no_memory(n->api, n->name);
    if (qn_hadamard_make(signs, l->k, block, l->factors, &l->hadamard)) return NULL;
    return ort_error(n->api, n->name,
                     "hadamard_block must be 2^k, 12 * 2^k or 20 * 2^k and divide K; got %lld and K = %lld",
                     (long long)block, (long long)l->k);
}

static ort_status *read_panels(const ort_node *n, linear *l) {
    ort_tensor w;
    ort_status *s = ort_constant(n, W, "w", ORT_UINT8, 2, &w);
    if (s) return s;
    if (!w.data) return ort_error(n->api, n->name, "w must be given; got a node without it");
    const int64_t rows = l->outputs * panels_of(l);
    bool fits = w.dims[0] == rows;
    int64_t bytes = qn_packed_panel_bytes(l->k, l->bits);
    if (l->in_groups) {
        fits = fits && false;
        for (int form = 0; form < 4; form++) {
            qn_grouped layout = l->grouped;
            layout.half = form & 1, layout.zeros = form & 2;
            if (!qn_grouped_layout(&layout)) continue;
            bytes = layout.groups * layout.record;
            if (w.dims[0] == rows && w.dims[1] == bytes) fits = true, l->grouped = layout;
        }
    } else fits = fits && w.dims[1] == bytes;
    if (!fits)
        return ort_error(n->api, n->name, "w must be of %lld panels of %lld bytes%s; got shape (%lld, %lld)",
                         (long long)rows, (long long)bytes, l->in_groups ? ", or with zero points or other scales" : "",
                         (long long)w.dims[0], (long long)w.dims[1]);
    s = ort_align(n, &w, PANELS_AT);
    l->panels = w.data;
    return s;
}

static ort_status *pack_columns(const ort_node *n, linear *l, const int32_t *zero_points) {
    const int low = l->is_signed ? -(1 << (l->bits - 1)) : 0, high = low + (1 << l->bits) - 1;
    for (int64_t i = 0; zero_points && i < l->n * l->outputs; i++)
        if (zero_points[i] < low || zero_points[i] > high)
            return ort_error(n->api, n->name, "zero_point must be in [%d, %d]; got %d", low, high, zero_points[i]);
    l->packed = calloc((size_t)l->outputs, sizeof *l->packed);
    if (!l->packed) return ort_no_memory(n->api, n->name);
    const int64_t step = panels_of(l) * qn_packed_panel_bytes(l->k, l->bits);
    for (int64_t i = 0; i < l->outputs; i++) {
        const qn_zeros zeros = {zero_points ? zero_points + i * l->n : NULL, zero_points ? l->n : 0};
        bool valid;
        l->packed[i] = qn_borrow_weights(l->panels + i * step, l->k, l->n, l->bits, l->is_signed, zeros, &valid);
        if (!l->packed[i]) return ort_no_memory(n->api, n->name);
        if (!valid)
            return ort_error(n->api, n->name, "w must have the code %d as padding; got another one",
                             1 << (l->bits - 1));
    }
    return NULL;
}

static ort_status *create(const ort_node *n, void **kernel) {
    linear *l = calloc(1, sizeof *l);
    if (!l) return ort_no_memory(n->api, n->name);
    const void *scale = NULL, *bias = NULL, *smooth = NULL, *zero_points = NULL;
    ort_status *s = read_attributes(n, l);
    const int64_t columns = l->n * l->outputs;
    if (!s) s = read_panels(n, l);
    if (!s) s = ort_vector(n, SCALE, "scale", ORT_FLOAT, columns, !l->in_groups, &scale);
    if (!s) s = ort_vector(n, ZERO_POINT, "zero_point", ORT_INT32, columns, false, &zero_points);
    if (!s && l->in_groups && (scale || zero_points))
        s = ort_error(n->api, n->name,
                      "scale and zero_point must be left out for a weight in groups; got a node with one");
    if (!s) s = ort_vector(n, BIAS, "bias", ORT_FLOAT, columns, false, &bias);
    if (!s) s = ort_vector(n, SMOOTH, "smooth", ORT_FLOAT, l->k, false, &smooth);
    if (!s) s = read_hadamard(n, l);
    if (!s && !l->in_groups) s = pack_columns(n, l, zero_points);
    l->scale = scale, l->bias = bias, l->smooth = smooth;
    if (s) destroy(l);
    else *kernel = l;
    return s;
}

static void limits(const linear *l, int32_t *low, int32_t *high) {
    const int32_t half = 1 << (l->activation_bits - 1);
    *low = l->symmetric ? 1 - half : 0, *high = l->symmetric ? half - 1 : 2 * half - 1;
}

static qn_outcome multiply_columns(const linear *l, const float *x, int64_t rows, float *const *y) {
    qn_input input = {.x = x, .m = rows, .is_signed = l->symmetric, .symmetric = l->symmetric, .smooth = l->smooth};
    limits(l, &input.qmin, &input.qmax);
    input.hadamard = l->factors ? &l->hadamard : NULL;
    qn_result *results = calloc((size_t)l->outputs, sizeof *results);
    if (!results) return QN_NO_MEMORY;
    for (int64_t i = 0; i < l->outputs; i++) {
        qn_result r = {.type = QN_F32, .data = y[i], .row_stride = l->n, .column_scale = l->scale + i * l->n};
        r.bias = l->bias ? l->bias + i * l->n : NULL;
        r.lo = l->activation == ORT_RELU ? 0 : -unbounded, r.hi = unbounded, r.gelu = l->activation == ORT_GELU;
        results[i] = r;
    }
    qn_outcome outcome = qn_linear(&input, (const qn_packed *const *)l->packed, results, l->outputs);
    free(results);
    return outcome;
}

static qn_outcome multiply_groups(const linear *l, const float *x, int64_t rows, float *const *y) {
    const qn_grouped *w = &l->grouped;
    int64_t bytes = qn_grouped_scratch(w, rows, l->factors || l->smooth);
    void *scratch = bytes < 0 ? NULL : malloc((size_t)bytes);
    if (!scratch) return QN_NO_MEMORY;
    qn_grouped_product p = {.x = x, .m = rows, .is_signed = l->symmetric, .symmetric = l->symmetric};
    limits(l, &p.qmin, &p.qmax);
    p.smooth = l->smooth, p.hadamard = l->factors ? &l->hadamard : NULL, p.by_row = l->by_row;
    p.lowest = l->activation == ORT_RELU ? 0 : -unbounded, p.highest = unbounded, p.gelu = l->activation == ORT_GELU;
    for (int64_t i = 0; i < l->outputs; i++) {
        p.bias = l->bias ? l->bias + i * l->n : NULL, p.y = y[i];
        qn_grouped_multiply(w, l->panels + i * qn_grouped_bytes(w), &p, scratch);
    }
    free(scratch);
    return QN_DONE;
}

static ort_status *compute(void *kernel, const ort_call *c) {
    const linear *l = kernel;
    ort_tensor x;
    ort_status *s = ort_input(c, X, &x);
    if (s) return s;
    if (x.rank < 1 || x.dims[x.rank - 1] != l->k)
        return ort_error(c->api, c->name, "x must be of shape (..., %lld); got a last axis of %lld", (long long)l->k,
                         x.rank ? (long long)x.dims[x.rank - 1] : 0LL);
    const int64_t rows = ort_elements(x.dims, x.rank - 1);
    float **y = calloc((size_t)l->outputs, sizeof *y);
    if (!y) return ort_no_memory(c->api, c->name);
    x.dims[x.rank - 1] = l->n;
    bool whole = true; /* an output that nothing reads may be absent */
    for (int64_t i = 0; i < l->outputs && !s; i++) {
        s = ort_output(c, (size_t)i, x.dims, x.rank, (void **)&y[i]);
        whole = whole && y[i];
    }
    if (!s && rows > 0 && !whole) s = ort_error(c->api, c->name, "every output must have a name; got an empty one");
    if (!s && rows > 0) {
        qn_outcome outcome = (l->in_groups ? multiply_groups : multiply_columns)(l, x.data, rows, y);
        if (outcome == QN_NO_MEMORY) s = ort_no_memory(c->api, c->name);
        if (outcome == QN_OVERFLOW) s = ort_error(c->api, c->name, "every sum of codes must be in the range of int32");
    }
    free(y);
    return s;
}

const ort_operator qn_ort_linear = {
    .name = "Linear",
    .inputs = 7,
    .required = 2,
    .input_types = {ORT_FLOAT, ORT_UINT8, ORT_FLOAT, ORT_INT32, ORT_FLOAT, ORT_FLOAT, ORT_INT8},
    .outputs = 1,
    .required_outputs = 1,
    .variadic = true,
    .create = create,
    .compute = compute,
    .destroy = destroy,
};
