/* weight4_room, weight4_pack and matmul4: products with packed 4-bit weights. */
#include "bindings.h"

#include <stdlib.h>

#include "allocate.h"
#include "matmul4.h"

static int layout(qn_args kn_block, qn_weight4 *w) {
    if (qn_arg_i64(kn_block[0], &w->k) || qn_arg_i64(kn_block[1], &w->n) || qn_arg_i64(kn_block[2], &w->block))
        return -1;
    bool known = w->block == 16 || w->block == 32 || w->block == 64 || w->block == 128;
    if (known && w->k >= 0 && w->n >= 0 && w->k <= INT64_MAX / 2 && w->n <= INT64_MAX / 2 && qn_weight4_layout(w))
        return 0;
    PyErr_SetString(PyExc_ValueError, "qnumpy._core: a 4-bit weight of this shape cannot be packed.");
    return -1;
}

static PyObject *weight4_room(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_weight4 w;
    (void)self;
    if (qn_arg_count("weight4_room", count, 5) || qn_arg_flag(a[3], &w.half) || qn_arg_flag(a[4], &w.zeros) ||
        layout(a, &w))
        return NULL;
    void *bytes = qn_allocate(qn_weight4_bytes(&w), 1);
    if (!bytes) return PyErr_NoMemory();
    PyObject *array = qn_array_owning(&bytes, qn_weight4_bytes(&w), NPY_UINT8);
    free(bytes);
    return array;
}

static PyObject *weight4_pack(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_weight4 w;
    int64_t codes, groups;
    (void)self;
    if (qn_arg_count("weight4_pack", count, 8)) return NULL;
    bool is_signed;
    w.half = PyArray_Check(a[2]) && PyArray_TYPE((PyArrayObject *)a[2]) == NPY_UINT16;
    w.zeros = a[3] != Py_None;
    if (qn_arg_flag(a[1], &is_signed) || layout(a + 5, &w) || qn_arg_product(w.k, w.n, &codes) ||
        qn_arg_product(w.groups, w.n, &groups))
        return NULL;
    const uint8_t *from = qn_arg_vector(a[0], codes, NPY_UINT8), *zeros = NULL;
    const void *scales = from ? qn_arg_vector(a[2], groups, w.half ? NPY_UINT16 : NPY_FLOAT32) : NULL;
    if (!scales || (w.zeros && !(zeros = qn_arg_vector(a[3], groups, NPY_UINT8)))) return NULL;
    uint8_t *packed = qn_arg_output(a[4], qn_weight4_bytes(&w), 1);
    if (!packed) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_weight4_pack(&w, from, is_signed, scales, zeros, packed);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *matmul4(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_weight4 w;
    qn_product4 p = {0};
    int64_t mk, mn;
    (void)self;
    if (qn_arg_count("matmul4", count, 16) || qn_arg_flag(a[4], &w.half) || qn_arg_flag(a[5], &w.zeros) ||
        layout(a + 1, &w) || qn_arg_flag(a[11], &p.by_row) || qn_arg_i64(a[7], &p.m) ||
        qn_arg_int(a[9], INT8_MIN, 0, &p.qmin) || qn_arg_int(a[10], 1, INT8_MAX, &p.qmax) ||
        qn_arg_product(p.m, w.k, &mk) || qn_arg_product(p.m, w.n, &mn))
        return NULL;
    p.scale = (float)PyFloat_AsDouble(a[8]);
    p.lowest = (float)PyFloat_AsDouble(a[13]), p.highest = (float)PyFloat_AsDouble(a[14]);
    if (PyErr_Occurred()) return NULL;
    const uint8_t *packed = qn_arg_vector(a[0], qn_weight4_bytes(&w), NPY_UINT8);
    if (!packed || !(p.x = qn_arg_vector(a[6], mk, NPY_FLOAT32)) ||
        (a[12] != Py_None && !(p.bias = qn_arg_vector(a[12], w.n, NPY_FLOAT32))) ||
        !(p.y = qn_arg_output(a[15], mn, sizeof *p.y)))
        return NULL;
    int64_t bytes = qn_matmul4_scratch(&w, p.m);
    void *scratch = bytes < 0 ? NULL : PyMem_RawMalloc((size_t)bytes);
    if (!scratch) return PyErr_NoMemory();
    if (mn > 0) {
        Py_BEGIN_ALLOW_THREADS;
        qn_matmul4(&w, packed, &p, scratch);
        Py_END_ALLOW_THREADS;
    }
    PyMem_RawFree(scratch);
    Py_RETURN_NONE;
}

PyMethodDef qn_matmul4_methods[] = {
    QN_METHOD(weight4_room,
              "weight4_room(k, n, block, half, zeros, /)\n--\n\nAn array for a packed 4-bit weight, in huge pages."),
    QN_METHOD(weight4_pack, "weight4_pack(codes, signed, scales, zeros, packed, k, n, block, /)\n--\n\nPack a 4-bit "
                            "weight [k][n] with a scale for each block of k."),
    QN_METHOD(
        matmul4,
        "matmul4(packed, k, n, block, half, zeros, x, m, scale, qmin, qmax, by_row, bias, lowest, highest, y, /)\n"
        "--\n\nQuantize x to int8 and multiply it by a packed 4-bit weight."),
    QN_END,
};
