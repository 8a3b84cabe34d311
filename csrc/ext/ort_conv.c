/* Conv: images of float32, quantized one by one, and filters of int8; docs/onnx-operators.md defines it. */
#include <stdlib.h>

#include "conv_reals.h"
#include "ort_kernel.h"

typedef struct {
    size_t axes; /* of an image: 1 or 2 */
    int64_t outputs, channels, filter[2], stride[2], dilation[2], before[2], after[2], groups;
    const void *w;
    const float *scale, *bias;
    ort_activation activation;
} convolution;

static ort_status *read_geometry(const ort_node *n, convolution *v) {
    const size_t axes = v->axes, skip = 2 - axes; /* an image of one axis is a row */
    int64_t pads[4] = {0};
    for (int d = 0; d < 2; d++) v->stride[d] = v->dilation[d] = 1;
    ort_status *s = ort_ints(n, "strides", v->stride + skip, axes);
    if (!s) s = ort_ints(n, "dilations", v->dilation + skip, axes);
    if (!s) s = ort_ints(n, "pads", pads, 2 * axes);
    if (s) return s;
    for (size_t d = 0; d < axes; d++) v->before[skip + d] = pads[d], v->after[skip + d] = pads[axes + d];
    v->groups = ort_int(n, "group", 1);
    bool fits = v->groups >= 1 && v->groups <= INT32_MAX && v->outputs % v->groups == 0;
    fits = fits && v->outputs >= 1 && v->channels >= 1;
    for (int d = 0; d < 2; d++) {
        fits = fits && v->filter[d] >= 1 && v->filter[d] <= INT32_MAX;
        fits = fits && v->stride[d] >= 1 && v->stride[d] <= INT32_MAX && v->dilation[d] >= 1 &&
               v->dilation[d] <= INT32_MAX && v->before[d] >= 0 && v->before[d] <= INT32_MAX && v->after[d] >= 0 &&
               v->after[d] <= INT32_MAX;
    }
    if (fits) return NULL;
    return ort_error(n->api, n->name,
                     "strides, dilations, pads, group and w must be those of a convolution; got others");
}

static ort_status *create(const ort_node *n, void **kernel) {
    ort_tensor w;
    const void *scale = NULL, *bias = NULL;
    ort_status *s = ort_constant(n, 1, "w", ORT_INT8, 4, &w);
    if (s) { /* an image of one axis */
        ort_status *other = ort_constant(n, 1, "w", ORT_INT8, 3, &w);
        ORT(n->api, release_status)(other ? other : s);
        if (other) return s;
        s = NULL;
    }
    if (!w.data) return ort_error(n->api, n->name, "w must be given; got a node without it");
    convolution *v = calloc(1, sizeof *v);
    if (!v) return ort_no_memory(n->api, n->name);
    v->axes = w.rank - 2, v->outputs = w.dims[0], v->channels = w.dims[1], v->w = w.data;
    v->filter[0] = w.rank == 4 ? w.dims[2] : 1, v->filter[1] = w.dims[w.rank - 1];
    s = read_geometry(n, v);
    if (!s) s = ort_vector(n, 2, "scale", ORT_FLOAT, v->outputs, true, &scale);
    if (!s) s = ort_vector(n, 3, "bias", ORT_FLOAT, v->outputs, false, &bias);
    if (!s) s = ort_read_activation(n, &v->activation);
    v->scale = scale, v->bias = bias;
    if (s) free(v);
    else *kernel = v;
    return s;
}

static ort_status *compute(void *kernel, const ort_call *c) {
    const convolution *v = kernel;
    ort_tensor x;
    ort_status *s = ort_input(c, 0, &x);
    if (s) return s;
    if (x.rank != v->axes + 2 || x.dims[1] != v->channels * v->groups)
        return ort_error(c->api, c->name, "x must be of shape (images, %lld, %s); got %zu axes and %lld channels",
                         (long long)(v->channels * v->groups), v->axes == 2 ? "height, width" : "width", x.rank,
                         x.rank > 1 ? (long long)x.dims[1] : 0LL);
    const int64_t size[2] = {v->axes == 2 ? x.dims[2] : 1, x.dims[x.rank - 1]};
    int64_t out[2];
    for (int d = 0; d < 2; d++) {
        if (size[d] > INT32_MAX) /* so that no number of a pixel overflows */
            return ort_error(c->api, c->name, "a side of x must be at most %d; got %lld", INT32_MAX,
                             (long long)size[d]);
        const int64_t padded = size[d] + v->before[d] + v->after[d], reach = (v->filter[d] - 1) * v->dilation[d] + 1;
        if (padded < reach)
            return ort_error(c->api, c->name, "the filter must fit the padded image; got a side of %lld for %lld",
                             (long long)padded, (long long)reach);
        out[d] = (padded - reach) / v->stride[d] + 1;
    }
    float *y;
    const int64_t images = x.dims[0];
    static const int32_t none = 0;
    x.dims[1] = v->outputs, x.dims[x.rank - 1] = out[1];
    if (v->axes == 2) x.dims[2] = out[0];
    if ((s = ort_output(c, 0, x.dims, x.rank, (void **)&y)) || images == 0) return s;
    qn_conv k = {
        .w = v->w, .w_type = QN_I8, .w_zero = {&none, 1}, .images = images, .height = size[0], .width = size[1]};
    k.channels = v->channels * v->groups, k.outputs = v->outputs, k.channel_groups = v->groups;
    for (int d = 0; d < 2; d++) k.filter[d] = v->filter[d], k.stride[d] = v->stride[d], k.dilation[d] = v->dilation[d];
    k.top = v->before[0], k.left = v->before[1], k.out_height = out[0], k.out_width = out[1];
    const qn_real_images r = {.scale = v->scale,
                              .bias = v->bias,
                              .gelu = v->activation == ORT_GELU,
                              .lo = v->activation == ORT_RELU ? 0 : -INFINITY,
                              .hi = INFINITY,
                              .y = y};
    const qn_outcome outcome = qn_convolve_reals(x.data, &k, &r);
    if (outcome == QN_NO_MEMORY) return ort_no_memory(c->api, c->name);
    if (outcome == QN_OVERFLOW) return ort_error(c->api, c->name, "every sum of codes must be in the range of int32");
    return NULL;
}

const ort_operator qn_ort_conv = {
    .name = "Conv",
    .inputs = 4,
    .required = 3,
    .input_types = {ORT_FLOAT, ORT_INT8, ORT_FLOAT, ORT_FLOAT},
    .outputs = 1,
    .required_outputs = 1,
    .create = create,
    .compute = compute,
    .destroy = free,
};
