/* gelu(x, out): the activation between two products. */
#include "bindings.h"

#include "layers.h"

static PyObject *gelu(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("gelu", count, 2)) return NULL;
    const int64_t n = PyArray_Check(a[0]) ? PyArray_SIZE((PyArrayObject *)a[0]) : 0;
    const float *x = qn_arg_vector(a[0], n, NPY_FLOAT32);
    float *y = x ? qn_arg_output(a[1], n, sizeof *y) : NULL;
    if (!y) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_gelu(x, y, n);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_layers_methods[] = {
    QN_METHOD(gelu, "gelu(x, out, /)\n--\n\nFill out with the GELU of x."),
    QN_END,
};
