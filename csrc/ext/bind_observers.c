/* histogram(x, type, grid..., bits) -> (offsets, keys, counts, min, max, nan, infinite);
 * merge_histograms(offsets, keys, counts, offsets, keys, counts) -> (offsets, keys, counts). */
#include "bindings.h"

#include <stdlib.h>

#include "histogram.h"
#include "walk.h"

static void let_go(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, NULL)); }

/* An array that owns *data, which is NULL afterwards: large histograms are not copied. */
static PyObject *adopted(void **data, npy_intp n, int type) {
    PyObject *capsule = PyCapsule_New(*data, NULL, let_go), *array = NULL;
    if (!capsule) return NULL;
    array = PyArray_SimpleNewFromData(1, &n, type, *data);
    *data = NULL;
    if (!array) return Py_DECREF(capsule), NULL;
    if (PyArray_SetBaseObject((PyArrayObject *)array, capsule)) Py_CLEAR(array); /* takes the capsule in either case */
    return array;
}

/* Puts the three arrays into items 0, 1, 2 of a tuple. */
static int put_histogram(qn_histogram *h, PyObject *tuple) {
    npy_intp bins = (npy_intp)h->offsets[h->params];
    PyObject *parts[3] = {adopted((void **)&h->offsets, (npy_intp)h->params + 1, NPY_INT64),
                          adopted((void **)&h->keys, bins, NPY_UINT16), adopted((void **)&h->counts, bins, NPY_INT64)};
    for (int k = 0; k < 3; k++) PyTuple_SET_ITEM(tuple, k, parts[k]);
    return parts[0] && parts[1] && parts[2] ? 0 : -1;
}

static int put_ranges(const qn_range *ranges, npy_intp n, PyObject *tuple) {
    for (int item = 0; item < 4; item++) {
        PyArrayObject *array = (PyArrayObject *)PyArray_SimpleNew(1, &n, item < 2 ? NPY_FLOAT64 : NPY_INT64);
        PyTuple_SET_ITEM(tuple, 3 + item, (PyObject *)array);
        if (!array) return -1;
        for (npy_intp k = 0; k < n; k++) {
            if (item < 2) ((double *)PyArray_DATA(array))[k] = item ? ranges[k].max : ranges[k].min;
            else ((int64_t *)PyArray_DATA(array))[k] = item == 2 ? ranges[k].nan : ranges[k].infinite;
        }
    }
    return 0;
}

static PyObject *histogram(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    qn_histogram h;
    int bits, failed;
    (void)self;
    if (qn_arg_count("histogram", count, 7) || qn_arg_source(a[0], a[1], &x) ||
        qn_arg_grid(a + 2, qn_source_elements(&x), &grid) || qn_arg_int(a[6], QN_CHANNEL_BITS, QN_TENSOR_BITS, &bits))
        return NULL;
    if (x.type > QN_BF16) return PyErr_Format(PyExc_TypeError, "qnumpy._core.histogram: the input is not real.");
    Py_BEGIN_ALLOW_THREADS;
    failed = qn_histogram_of(&x, &grid, bits, &h);
    Py_END_ALLOW_THREADS;
    PyObject *result = failed ? PyErr_NoMemory() : PyTuple_New(7);
    if (result && (put_histogram(&h, result) || put_ranges(h.ranges, (npy_intp)h.params, result))) Py_CLEAR(result);
    qn_histogram_free(&h);
    return result;
}

/* Three arrays as a histogram that points into them. */
static int arg_histogram(qn_args three, qn_histogram *h) {
    *h = (qn_histogram){0};
    int64_t n[3];
    for (int k = 0; k < 3; k++) n[k] = PyArray_Check(three[k]) ? PyArray_SIZE((PyArrayObject *)three[k]) : 0;
    h->params = n[0] ? n[0] - 1 : 0;
    h->offsets = (int64_t *)qn_arg_vector(three[0], h->params + 1, NPY_INT64);
    h->keys = h->offsets ? (uint16_t *)qn_arg_vector(three[1], n[1], NPY_UINT16) : NULL;
    h->counts = h->keys ? (int64_t *)qn_arg_vector(three[2], n[1], NPY_INT64) : NULL;
    if (!h->counts) return -1;
    bool sound = h->offsets[0] == 0 && h->offsets[h->params] == n[1];
    for (int64_t k = 0; k < h->params; k++) sound &= h->offsets[k] <= h->offsets[k + 1];
    if (!sound) PyErr_SetString(PyExc_ValueError, "qnumpy._core: the offsets of a histogram do not fit its bins.");
    return sound ? 0 : -1;
}

static PyObject *merge_histograms(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_histogram x, y, sum;
    int failed;
    (void)self;
    if (qn_arg_count("merge_histograms", count, 6) || arg_histogram(a, &x) || arg_histogram(a + 3, &y)) return NULL;
    if (x.params != y.params)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: histograms of different parameters cannot be merged.");
    Py_BEGIN_ALLOW_THREADS;
    failed = qn_histogram_merge(&x, &y, &sum);
    Py_END_ALLOW_THREADS;
    PyObject *result = failed ? PyErr_NoMemory() : PyTuple_New(3);
    if (result && put_histogram(&sum, result)) Py_CLEAR(result);
    qn_histogram_free(&sum);
    return result;
}

PyMethodDef qn_observers_methods[] = {
    QN_METHOD(histogram, "histogram(x, x_type, outer, channels, inner, block, bits, /)\n--\n\nOccupied bins of every "
                         "parameter, with minimum, maximum and counts of NaN and infinities."),
    QN_METHOD(merge_histograms, "merge_histograms(offsets, keys, counts, more_offsets, more_keys, more_counts, /)\n--\n"
                                "\nBins of both."),
    QN_END,
};
