/* quantize, dequantize, fake_quantize, requantize: each (input, type, parameters..., output, type, grid..., ...) ->
 * None. */
#include "bindings.h"

#include "quantize.h"

/* An output of type `first` or one after it in qn_type: floats for QN_F32, float or integer codes for QN_E4M3FN. */
static int output(PyObject *array, PyObject *type, qn_type first, int64_t elements, void **data, qn_type *out_type) {
    int number, last = first == QN_F32 ? QN_I8 - 1 : QN_TYPE_COUNT - 1;
    if (qn_arg_int(type, first, last, &number)) return -1;
    *out_type = (qn_type)number;
    *data = qn_arg_output(array, elements, qn_itemsize(*out_type));
    return *data ? 0 : -1;
}

typedef void (*operation)(const qn_source *, void *, qn_type, const qn_grid *, const qn_affine *);

static PyObject *perform(operation operate, const qn_source *in, void *out, qn_type type, const qn_grid *grid,
                         const qn_affine *p, int64_t elements) {
    if (elements < QN_GIL_ELEMENTS) {
        operate(in, out, type, grid, p);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        operate(in, out, type, grid, p);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

/* (x, type, scale, zero_point, out, out_type, outer, channels, inner, group, qmin, qmax, convention) */
static PyObject *quantize_call(const char *name, operation operate, qn_type first, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    qn_affine p = {0};
    qn_number_params one;
    void *out;
    qn_type type;
    int convention;
    if (qn_arg_count(name, count, 13) || qn_arg_source(a[0], a[1], &x)) return NULL;
    int64_t n = qn_elements(&x);
    if (x.type >= QN_I8 || qn_arg_grid(a + 6, n, &grid) || qn_arg_parameters(a[2], a[3], &grid, &p, &one) ||
        output(a[4], a[5], first, n, &out, &type) || qn_arg_code_range(a[10], a[11], &p) ||
        qn_arg_int(a[12], 0, QN_CONVENTION_COUNT - 1, &convention))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "qnumpy._core.%s: the input is not real.", name);
    p.convention = (qn_convention)convention;
    return perform(operate, &x, out, type, &grid, &p, n);
}

static PyObject *quantize(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    return quantize_call("quantize", qn_quantize, QN_E4M3FN, a, count);
}

static PyObject *fake_quantize(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    return quantize_call("fake_quantize", qn_fake_quantize, QN_F32, a, count);
}

/* (x, type, scale, zero_point, out, out_type, columns, outer, channels, inner, group, qmin, qmax): quantize whose codes
 * are packed in rows of `columns`. */
static PyObject *quantize_packed(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    qn_affine p = {.convention = QN_ONNX};
    qn_number_params one;
    int type;
    qn_byte_rows q;
    (void)self;
    if (qn_arg_count("quantize_packed", count, 13) || qn_arg_source(a[0], a[1], &x) ||
        qn_arg_int(a[5], QN_E4M3FN, QN_TYPE_COUNT - 1, &type) || qn_arg_i64(a[6], &q.columns))
        return NULL;
    q.width = qn_width_of((qn_type)type);
    int64_t n = qn_elements(&x), rows = q.columns > 0 ? n / q.columns : 0;
    if (x.type >= QN_I8 || !q.width.bits || q.columns < 0 || q.columns > QN_MAX_COLUMNS || rows * q.columns != n)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.quantize_packed: the types or the columns do not fit.");
    if (qn_arg_grid(a + 7, n, &grid) || qn_arg_parameters(a[2], a[3], &grid, &p, &one) ||
        qn_arg_code_range(a[11], a[12], &p))
        return NULL;
    q.bytes = qn_arg_output(a[4], rows * qn_row_bytes(q.width.bits, q.columns), 1);
    if (!q.bytes) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_quantize_packed(&x, &q, (qn_type)type, &grid, &p);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* (q, type, scale, zero_point, out, out_type, outer, channels, inner, group) */
static PyObject *dequantize_source(const char *name, const qn_source *q, qn_args a) {
    qn_grid grid;
    qn_affine p = {0};
    qn_number_params one;
    void *out;
    qn_type type;
    if (q->type < QN_E4M3FN) return PyErr_Format(PyExc_TypeError, "qnumpy._core.%s: the input holds no codes.", name);
    int64_t n = qn_elements(q);
    if (qn_arg_grid(a + 6, n, &grid) || qn_arg_parameters(a[2], a[3], &grid, &p, &one) ||
        output(a[4], a[5], QN_F32, n, &out, &type))
        return NULL;
    return perform(qn_dequantize, q, out, type, &grid, &p, n);
}

static PyObject *dequantize(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source q;
    (void)self;
    if (qn_arg_count("dequantize", count, 10) || qn_arg_source(a[0], a[1], &q)) return NULL;
    return dequantize_source("dequantize", &q, a);
}

/* The arguments of dequantize, then the codes of a packed row. */
static PyObject *dequantize_packed(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source q;
    (void)self;
    if (qn_arg_count("dequantize_packed", count, 11) || qn_arg_packed(a[0], a[1], a[10], &q)) return NULL;
    return dequantize_source("dequantize_packed", &q, a);
}

static PyObject *requantize(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source acc;
    qn_grid grid;
    qn_affine p = {0};
    qn_number_params one;
    void *out;
    qn_type type;
    int method;
    (void)self;
    if (qn_arg_count("requantize", count, 15) || qn_arg_source(a[0], a[1], &acc)) return NULL;
    int64_t n = qn_elements(&acc);
    if (acc.type != QN_I32) return PyErr_Format(PyExc_TypeError, "qnumpy._core.requantize: the input is not int32.");
    if (qn_arg_grid(a + 6, n, &grid) || qn_arg_parameters(a[2], a[3], &grid, &p, &one) ||
        output(a[4], a[5], QN_I8, n, &out, &type) || qn_arg_code_range(a[10], a[11], &p) ||
        qn_arg_int(a[12], 0, QN_METHOD_COUNT - 1, &method))
        return NULL;
    p.method = (qn_method)method;
    if (p.method != QN_FLOAT) {
        int64_t params = qn_grid_params(&grid);
        p.multiplier = qn_arg_vector(a[13], params, NPY_INT32);
        p.shift = p.multiplier ? qn_arg_vector(a[14], params, NPY_INT32) : NULL;
        if (!p.shift) return NULL;
    }
    return perform(qn_requantize, &acc, out, type, &grid, &p, n);
}

static PyObject *first_bad_scale(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("first_bad_scale", count, 1)) return NULL;
    int64_t n = PyArray_Check(a[0]) ? PyArray_SIZE((PyArrayObject *)a[0]) : 0;
    const float *scale = qn_arg_vector(a[0], n, NPY_FLOAT32);
    if (!scale) return NULL;
    for (int64_t i = 0; i < n; i++)
        if (!(scale[i] >= 0x1p-126f && scale[i] <= 0x1.fffffep127f)) return PyLong_FromLongLong(i);
    return PyLong_FromLong(-1);
}

/* The first byte and the end of the memory of an array, gaps between its elements included. */
static void extent(PyArrayObject *array, const char **low, const char **high) {
    *low = PyArray_BYTES(array);
    *high = *low + (PyArray_SIZE(array) ? PyArray_ITEMSIZE(array) : 0);
    for (int d = 0; d < PyArray_NDIM(array) && *high > *low; d++) {
        npy_intp reach = (PyArray_DIM(array, d) - 1) * PyArray_STRIDE(array, d);
        *(reach < 0 ? low : high) += reach;
    }
}

static PyObject *overlap(PyObject *self, qn_args a, Py_ssize_t count) {
    const char *low[2], *high[2];
    (void)self;
    if (qn_arg_count("overlap", count, 2)) return NULL;
    for (int k = 0; k < 2; k++) {
        if (!PyArray_Check(a[k])) return PyErr_Format(PyExc_TypeError, "qnumpy._core.overlap: takes two arrays.");
        extent((PyArrayObject *)a[k], low + k, high + k);
    }
    return PyBool_FromLong(low[0] < high[1] && low[1] < high[0]);
}

/* (out, dtype, shape, inputs...) -> bool. One call in place of eight of the seam, which looks for the fault only after
 * False. */
static PyObject *output_fits(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (count < 3 || !PyTuple_Check(a[2]))
        return PyErr_Format(PyExc_TypeError, "qnumpy._core.output_fits: takes an output, a dtype, a shape and inputs.");
    if (!PyArray_Check(a[0])) Py_RETURN_FALSE;
    PyArrayObject *out = (PyArrayObject *)a[0];
    bool fits =
        (PyObject *)PyArray_DESCR(out) == a[1] && PyArray_ISCARRAY(out) && PyArray_NDIM(out) == PyTuple_GET_SIZE(a[2]);
    for (int d = 0; fits && d < PyArray_NDIM(out); d++)
        fits = PyLong_AsSsize_t(PyTuple_GET_ITEM(a[2], d)) == PyArray_DIM(out, d);
    if (PyErr_Occurred()) return NULL;
    const char *low, *high, *from, *to;
    if (fits) extent(out, &low, &high);
    for (Py_ssize_t k = 3; fits && k < count; k++) {
        if (!PyArray_Check(a[k])) continue; /* a number */
        extent((PyArrayObject *)a[k], &from, &to);
        fits = high <= from || to <= low;
    }
    return PyBool_FromLong(fits);
}

PyMethodDef qn_quantize_methods[] = {
    QN_METHOD(quantize, "quantize(x, x_type, scale, zero_point, out, out_type, outer, channels, inner, group, qmin, "
                        "qmax, convention, /)\n--\n\nFill out with codes."),
    QN_METHOD(fake_quantize, "fake_quantize(x, x_type, scale, zero_point, out, out_type, outer, channels, inner, "
                             "group, qmin, qmax, convention, /)\n--\n\nFill out with dequantized codes."),
    QN_METHOD(dequantize, "dequantize(q, q_type, scale, zero_point, out, out_type, outer, channels, inner, group, "
                          "/)\n--\n\nFill out with real values."),
    QN_METHOD(quantize_packed, "quantize_packed(x, x_type, scale, zero_point, out, out_type, columns, outer, channels, "
                               "inner, group, qmin, qmax, /)\n--\n\nFill rows of bytes with packed codes."),
    QN_METHOD(dequantize_packed, "dequantize_packed(q, q_type, scale, zero_point, out, out_type, outer, channels, "
                                 "inner, group, columns, /)\n--\n\nFill out with the reals of packed codes."),
    QN_METHOD(requantize, "requantize(acc, acc_type, scale, zero_point, out, out_type, outer, channels, inner, group, "
                          "qmin, qmax, method, multiplier, shift, /)\n--\n\nFill out with codes."),
    QN_METHOD(first_bad_scale, "first_bad_scale(scale, /)\n--\n\nIndex of the first scale that is not positive, finite "
                               "and normal, or -1."),
    QN_METHOD(output_fits,
              "output_fits(out, dtype, shape, /, *inputs)\n--\n\nWhether a kernel may write to out: of this very "
              "dtype and shape, writable, contiguous, aligned, apart from the inputs."),
    QN_METHOD(overlap, "overlap(a, b, /)\n--\n\nWhether two arrays lie in the same bytes, gaps included."),
    QN_END,
};
