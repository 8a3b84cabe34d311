/* Integer products. They return False when a sum overflows; Python writes the message. */
#include "bindings.h"

#include "matmul.h"

/* Byte or element steps of the batch axes, which are those of `shape`; each a multiple of `unit`. */
static int steps(PyObject *argument, int tail, const qn_product *p, int64_t unit, int64_t *step) {
    if (argument == Py_None) return 0;
    PyArrayObject *array = (PyArrayObject *)argument;
    int ndim = PyArray_NDIM(array) - tail;
    bool fits = ndim == p->ndim;
    for (int d = 0; fits && d < ndim; d++) {
        fits = PyArray_DIM(array, d) == p->shape[d] && PyArray_STRIDE(array, d) % unit == 0;
        step[d] = PyArray_STRIDE(array, d) / unit;
    }
    if (!fits) PyErr_SetString(PyExc_ValueError, "qnumpy._core: an operand has another batch shape.");
    return fits ? 0 : -1;
}

static PyObject *result_of(qn_outcome outcome) {
    if (outcome == QN_NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(outcome == QN_DONE);
}

/* (a, a_type, b, b_type, a_zero, b_zero, out) */
static PyObject *matmul_integer(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_product p = {0};
    int64_t elements = 1;
    (void)self;
    if (qn_arg_count("matmul_integer", count, 7) || qn_arg_matrix(a[0], a[1], &p.a) ||
        qn_arg_matrix(a[2], a[3], &p.b) || qn_arg_zeros(a[4], p.a.rows, &p.za) ||
        qn_arg_zeros(a[5], p.b.columns, &p.zb))
        return NULL;
    PyArrayObject *left = (PyArrayObject *)a[0];
    p.ndim = PyArray_NDIM(left) - 2;
    for (int d = 0; d < p.ndim; d++) p.shape[d] = PyArray_DIM(left, d);
    for (int d = 0; d < p.ndim + 2; d++) {
        int64_t length = d < p.ndim ? p.shape[d] : d == p.ndim ? p.a.rows : p.b.columns;
        if (__builtin_mul_overflow(elements, length, &elements)) elements = -1; /* no output has this size */
    }
    if (p.a.columns != p.b.rows) return PyErr_Format(PyExc_ValueError, "qnumpy._core: the shapes do not fit.");
    if (steps(a[0], 2, &p, 1, p.a_step) || steps(a[2], 2, &p, 1, p.b_step) || steps(a[4], 1, &p, 4, p.za_step) ||
        steps(a[5], 1, &p, 4, p.zb_step))
        return NULL;
    p.out = qn_arg_output(a[6], elements, 4);
    if (!p.out) return NULL;
    qn_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_matmul_integer(&p);
    Py_END_ALLOW_THREADS;
    return result_of(outcome);
}

/* A matrix whose rows are contiguous; there may be gaps between them. */
static int result_rows(PyObject *argument, PyObject *type, int64_t rows, int64_t columns, qn_result *r) {
    int number;
    if (qn_arg_int(type, 0, QN_TYPE_COUNT - 1, &number)) return -1;
    r->type = (qn_type)number;
    int64_t size = (int64_t)qn_itemsize(r->type);
    PyArrayObject *array = (PyArrayObject *)argument;
    if ((r->type != QN_I32 && r->type != QN_F32 && r->type != QN_I8 && r->type != QN_U8) || !PyArray_Check(argument) ||
        PyArray_NDIM(array) != 2 || PyArray_DIM(array, 0) != rows || PyArray_DIM(array, 1) != columns ||
        PyArray_ITEMSIZE(array) != size || !PyArray_ISBEHAVED(array) ||
        (rows > 0 && columns > 1 && PyArray_STRIDE(array, 1) != size) ||
        (rows > 1 && (PyArray_STRIDE(array, 0) < columns * size || PyArray_STRIDE(array, 0) % size))) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: the output is not a writable matrix of whole rows.");
        return -1;
    }
    r->data = PyArray_DATA(array);
    r->row_stride = rows > 1 ? PyArray_STRIDE(array, 0) / size : columns;
    return 0;
}

/* (a, a_type, a_zero, packed, out, out_type, row_scale, column_scale, bias, acc_bias, lo, hi, zero_point, qmin, qmax,
 * wide_bias) */
static PyObject *matmul_packed(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_matrix left;
    qn_zeros zero;
    qn_result r = {0};
    const void *row_scale, *column_scale, *bias, *acc_bias, *wide_bias;
    int low = 0, high = 0, middle = 0;
    (void)self;
    if (qn_arg_count("matmul_packed", count, 16) || qn_arg_matrix(a[0], a[1], &left) ||
        qn_arg_zeros(a[2], left.rows, &zero))
        return NULL;
    const qn_packed *b = PyCapsule_GetPointer(a[3], QN_PACKED_CAPSULE);
    if (!b) return NULL;
    int64_t m = left.rows, n = qn_packed_columns(b);
    bool words = qn_packed_type(b) == QN_I16;
    if (PyArray_NDIM((PyArrayObject *)a[0]) != 2 || left.columns != qn_packed_rows(b) ||
        (left.type == QN_I16 && !words))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: the left matrix does not fit the packed one.");
    r.row_scales = PyArray_Check(a[6]) && PyArray_SIZE((PyArrayObject *)a[6]) == m ? m : 1;
    if (result_rows(a[4], a[5], m, n, &r) || qn_arg_optional(a[6], r.row_scales, NPY_FLOAT32, &row_scale) ||
        qn_arg_optional(a[7], n, NPY_FLOAT32, &column_scale) || qn_arg_optional(a[8], n, NPY_FLOAT32, &bias) ||
        qn_arg_optional(a[9], n, NPY_INT32, &acc_bias) || qn_arg_optional(a[15], n, NPY_FLOAT64, &wide_bias) ||
        qn_arg_int(a[12], -65535, 65535, &middle) || qn_arg_int(a[13], -128, 255, &low) ||
        qn_arg_int(a[14], -128, 255, &high))
        return NULL;
    double lo = PyFloat_AsDouble(a[10]), hi = PyFloat_AsDouble(a[11]);
    if (PyErr_Occurred()) return NULL;
    if (r.type != QN_I32 && (!row_scale || !column_scale))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: real values and codes need scales.");
    r.row_scale = row_scale, r.column_scale = column_scale, r.bias = bias;
    r.acc_bias = acc_bias, r.wide_bias = wide_bias, r.lo = (float)lo, r.hi = (float)hi;
    r.zero_point = middle, r.qmin = low, r.qmax = high;
    qn_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_matmul_packed(&left, zero, b, &r);
    Py_END_ALLOW_THREADS;
    return result_of(outcome);
}

PyMethodDef qn_matmul_methods[] = {
    QN_METHOD(matmul_integer, "matmul_integer(a, a_type, b, b_type, a_zero, b_zero, out, /)\n--\n\nFill out with the "
                              "products; False when a sum does not fit int32."),
    QN_METHOD(matmul_packed,
              "matmul_packed(a, a_type, a_zero, packed, out, out_type, row_scale, column_scale, bias, "
              "acc_bias, lo, hi, zero_point, qmin, qmax, wide_bias, /)\n--\n\nFill out with a product and its "
              "output stage; False when a sum does not fit int32."),
    QN_END,
};
