/* conv2d, conv2d_reals: convolutions of images with the filters of a weight. */
#include "bindings.h"

#include <string.h>

#include "conv_reals.h"

static int images(PyObject *argument, PyObject *type, qn_source *x, qn_conv *c) {
    if (qn_arg_source(argument, type, x)) return -1;
    if (x->ndim != 4) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: the images are not 4-D.");
        return -1;
    }
    c->images = x->shape[0], c->channels = x->shape[1], c->height = x->shape[2], c->width = x->shape[3];
    return 0;
}

/* The weight, C-contiguous. */
static int weight(PyObject *argument, PyObject *type, PyObject *channel_groups, qn_conv *c) {
    qn_source s;
    if (qn_arg_source(argument, type, &s) || qn_arg_i64(channel_groups, &c->channel_groups)) return -1;
    if (s.ndim != 4 || (s.type != QN_I8 && s.type != QN_U8) || !s.direct || c->channel_groups < 1 ||
        c->channels % c->channel_groups || s.shape[0] % c->channel_groups ||
        s.shape[1] != c->channels / c->channel_groups) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: the weight does not fit the images and channel groups.");
        return -1;
    }
    c->w = s.data, c->w_type = s.type, c->outputs = s.shape[0], c->filter[0] = s.shape[2], c->filter[1] = s.shape[3];
    return 0;
}

static int weight_zeros(PyObject *zero, qn_conv *c) {
    bool one = PyArray_Check(zero) && PyArray_SIZE((PyArrayObject *)zero) == 1;
    c->w_zero.count = one ? 1 : c->outputs;
    return (c->w_zero.values = qn_arg_vector(zero, c->w_zero.count, NPY_INT32)) ? 0 : -1;
}

static int result(PyObject *argument, size_t itemsize, qn_conv *c) {
    PyArrayObject *y = (PyArrayObject *)argument;
    if (!PyArray_Check(argument) || PyArray_NDIM(y) != 4 || PyArray_DIM(y, 0) != c->images ||
        PyArray_DIM(y, 1) != c->outputs) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: the output does not fit the images and the weight.");
        return -1;
    }
    c->out_height = PyArray_DIM(y, 2), c->out_width = PyArray_DIM(y, 3);
    return (c->y = qn_arg_output(argument, PyArray_SIZE(y), itemsize)) ? 0 : -1;
}

/* Strides, dilations, padding above and to the left; every row and column number of the padded image fits int64. */
static int geometry(qn_args far, qn_conv *c) {
    const int64_t out[2] = {c->out_height, c->out_width};
    int values[6];
    int64_t reach;
    for (int i = 0; i < 6; i++)
        if (qn_arg_int(far[i], i < 4, INT32_MAX, values + i)) return -1;
    for (int d = 0; d < 2; d++) {
        c->stride[d] = values[d], c->dilation[d] = values[2 + d];
        if (qn_arg_product(out[d], c->stride[d], &reach) || qn_arg_product(c->filter[d], c->dilation[d], &reach))
            return -1;
    }
    c->top = values[4], c->left = values[5];
    return 0;
}

/* (x, x_type, w, w_type, x_zero, w_zero, channel_groups, strides 2, dilations 2, top, left, out, out_type, scale, bias,
 *  zero_point, qmin, qmax) */
static PyObject *conv2d(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_conv c = {0};
    qn_source x;
    int zero, type, middle, low, high;
    const void *scale, *bias;
    (void)self;
    if (qn_arg_count("conv2d", count, 20) || images(a[0], a[1], &x, &c) || weight(a[2], a[3], a[6], &c) ||
        weight_zeros(a[5], &c) || qn_arg_int(a[4], INT8_MIN, UINT8_MAX, &zero) ||
        qn_arg_int(a[14], 0, QN_TYPE_COUNT - 1, &type) || qn_arg_optional(a[15], c.outputs, NPY_FLOAT32, &scale) ||
        qn_arg_optional(a[16], c.outputs, NPY_INT32, &bias) || qn_arg_int(a[17], INT8_MIN, UINT8_MAX, &middle) ||
        qn_arg_int(a[18], INT8_MIN, UINT8_MAX, &low) || qn_arg_int(a[19], INT8_MIN, UINT8_MAX, &high))
        return NULL;
    c.type = (qn_type)type;
    bool codes = (c.type == QN_I8 || c.type == QN_U8) && scale, fits = codes || (c.type == QN_I32 && !bias);
    if (!fits || (x.type != QN_I8 && x.type != QN_U8))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: the types of a convolution do not fit.");
    if (result(a[13], qn_itemsize(c.type), &c) || geometry(a + 7, &c)) return NULL;
    c.x = x.data, c.x_type = x.type, c.x_bytes = x.direct ? qn_elements(&x) : 0;
    memcpy(c.x_step, x.strides, sizeof c.x_step);
    c.x_zero = zero, c.scale = scale, c.bias = bias, c.zero_point = middle, c.qmin = low, c.qmax = high;
    qn_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_convolve(&c);
    Py_END_ALLOW_THREADS;
    if (outcome == QN_NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(outcome == QN_DONE);
}

/* (x, x_type, w, w_type, w_zero, channel_groups, strides 2, dilations 2, top, left, out, scale, bias, lo, hi, x_scale,
 * x_zero, qmin, qmax). With an x_scale of 0 each image has its own. */
static PyObject *conv2d_reals(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_conv c = {0};
    qn_source x;
    qn_real_images r = {0};
    qn_qparams params;
    const void *scale, *bias;
    (void)self;
    if (qn_arg_count("conv2d_reals", count, 21) || images(a[0], a[1], &x, &c) || weight(a[2], a[3], a[5], &c) ||
        weight_zeros(a[4], &c) || result(a[12], sizeof(float), &c) || geometry(a + 6, &c) ||
        qn_arg_optional(a[13], c.outputs, NPY_FLOAT32, &scale) ||
        qn_arg_optional(a[14], c.outputs, NPY_FLOAT32, &bias) || qn_arg_int(a[18], 0, UINT8_MAX, &params.zero_point) ||
        qn_arg_int(a[19], 0, UINT8_MAX, &r.qmin) || qn_arg_int(a[20], 0, UINT8_MAX, &r.qmax))
        return NULL;
    if (!scale || x.type != QN_F32 || !x.direct)
        return PyErr_Format(PyExc_ValueError,
                            "qnumpy._core: the images are not C-contiguous float32, or have no scales.");
    r.lo = (float)PyFloat_AsDouble(a[15]), r.hi = (float)PyFloat_AsDouble(a[16]);
    params.scale = (float)PyFloat_AsDouble(a[17]);
    if (PyErr_Occurred()) return NULL;
    r.scale = scale, r.bias = bias, r.x = params.scale > 0 ? &params : NULL, r.y = c.y;
    qn_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_convolve_reals((const float *)(const void *)x.data, &c, &r);
    Py_END_ALLOW_THREADS;
    if (outcome == QN_NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(outcome == QN_DONE);
}

PyMethodDef qn_conv_methods[] = {
    QN_METHOD(
        conv2d,
        "conv2d(x, x_type, w, w_type, x_zero, w_zero, channel_groups, stride_v, stride_h, dilation_v, dilation_h, "
        "top, left, out, out_type, scale, bias, zero_point, qmin, qmax, /)\n--\n\nConvolve images with the "
        "filters of a weight; False when a sum does not fit int32."),
    QN_METHOD(conv2d_reals,
              "conv2d_reals(x, x_type, w, w_type, w_zero, channel_groups, stride_v, stride_h, dilation_v, dilation_h, "
              "top, left, "
              "out, scale, bias, lo, hi, x_scale, x_zero, qmin, qmax, /)\n--\n\nConvolve images of reals, which are "
              "quantized first; False when a sum does not fit int32."),
    QN_END,
};
