/* grouped_room, grouped_pack, grouped_codes, matmul_grouped and matmul_grouped_codes: products with packed weights in
 * groups. Each takes the layout of a weight as k, n, group, bits. */
#include "bindings.h"

#include <stdlib.h>

#include "allocate.h"
#include "packed_groups.h"

static int layout(qn_args a, qn_grouped *w) {
    if (qn_arg_i64(a[0], &w->k) || qn_arg_i64(a[1], &w->n) || qn_arg_i64(a[2], &w->group) ||
        qn_arg_int(a[3], 2, 8, &w->bits))
        return -1;
    bool known = w->group == 16 || w->group == 32 || w->group == 64 || w->group == 128;
    known = known && (w->bits == 8 || w->bits == 4 || w->bits == 2);
    if (known && w->k >= 0 && w->n >= 0 && w->k <= INT64_MAX / 2 && w->n <= INT64_MAX / 2 && qn_grouped_layout(w))
        return 0;
    PyErr_SetString(PyExc_ValueError, "qnumpy._core: a weight of this shape cannot be packed in groups.");
    return -1;
}

static PyObject *grouped_room(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_grouped w;
    (void)self;
    if (qn_arg_count("grouped_room", count, 6) || qn_arg_flag(a[4], &w.half) || qn_arg_flag(a[5], &w.zeros) ||
        layout(a, &w))
        return NULL;
    void *bytes = qn_allocate(qn_grouped_bytes(&w), 1);
    if (!bytes) return PyErr_NoMemory();
    PyObject *array = qn_array_owning(&bytes, qn_grouped_bytes(&w), NPY_UINT8);
    free(bytes);
    return array;
}

static PyObject *grouped_pack(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_grouped w;
    int64_t codes, groups;
    (void)self;
    if (qn_arg_count("grouped_pack", count, 9)) return NULL;
    bool is_signed;
    w.half = PyArray_Check(a[2]) && PyArray_TYPE((PyArrayObject *)a[2]) == NPY_UINT16;
    w.zeros = a[3] != Py_None;
    if (qn_arg_flag(a[1], &is_signed) || layout(a + 5, &w) || qn_arg_product(w.k, w.n, &codes) ||
        qn_arg_product(w.groups, w.n, &groups))
        return NULL;
    const uint8_t *from = qn_arg_vector(a[0], codes, NPY_UINT8), *zeros = NULL;
    const void *scales = from ? qn_arg_vector(a[2], groups, w.half ? NPY_UINT16 : NPY_FLOAT32) : NULL;
    if (!scales || (w.zeros && !(zeros = qn_arg_vector(a[3], groups, NPY_UINT8)))) return NULL;
    uint8_t *packed = qn_arg_output(a[4], qn_grouped_bytes(&w), 1);
    if (!packed) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_grouped_pack(&w, from, is_signed, scales, zeros, packed);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *grouped_codes(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_grouped w;
    bool is_signed;
    int64_t kn;
    (void)self;
    if (qn_arg_count("grouped_codes", count, 9) || qn_arg_flag(a[5], &w.half) || qn_arg_flag(a[6], &w.zeros) ||
        qn_arg_flag(a[7], &is_signed) || layout(a + 1, &w) || qn_arg_product(w.k, w.n, &kn))
        return NULL;
    const uint8_t *packed = qn_arg_vector(a[0], qn_grouped_bytes(&w), NPY_UINT8);
    uint8_t *codes = packed ? qn_arg_output(a[8], kn, 1) : NULL;
    if (!codes) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_grouped_codes(&w, packed, is_signed, codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* x and its parameters stand in p; (bias, lowest, highest, y) follow. */
static PyObject *multiply(const qn_grouped *w, PyObject *packed_argument, qn_grouped_product *p, qn_args rest) {
    int64_t mn;
    const void *bias, *offsets;
    int64_t gn;
    if (qn_arg_product(p->m, w->n, &mn) || qn_arg_product(w->groups, w->n, &gn) ||
        qn_arg_optional(rest[4], gn, NPY_FLOAT32, &offsets))
        return NULL;
    p->offsets = offsets;
    p->lowest = (float)PyFloat_AsDouble(rest[1]), p->highest = (float)PyFloat_AsDouble(rest[2]);
    if (PyErr_Occurred()) return NULL;
    const uint8_t *packed = qn_arg_vector(packed_argument, qn_grouped_bytes(w), NPY_UINT8);
    if (!packed || qn_arg_optional(rest[0], w->n, NPY_FLOAT32, &bias) ||
        !(p->y = qn_arg_output(rest[3], mn, sizeof *p->y)))
        return NULL;
    p->bias = bias;
    int64_t bytes = qn_grouped_scratch(w, p->m, p->hadamard != NULL);
    void *scratch = bytes < 0 ? NULL : PyMem_RawMalloc((size_t)bytes);
    if (!scratch) return PyErr_NoMemory();
    if (mn > 0) {
        Py_BEGIN_ALLOW_THREADS;
        qn_grouped_multiply(w, packed, p, scratch);
        Py_END_ALLOW_THREADS;
    }
    PyMem_RawFree(scratch);
    Py_RETURN_NONE;
}

static PyObject *matmul_grouped(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_grouped w;
    qn_grouped_product p = {0};
    qn_hadamard h;
    int type;
    int64_t mk;
    (void)self;
    if (qn_arg_count("matmul_grouped", count, 24) || qn_arg_flag(a[5], &w.half) || qn_arg_flag(a[6], &w.zeros) ||
        layout(a + 1, &w) || qn_arg_i64(a[8], &p.m) || qn_arg_int(a[9], QN_I8, QN_U8, &type) ||
        qn_arg_flag(a[10], &p.symmetric) || qn_arg_int(a[11], INT8_MIN, UINT8_MAX, &p.qmin) ||
        qn_arg_int(a[12], p.qmin + 1, UINT8_MAX, &p.qmax) || qn_arg_int(a[14], INT8_MIN, UINT8_MAX, &p.zero_point) ||
        qn_arg_flag(a[15], &p.by_row) || qn_arg_product(p.m, w.k, &mk) || qn_arg_hadamard(a + 16, w.k, &h))
        return NULL;
    p.hadamard = h.factors ? &h : NULL;
    p.is_signed = type == QN_I8;
    p.scale = (float)PyFloat_AsDouble(a[13]);
    if (PyErr_Occurred() || !(p.x = qn_arg_vector(a[7], mk, NPY_FLOAT32))) return NULL;
    return multiply(&w, a[0], &p, a + 19);
}

/* One scale, one for each row, or one for each group of each row. */
static int input_codes(const qn_grouped *w, int64_t m, PyObject *codes, PyObject *scales, PyObject *zero_points,
                       bool is_signed, qn_input_codes *input) {
    int64_t mk, group_scales, n = PyArray_Check(scales) ? PyArray_SIZE((PyArrayObject *)scales) : 1;
    const void *zeros;
    if (qn_arg_product(m, w->k, &mk) || qn_arg_product(m, w->groups, &group_scales)) return -1;
    if (n == group_scales) input->row = w->groups, input->step = 1;
    else if (n == m) input->row = 1;
    else n = 1;
    if (!(input->codes = qn_arg_vector(codes, mk, is_signed ? NPY_INT8 : NPY_UINT8)) ||
        !(input->scales = qn_arg_vector(scales, n, NPY_FLOAT32)) || qn_arg_optional(zero_points, n, NPY_INT32, &zeros))
        return -1;
    input->zero_points = zeros;
    return 0;
}

static PyObject *matmul_grouped_codes(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_grouped w;
    qn_grouped_product p = {0};
    (void)self;
    if (qn_arg_count("matmul_grouped_codes", count, 16) || qn_arg_flag(a[5], &w.half) || qn_arg_flag(a[6], &w.zeros) ||
        layout(a + 1, &w) || qn_arg_i64(a[8], &p.m))
        return NULL;
    p.is_signed = PyArray_Check(a[7]) && PyArray_TYPE((PyArrayObject *)a[7]) == NPY_INT8;
    if (input_codes(&w, p.m, a[7], a[9], a[10], p.is_signed, &p.input)) return NULL;
    return multiply(&w, a[0], &p, a + 11);
}

PyMethodDef qn_packed_groups_methods[] = {
    QN_METHOD(grouped_room,
              "grouped_room(k, n, group, bits, half, zeros, /)\n--\n\nAn array for a packed weight, in huge pages."),
    QN_METHOD(grouped_pack, "grouped_pack(codes, signed, scales, zeros, packed, k, n, group, bits, /)\n--\n\nPack a "
                            "weight [k][n] with a scale for each group of k."),
    QN_METHOD(grouped_codes,
              "grouped_codes(packed, k, n, group, bits, half, zeros, signed, codes, /)\n--\n\nFill codes [k][n] "
              "from a packed weight, one code to a byte."),
    QN_METHOD(matmul_grouped,
              "matmul_grouped(packed, k, n, group, bits, half, zeros, x, m, x_type, symmetric, qmin, qmax, scale, "
              "zero_point, by_row, block, order, factors, "
              "bias, lowest, highest, y, offsets, /)\n--\n\nQuantize x and multiply it by a packed weight."),
    QN_METHOD(
        matmul_grouped_codes,
        "matmul_grouped_codes(packed, k, n, group, bits, half, zeros, codes, m, scales, zero_points, bias, lowest, "
        "highest, y, offsets, /)\n"
        "--\n\nMultiply codes, which have one scale, or one for each row or group, by a packed weight."),
    QN_END,
};
