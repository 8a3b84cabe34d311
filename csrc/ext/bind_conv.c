/* depthwise: a convolution of every channel with a kernel of its own. */
#include "bindings.h"

#include "conv.h"

enum { FARTHEST = 1 << 15 }; /* strides, dilations and padding: times a length in memory they fit in 63 bits */

static int lengths(qn_args from, int count, int64_t *values, int64_t *product) {
    *product = 1;
    for (int i = 0; i < count; i++)
        if (qn_arg_i64(from[i], values + i) || qn_arg_product(*product, values[i], product)) return -1;
    return 0;
}

/* (x, is_signed, w, zero_point, out, n, c, height, width, out_height, out_width, kernel_height, kernel_width,
 *  strides 2, dilations 2, top, left) */
static PyObject *depthwise(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_plane p = {0};
    int64_t in[4], out[2], kernel[2], inputs, outputs, weights;
    int far[6], zero;
    (void)self;
    if (qn_arg_count("depthwise", count, 19) || qn_arg_flag(a[1], &p.is_signed) ||
        qn_arg_int(a[3], INT8_MIN, UINT8_MAX, &zero) || lengths(a + 5, 4, in, &inputs) ||
        lengths(a + 9, 2, out, &outputs) || lengths(a + 11, 2, kernel, &weights) ||
        qn_arg_product(in[0] * in[1], outputs, &outputs) || qn_arg_product(in[1], weights, &weights))
        return NULL;
    for (int i = 0; i < 6; i++)
        if (qn_arg_int(a[13 + i], i < 4, FARTHEST, far + i)) return NULL;
    if (!(p.x = qn_arg_vector(a[0], inputs, p.is_signed ? NPY_INT8 : NPY_UINT8)) ||
        !(p.w = qn_arg_vector(a[2], weights, NPY_INT32)) || !(p.y = qn_arg_output(a[4], outputs, sizeof *p.y)))
        return NULL;
    p.height = in[2], p.width = in[3], p.out_height = out[0], p.out_width = out[1];
    p.kernel_height = kernel[0], p.kernel_width = kernel[1], p.zero_point = zero;
    p.stride[0] = far[0], p.stride[1] = far[1], p.dilation[0] = far[2], p.dilation[1] = far[3];
    p.top = far[4], p.left = far[5];
    Py_BEGIN_ALLOW_THREADS;
    qn_depthwise(&p, in[0], in[1]);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_conv_methods[] = {
    QN_METHOD(depthwise,
              "depthwise(x, is_signed, w, zero_point, out, n, c, height, width, out_height, out_width, kernel_height, "
              "kernel_width, stride_v, stride_h, dilation_v, dilation_h, top, left, /)\n--\n\nConvolve every channel "
              "of x with a kernel of its own."),
    QN_END,
};
