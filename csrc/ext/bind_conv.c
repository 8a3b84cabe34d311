/* conv2d: convolutions of images with the filters of a weight. */
#include "bindings.h"

#include <string.h>

#include "conv.h"

static int images(PyObject *argument, PyObject *type, qn_conv *c) {
    qn_source s;
    if (qn_arg_source(argument, type, &s)) return -1;
    if (s.ndim != 4 || (s.type != QN_I8 && s.type != QN_U8)) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: the images are not 4-D or not of 8-bit codes.");
        return -1;
    }
    c->x = s.data, c->x_type = s.type;
    c->x_bytes = s.direct ? qn_elements(&s) : 0;
    memcpy(c->x_step, s.strides, sizeof c->x_step);
    c->images = s.shape[0], c->channels = s.shape[1], c->height = s.shape[2], c->width = s.shape[3];
    return 0;
}

/* The weight, C-contiguous, and its zero points. */
static int weight(PyObject *argument, PyObject *type, PyObject *zero, PyObject *channel_groups, qn_conv *c) {
    qn_source s;
    if (qn_arg_source(argument, type, &s) || qn_arg_i64(channel_groups, &c->channel_groups)) return -1;
    if (s.ndim != 4 || (s.type != QN_I8 && s.type != QN_U8) || !s.direct || c->channel_groups < 1 ||
        c->channels % c->channel_groups || s.shape[0] % c->channel_groups ||
        s.shape[1] != c->channels / c->channel_groups) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: the weight does not fit the images and channel groups.");
        return -1;
    }
    c->w = s.data, c->w_type = s.type, c->outputs = s.shape[0], c->filter[0] = s.shape[2], c->filter[1] = s.shape[3];
    bool one = PyArray_Check(zero) && PyArray_SIZE((PyArrayObject *)zero) == 1;
    c->w_zero.count = one ? 1 : c->outputs;
    return (c->w_zero.values = qn_arg_vector(zero, c->w_zero.count, NPY_INT32)) ? 0 : -1;
}

/* Strides, dilations, padding above and to the left; every row and column number of the padded image fits int64. */
static int geometry(qn_args far, const int64_t out[2], qn_conv *c) {
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
    int zero, type, middle, low, high;
    const void *scale, *bias;
    (void)self;
    if (qn_arg_count("conv2d", count, 20) || images(a[0], a[1], &c) || weight(a[2], a[3], a[5], a[6], &c) ||
        qn_arg_int(a[4], INT8_MIN, UINT8_MAX, &zero) || qn_arg_int(a[14], 0, QN_TYPE_COUNT - 1, &type) ||
        qn_arg_optional(a[15], c.outputs, NPY_FLOAT32, &scale) || qn_arg_optional(a[16], c.outputs, NPY_INT32, &bias) ||
        qn_arg_int(a[17], INT8_MIN, UINT8_MAX, &middle) || qn_arg_int(a[18], INT8_MIN, UINT8_MAX, &low) ||
        qn_arg_int(a[19], INT8_MIN, UINT8_MAX, &high))
        return NULL;
    PyArrayObject *y = (PyArrayObject *)a[13];
    c.type = (qn_type)type;
    bool codes = (c.type == QN_I8 || c.type == QN_U8) && scale, fits = codes || (c.type == QN_I32 && !bias);
    if (!fits || !PyArray_Check(a[13]) || PyArray_NDIM(y) != 4 || PyArray_DIM(y, 0) != c.images ||
        PyArray_DIM(y, 1) != c.outputs)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: the output does not fit the images and the weight.");
    c.y = qn_arg_output(a[13], PyArray_SIZE(y), qn_itemsize(c.type));
    c.out_height = PyArray_DIM(y, 2), c.out_width = PyArray_DIM(y, 3);
    if (!c.y || geometry(a + 7, (int64_t[]){c.out_height, c.out_width}, &c)) return NULL;
    c.x_zero = zero, c.scale = scale, c.bias = bias, c.zero_point = middle, c.qmin = low, c.qmax = high;
    qn_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_convolve(&c);
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
    QN_END,
};
