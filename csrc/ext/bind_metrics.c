/* error_sums(x, y) -> (signal, energy, dot, noise, peak); codes_seen(codes, seen) -> None. */
#include "bindings.h"

#include "dispatch.h"

static PyObject *error_sums(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("error_sums", count, 2)) return NULL;
    int64_t n = PyArray_Check(a[0]) ? PyArray_SIZE((PyArrayObject *)a[0]) : 0;
    const float *x = qn_arg_vector(a[0], n, NPY_FLOAT32), *y = x ? qn_arg_vector(a[1], n, NPY_FLOAT32) : NULL;
    if (!y) return NULL;
    qn_error e = {0};
    Py_BEGIN_ALLOW_THREADS;
    qn_kernels()->error_sums_f32(x, y, n, &e);
    Py_END_ALLOW_THREADS;
    return Py_BuildValue("ddddd", e.signal, e.energy, e.dot, e.noise, e.peak);
}

static PyObject *codes_seen(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("codes_seen", count, 2)) return NULL;
    int64_t n = PyArray_Check(a[0]) ? PyArray_SIZE((PyArrayObject *)a[0]) : 0;
    const uint8_t *codes = qn_arg_vector(a[0], n, NPY_UINT8);
    uint8_t *seen = codes ? qn_arg_output(a[1], 256, 1) : NULL;
    if (!seen) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_kernels()->codes_seen_8(codes, n, seen);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_metrics_methods[] = {
    QN_METHOD(error_sums, "error_sums(x, y, /)\n--\n\nSums of x^2, y^2, x y, (x - y)^2 and the largest |x - y| of two "
                          "float32 arrays."),
    QN_METHOD(codes_seen, "codes_seen(codes, seen, /)\n--\n\nSet seen[code] for every byte."),
    QN_END,
};
