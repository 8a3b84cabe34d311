/* min_max, observe: ranges of arrays, and their moving averages. */
#include "bindings.h"

#include "reduce.h"

/* (x, type, outer, channels, inner, group) -> (min, max, nan, infinite), flat arrays of the parameter count */
static PyObject *min_max(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    (void)self;
    if (qn_arg_count("min_max", count, 6) || qn_arg_source(a[0], a[1], &x) ||
        qn_arg_grid(a + 2, qn_elements(&x), &grid))
        return NULL;
    if (x.type >= QN_I8) return PyErr_Format(PyExc_TypeError, "qnumpy._core.min_max: the input is not real.");
    npy_intp n = (npy_intp)qn_grid_params(&grid);
    qn_range *ranges = NULL;
    if (n < PY_SSIZE_T_MAX / (npy_intp)sizeof *ranges) ranges = PyMem_RawMalloc((size_t)(n ? n : 1) * sizeof *ranges);
    if (!ranges) return PyErr_NoMemory();
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_min_max(&x, &grid, ranges);
    Py_END_ALLOW_THREADS;
    if (!done) return PyMem_RawFree(ranges), PyErr_NoMemory();
    PyObject *min = PyArray_SimpleNew(1, &n, NPY_FLOAT64), *max = PyArray_SimpleNew(1, &n, NPY_FLOAT64);
    PyObject *nan = PyArray_SimpleNew(1, &n, NPY_INT64), *infinite = PyArray_SimpleNew(1, &n, NPY_INT64),
             *result = NULL;
    if (min && max && nan && infinite) {
        for (npy_intp k = 0; k < n; k++) {
            ((double *)PyArray_DATA((PyArrayObject *)min))[k] = ranges[k].min;
            ((double *)PyArray_DATA((PyArrayObject *)max))[k] = ranges[k].max;
            ((int64_t *)PyArray_DATA((PyArrayObject *)nan))[k] = ranges[k].nan;
            ((int64_t *)PyArray_DATA((PyArrayObject *)infinite))[k] = ranges[k].infinite;
        }
        result = PyTuple_Pack(4, min, max, nan, infinite);
    }
    PyMem_RawFree(ranges);
    Py_XDECREF(min), Py_XDECREF(max), Py_XDECREF(nan), Py_XDECREF(infinite);
    return result;
}

/* (x, x_type, outer, channels, inner, group, weight, symmetric, qmin, qmax, low, high, scale, zero_point) */
static PyObject *observe(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    qn_affine p = {0};
    bool symmetric;
    (void)self;
    if (qn_arg_count("observe", count, 14) || qn_arg_source(a[0], a[1], &x) ||
        qn_arg_grid(a + 2, qn_elements(&x), &grid))
        return NULL;
    if (x.type >= QN_I8) return PyErr_Format(PyExc_TypeError, "qnumpy._core.observe: the input is not real.");
    const double weight = PyFloat_AsDouble(a[6]);
    if ((weight == -1.0 && PyErr_Occurred()) || qn_arg_flag(a[7], &symmetric) || qn_arg_code_range(a[8], a[9], &p))
        return NULL;
    const int64_t n = qn_grid_params(&grid);
    double *low = qn_arg_output(a[10], n, sizeof *low), *high = low ? qn_arg_output(a[11], n, sizeof *high) : NULL;
    float *scale = high ? qn_arg_output(a[12], n, sizeof *scale) : NULL;
    int32_t *zero_point = scale ? qn_arg_output(a[13], n, sizeof *zero_point) : NULL;
    if (!zero_point) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_observe(&x, &grid, weight, symmetric, p.qmin, p.qmax, low, high, scale, zero_point);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

PyMethodDef qn_reduce_methods[] = {
    QN_METHOD(min_max, "min_max(x, x_type, outer, channels, inner, group, /)\n--\n\nMinimum and maximum of the finite "
                       "elements, counts of NaN and infinities."),
    QN_METHOD(observe, "observe(x, x_type, outer, channels, inner, group, weight, symmetric, qmin, qmax, low, high, "
                       "scale, zero_point, /)\n--\n\nAverage the ranges of x into low and high, and fill scale and "
                       "zero_point with the parameters of the averages."),
    QN_END,
};
