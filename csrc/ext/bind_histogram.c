/* histogram(x, type, grid..., bits) -> (offsets, keys, counts, min, max, nan, infinite);
 * distinct_values(x, type, grid..., bits, offsets, keys, counts, lost) -> (offsets, values, counts);
 * merge_histograms(offsets, keys, counts, offsets, keys, counts) -> (offsets, keys, counts); merge_distinct(offsets,
 * values, counts, offsets, values, counts, bits, lost) -> (offsets, values, counts); search_ranges(offsets, keys,
 * counts, offsets, values, counts, min, max, spec...) -> (low, high, error); range_errors likewise, of ranges that are
 * arguments; entropy_bin(counts, levels, reals, first, divergence) -> bin. */
#include "bindings.h"

#include <stdlib.h>
#include <string.h>

#include "distinct.h"
#include "histogram.h"
#include "search.h"

/* Sets items 0, 1, 2 of a tuple to the three arrays. */
static int put_histogram(qn_histogram *h, PyObject *tuple) {
    npy_intp bins = (npy_intp)h->offsets[h->params];
    PyObject *arrays[3] = {qn_array_owning((void **)&h->offsets, (npy_intp)h->params + 1, NPY_INT64),
                           qn_array_owning((void **)&h->keys, bins, NPY_UINT16),
                           qn_array_owning((void **)&h->counts, bins, NPY_INT64)};
    for (int k = 0; k < 3; k++) PyTuple_SET_ITEM(tuple, k, arrays[k]);
    return arrays[0] && arrays[1] && arrays[2] ? 0 : -1;
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
        qn_arg_grid(a + 2, qn_elements(&x), &grid) || qn_arg_int(a[6], QN_CHANNEL_BITS, QN_TENSOR_BITS, &bits))
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

/* Three arrays as the distinct values of `params` parameters, which point into them. */
static int arg_distinct(qn_args three, int64_t params, int bits, qn_distinct *d) {
    *d = (qn_distinct){.params = params};
    int64_t n = PyArray_Check(three[1]) ? PyArray_SIZE((PyArrayObject *)three[1]) : 0;
    d->offsets = (int64_t *)qn_arg_vector(three[0], params + 1, NPY_INT64);
    d->values = d->offsets ? (double *)qn_arg_vector(three[1], n, NPY_FLOAT64) : NULL;
    d->counts = d->values ? (int64_t *)qn_arg_vector(three[2], n, NPY_INT64) : NULL;
    if (!d->counts) return -1;
    bool sound = d->offsets[0] == 0 && d->offsets[params] == n;
    for (int64_t k = 0; k < params && sound; k++)
        sound = d->offsets[k] <= d->offsets[k + 1] && d->offsets[k + 1] - d->offsets[k] <= qn_few_of(bits);
    if (!sound) PyErr_SetString(PyExc_ValueError, "qnumpy._core: the offsets of distinct values do not fit them.");
    return sound ? 0 : -1;
}

static PyObject *put_distinct(qn_distinct *d, int failed) {
    npy_intp n = failed ? 0 : (npy_intp)d->offsets[d->params];
    PyObject *result = failed ? PyErr_NoMemory() : PyTuple_New(3);
    if (result) {
        PyObject *arrays[3] = {qn_array_owning((void **)&d->offsets, (npy_intp)d->params + 1, NPY_INT64),
                               qn_array_owning((void **)&d->values, n, NPY_FLOAT64),
                               qn_array_owning((void **)&d->counts, n, NPY_INT64)};
        for (int k = 0; k < 3; k++) PyTuple_SET_ITEM(result, k, arrays[k]);
        if (!arrays[0] || !arrays[1] || !arrays[2]) Py_CLEAR(result);
    }
    qn_distinct_free(d);
    return result;
}

static PyObject *distinct_values(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    qn_histogram h;
    qn_distinct d;
    int bits, failed;
    (void)self;
    if (qn_arg_count("distinct_values", count, 11) || qn_arg_source(a[0], a[1], &x) ||
        qn_arg_grid(a + 2, qn_elements(&x), &grid) || qn_arg_int(a[6], QN_CHANNEL_BITS, QN_TENSOR_BITS, &bits) ||
        arg_histogram(a + 7, &h))
        return NULL;
    if (x.type > QN_BF16) return PyErr_Format(PyExc_TypeError, "qnumpy._core.distinct_values: the input is not real.");
    if (h.params != qn_grid_params(&grid))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: the histogram does not fit the grid.");
    const uint8_t *lost = qn_arg_vector(a[10], h.params, NPY_UINT8);
    if (!lost) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = qn_distinct_of(&x, &grid, bits, &h, lost, &d);
    Py_END_ALLOW_THREADS;
    return put_distinct(&d, failed);
}

static PyObject *merge_distinct(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_distinct x, y, sum;
    int bits, failed;
    (void)self;
    if (qn_arg_count("merge_distinct", count, 8) || qn_arg_int(a[6], QN_CHANNEL_BITS, QN_TENSOR_BITS, &bits))
        return NULL;
    int64_t params = PyArray_Check(a[7]) ? PyArray_SIZE((PyArrayObject *)a[7]) : 0;
    const uint8_t *lost = qn_arg_vector(a[7], params, NPY_UINT8);
    if (!lost || arg_distinct(a, params, bits, &x) || arg_distinct(a + 3, params, bits, &y)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    failed = qn_distinct_merge(&x, &y, bits, lost, &sum);
    Py_END_ALLOW_THREADS;
    return put_distinct(&sum, failed);
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

/* (offsets, keys, counts, offsets, values, counts, min, max, bits, criterion, symmetric, qmin, qmax, share, reals);
 * h->ranges must be freed. */
static int arg_search(qn_args a, int criteria, qn_histogram *h, qn_distinct *d, qn_search_spec *spec) {
    int bits, criterion, symmetric, qmin, qmax;
    if (arg_histogram(a, h)) return -1;
    const double *min = qn_arg_vector(a[6], h->params, NPY_FLOAT64);
    const double *max = min ? qn_arg_vector(a[7], h->params, NPY_FLOAT64) : NULL;
    if (!max || qn_arg_int(a[8], QN_CHANNEL_BITS, QN_TENSOR_BITS, &bits) ||
        qn_arg_int(a[9], 0, criteria - 1, &criterion) || qn_arg_int(a[10], 0, 1, &symmetric) ||
        qn_arg_int(a[11], -32768, 65535, &qmin) || qn_arg_int(a[12], qmin + 2, 65535, &qmax) ||
        arg_distinct(a + 3, h->params, bits, d))
        return -1;
    double share = PyFloat_AsDouble(a[13]);
    if (share == -1 && PyErr_Occurred()) return -1;
    bool finite = true;
    for (int64_t i = 0; i < h->offsets[h->params]; i++) finite &= h->keys[i] >= 0x80 && h->keys[i] < 0xFF80;
    if (!finite) return PyErr_SetString(PyExc_ValueError, "qnumpy._core: the bins of a histogram must be finite."), -1;
    npy_intp reals = PyArray_Check(a[14]) ? PyArray_SIZE((PyArrayObject *)a[14]) : 0;
    const double *real = qn_arg_vector(a[14], reals, NPY_FLOAT64);
    if (!real) return -1;
    if (reals && (!symmetric || qmin != -qmax || reals != qmax + 1))
        return PyErr_SetString(PyExc_ValueError, "qnumpy._core: the numbers of a float do not fit its codes."), -1;
    *spec = (qn_search_spec){(qn_criterion)criterion, symmetric, bits, qmin, qmax, share, reals ? real : NULL};
    h->ranges = PyMem_RawMalloc((size_t)h->params * sizeof *h->ranges + 1);
    if (!h->ranges) return PyErr_NoMemory(), -1;
    for (int64_t k = 0; k < h->params; k++) h->ranges[k] = (qn_range){min[k], max[k], 0, 0};
    return 0;
}

static PyObject *search_ranges(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_histogram h;
    qn_distinct d;
    qn_search_spec spec;
    int failed = -1;
    (void)self;
    if (qn_arg_count("search_ranges", count, 15) || arg_search(a, QN_SQUARE, &h, &d, &spec)) return NULL;
    npy_intp n = (npy_intp)h.params;
    PyObject *arrays[3], *result = NULL;
    for (int k = 0; k < 3; k++) arrays[k] = PyArray_SimpleNew(1, &n, NPY_FLOAT64);
    if (arrays[0] && arrays[1] && arrays[2]) {
        double *to[3];
        for (int k = 0; k < 3; k++) to[k] = PyArray_DATA((PyArrayObject *)arrays[k]);
        Py_BEGIN_ALLOW_THREADS;
        failed = qn_search(&h, &d, &spec, to[0], to[1], to[2]);
        Py_END_ALLOW_THREADS;
        result = failed ? PyErr_NoMemory() : PyTuple_Pack(3, arrays[0], arrays[1], arrays[2]);
    }
    for (int k = 0; k < 3; k++) Py_XDECREF(arrays[k]);
    PyMem_RawFree(h.ranges);
    return result;
}

static PyObject *range_errors(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_histogram h;
    qn_distinct d;
    qn_search_spec spec;
    int failed;
    (void)self;
    if (qn_arg_count("range_errors", count, 18) || arg_search(a, QN_CRITERION_COUNT, &h, &d, &spec)) return NULL;
    int64_t total = PyArray_Check(a[15]) ? PyArray_SIZE((PyArrayObject *)a[15]) : 0,
            n = h.params ? total / h.params : 0;
    const double *low = qn_arg_vector(a[15], n * h.params, NPY_FLOAT64);
    const double *high = low ? qn_arg_vector(a[16], total, NPY_FLOAT64) : NULL;
    double *error = high ? qn_arg_output(a[17], total, sizeof *error) : NULL;
    if (error) {
        Py_BEGIN_ALLOW_THREADS;
        failed = qn_search_errors(&h, &d, &spec, n, low, high, error);
        Py_END_ALLOW_THREADS;
        if (failed) error = NULL, PyErr_NoMemory();
    }
    PyMem_RawFree(h.ranges);
    if (!error) return NULL;
    Py_RETURN_NONE;
}

static PyObject *entropy_bin(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("entropy_bin", count, 5)) return NULL;
    int64_t bins = PyArray_Check(a[0]) ? PyArray_SIZE((PyArrayObject *)a[0]) : 0, bin;
    int levels, first;
    const double *counts = qn_arg_vector(a[0], bins, NPY_FLOAT64);
    if (!counts || bins > INT32_MAX || qn_arg_int(a[1], 1, INT32_MAX, &levels) ||
        qn_arg_int(a[3], levels, bins < levels ? levels : (int)bins, &first))
        return NULL;
    bool even = PyArray_Check(a[2]) && PyArray_SIZE((PyArrayObject *)a[2]) == 0;
    const double *reals = qn_arg_vector(a[2], even ? 0 : levels, NPY_FLOAT64);
    if (!reals) return NULL;
    double *divergence = qn_arg_output(a[4], bins + 1, sizeof *divergence), *scratch = NULL;
    if (!divergence || !(scratch = PyMem_RawMalloc(3 * ((size_t)bins + 1) * sizeof *scratch)))
        return divergence ? PyErr_NoMemory() : NULL;
    Py_BEGIN_ALLOW_THREADS;
    bin = qn_entropy_bin(counts, bins, levels, even ? NULL : reals, first, 0, scratch, divergence);
    Py_END_ALLOW_THREADS;
    PyMem_RawFree(scratch);
    return PyLong_FromLongLong(bin);
}

PyMethodDef qn_histogram_methods[] = {
    QN_METHOD(histogram, "histogram(x, x_type, outer, channels, inner, group, bits, /)\n--\n\nOccupied bins of every "
                         "parameter, with minimum, maximum and counts of NaN and infinities."),
    QN_METHOD(distinct_values, "distinct_values(x, x_type, outer, channels, inner, group, bits, offsets, keys, counts, "
                               "lost, /)\n--\n\nThe distinct finite values of every parameter that has few, given "
                               "the bins of all, and how often each occurs."),
    QN_METHOD(merge_distinct, "merge_distinct(offsets, values, counts, more_offsets, more_values, more_counts, bits, "
                              "lost, /)\n--\n\nDistinct values of both."),
    QN_METHOD(merge_histograms, "merge_histograms(offsets, keys, counts, more_offsets, more_keys, more_counts, /)\n--\n"
                                "\nBins of both."),
    QN_METHOD(search_ranges, "search_ranges(offsets, keys, counts, value_offsets, values, times, min, max, bits, "
                             "criterion, symmetric, qmin, qmax, "
                             "share, reals, /)\n--\n\nThe best range of every parameter and its error."),
    QN_METHOD(range_errors, "range_errors(offsets, keys, counts, value_offsets, values, times, min, max, bits, "
                            "criterion, symmetric, qmin, qmax, share, "
                            "reals, low, high, error, /)\n--\n\nThe errors of given ranges."),
    QN_METHOD(entropy_bin, "entropy_bin(counts, levels, reals, first, divergence, /)\n--\n\nThe number of bins whose "
                           "quantized form diverges least."),
    QN_END,
};
