/* pack_weights, packed_info, packed_codes; linear: float32 activations times a packed 8-bit weight, one call. Packed
 * weights are capsules. */
#include "bindings.h"

#include "packed_columns.h"

static void release(PyObject *capsule) { qn_packed_free(PyCapsule_GetPointer(capsule, QN_PACKED_CAPSULE)); }

/* (b, b_type, b_zero, bits) */
static PyObject *pack_weights(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_matrix b;
    qn_zeros zero;
    qn_packed *packed;
    (void)self;
    int bits;
    if (qn_arg_count("pack_weights", count, 4) || qn_arg_matrix(a[0], a[1], &b) ||
        qn_arg_zeros(a[2], b.columns, &zero) || qn_arg_int(a[3], 2, 16, &bits))
        return NULL;
    if ((bits != 2 && bits != 4 && bits != 8 && bits != 16) || (bits == 16) != (b.type == QN_I16))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: no packed matrix of codes of %d bits.", bits);
    Py_BEGIN_ALLOW_THREADS;
    packed = qn_pack_weights(&b, zero, bits);
    Py_END_ALLOW_THREADS;
    if (!packed) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(packed, QN_PACKED_CAPSULE, release);
    if (!capsule) qn_packed_free(packed);
    return capsule;
}

static PyObject *packed_info(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("packed_info", count, 1)) return NULL;
    const qn_packed *b = PyCapsule_GetPointer(a[0], QN_PACKED_CAPSULE);
    if (!b) return NULL;
    return Py_BuildValue("LLLs", (long long)qn_packed_rows(b), (long long)qn_packed_columns(b),
                         (long long)qn_packed_bytes(b), qn_packed_form(b));
}

static PyObject *packed_codes(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("packed_codes", count, 2)) return NULL;
    const qn_packed *b = PyCapsule_GetPointer(a[0], QN_PACKED_CAPSULE);
    if (!b) return NULL;
    void *codes = qn_arg_output(a[1], qn_packed_rows(b) * qn_packed_columns(b), qn_itemsize(qn_packed_type(b)));
    if (!codes) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_packed_codes(b, codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* (x, m, x_type, symmetric, x_qmin, x_qmax, scale, x_zero, packed, out, out_type, column_scale, bias, acc_bias, lo, hi,
 * zero_point, qmin, qmax, wide_bias, block, order, factors) */
static PyObject *linear(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_input x = {0};
    qn_result r = {0};
    qn_hadamard h;
    int x_type, x_low, x_high, x_zero, type, zero, low, high;
    int64_t mk, mn;
    const void *column_scale, *bias, *acc_bias, *wide_bias;
    (void)self;
    if (qn_arg_count("linear", count, 23) || qn_arg_i64(a[1], &x.m) || qn_arg_int(a[2], QN_I8, QN_U8, &x_type) ||
        qn_arg_flag(a[3], &x.symmetric) || qn_arg_int(a[4], INT8_MIN, UINT8_MAX, &x_low) ||
        qn_arg_int(a[5], x_low + 1, UINT8_MAX, &x_high) || qn_arg_int(a[7], INT8_MIN, UINT8_MAX, &x_zero) ||
        qn_arg_int(a[10], 0, QN_TYPE_COUNT - 1, &type) || qn_arg_int(a[16], INT8_MIN, UINT8_MAX, &zero) ||
        qn_arg_int(a[17], INT8_MIN, UINT8_MAX, &low) || qn_arg_int(a[18], INT8_MIN, UINT8_MAX, &high))
        return NULL;
    const qn_packed *b = PyCapsule_GetPointer(a[8], QN_PACKED_CAPSULE);
    if (!b) return NULL;
    int64_t n = qn_packed_columns(b);
    x.scale = (float)PyFloat_AsDouble(a[6]);
    r.lo = (float)PyFloat_AsDouble(a[14]), r.hi = (float)PyFloat_AsDouble(a[15]);
    if (PyErr_Occurred()) return NULL;
    if (qn_arg_product(x.m, qn_packed_rows(b), &mk) || qn_arg_product(x.m, n, &mn) ||
        qn_arg_hadamard(a + 20, qn_packed_rows(b), &h))
        return NULL;
    if ((type != QN_F32 && type != QN_I8 && type != QN_U8) || qn_packed_type(b) == QN_I16)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core: no product of this shape and type.");
    x.x = qn_arg_vector(a[0], mk, NPY_FLOAT32);
    if (!x.x || qn_arg_optional(a[11], n, NPY_FLOAT32, &column_scale) ||
        qn_arg_optional(a[12], n, NPY_FLOAT32, &bias) || qn_arg_optional(a[13], n, NPY_INT32, &acc_bias) ||
        qn_arg_optional(a[19], n, NPY_FLOAT64, &wide_bias) ||
        !(r.data = qn_arg_output(a[9], mn, type == QN_F32 ? 4 : 1)))
        return NULL;
    if (!column_scale) return PyErr_Format(PyExc_ValueError, "qnumpy._core: a product of reals needs scales.");
    x.is_signed = x_type == QN_I8, x.hadamard = h.factors ? &h : NULL;
    x.qmin = x_low, x.qmax = x_high, x.zero_point = x_zero;
    r.type = (qn_type)type, r.row_stride = n, r.column_scale = column_scale, r.bias = bias, r.acc_bias = acc_bias,
    r.wide_bias = wide_bias;
    r.zero_point = zero, r.qmin = low, r.qmax = high;
    const float one = 1; /* the column scales of codes include the scale of x */
    if (r.type != QN_F32) r.row_scale = &one, r.row_scales = 1;
    qn_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_linear(&x, &b, &r, 1);
    Py_END_ALLOW_THREADS;
    return outcome == QN_NO_MEMORY ? PyErr_NoMemory() : PyBool_FromLong(outcome == QN_DONE);
}

PyMethodDef qn_packed_columns_methods[] = {
    QN_METHOD(pack_weights,
              "pack_weights(b, b_type, b_zero, bits, /)\n--\n\nPack a right matrix for any number of products."),
    QN_METHOD(packed_info, "packed_info(packed, /)\n--\n\nRows, columns, bytes and form of a packed matrix."),
    QN_METHOD(packed_codes, "packed_codes(packed, out, /)\n--\n\nFill out with the codes that were packed."),
    QN_METHOD(linear,
              "linear(x, m, x_type, symmetric, x_qmin, x_qmax, scale, x_zero, packed, out, out_type, column_scale, "
              "bias, acc_bias, lo, hi, zero_point, qmin, qmax, wide_bias, block, order, factors, /)\n--\n\nQuantize x, "
              "multiply it by a "
              "packed weight, "
              "bring the sums to out; False when one does not fit int32."),
    QN_END,
};
