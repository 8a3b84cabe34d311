/* min_max(x, type, outer, channels, inner, group) -> (min, max, nan, infinite), flat arrays of the parameter count. */
#include "bindings.h"

#include "reduce.h"

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

PyMethodDef qn_reduce_methods[] = {
    QN_METHOD(min_max, "min_max(x, x_type, outer, channels, inner, group, /)\n--\n\nMinimum and maximum of the finite "
                       "elements, counts of NaN and infinities."),
    QN_END,
};
