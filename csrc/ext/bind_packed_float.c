/* float_weight_room, float_weight_pack, float_weight_codes, float_weight_scales and matmul_float: products with packed
 * weights of narrow floats. */
#include "bindings.h"

#include <stdlib.h>

#include "allocate.h"
#include "packed_float.h"

enum { LAYOUT = 9 }; /* arguments of a layout: k, n, group, element, scale, tensor_scale, plain, levels, shared */

static int layout(qn_args a, qn_float_weight *w) {
    int element, scale, levels;
    if (qn_arg_i64(a[0], &w->k) || qn_arg_i64(a[1], &w->n) || qn_arg_i64(a[2], &w->group) ||
        qn_arg_int(a[3], 0, QN_TYPE_COUNT - 1, &element) || qn_arg_int(a[4], 0, QN_TYPE_COUNT - 1, &scale) ||
        qn_arg_flag(a[6], &w->plain) || qn_arg_int(a[7], 0, 256, &levels) || qn_arg_flag(a[8], &w->shared))
        return -1;
    w->element = (qn_type)element, w->scale = (qn_type)scale, w->levels = levels;
    w->tensor_scale = (float)PyFloat_AsDouble(a[5]);
    if (PyErr_Occurred()) return -1;
    if (qn_float_weight_layout(w)) return 0;
    PyErr_SetString(PyExc_ValueError, "qnumpy._core: a weight of narrow floats of this shape cannot be packed.");
    return -1;
}

static PyObject *float_weight_room(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_float_weight w = {0};
    (void)self;
    if (qn_arg_count("float_weight_room", count, LAYOUT) || layout(a, &w)) return NULL;
    void *bytes = qn_allocate(qn_float_weight_bytes(&w), 1);
    if (!bytes) return PyErr_NoMemory();
    PyObject *array = qn_array_owning(&bytes, qn_float_weight_bytes(&w), NPY_UINT8);
    free(bytes);
    return array;
}

/* The number of codes and of scales, and NumPy's type of the scales. */
static int sizes(const qn_float_weight *w, int64_t *codes, int64_t *scales, int *type) {
    *type = w->scale == QN_F32 ? NPY_FLOAT32 : NPY_UINT8;
    return qn_arg_product(w->k, w->n, codes) || qn_arg_product(w->groups, w->n, scales) ? -1 : 0;
}

static PyObject *float_weight_pack(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_float_weight w = {0};
    int64_t codes, scales, levels;
    int type;
    (void)self;
    if (qn_arg_count("float_weight_pack", count, 4 + LAYOUT) || layout(a + 4, &w) ||
        sizes(&w, &codes, &scales, &type) || qn_arg_product(w.shared ? 1 : w.n, w.levels, &levels))
        return NULL;
    const uint8_t *from = qn_arg_vector(a[0], codes, NPY_UINT8);
    const void *each = from ? qn_arg_vector(a[1], scales, type) : NULL;
    const void *tables = NULL;
    if (!each || qn_arg_optional(a[2], levels, NPY_FLOAT32, &tables)) return NULL;
    if (!tables != !w.levels) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: tables are for codes of levels.");
        return NULL;
    }
    uint8_t *packed = each ? qn_arg_output(a[3], qn_float_weight_bytes(&w), 1) : NULL;
    if (!packed) return NULL;
    bool inside = true;
    for (int64_t i = 0; w.levels && i < codes; i++) inside &= from[i] < w.levels;
    if (!inside) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: a code is no index of a level.");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    qn_float_weight_pack(&w, from, each, tables, packed);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *float_weight_codes(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_float_weight w = {0};
    int64_t kn;
    (void)self;
    if (qn_arg_count("float_weight_codes", count, 2 + LAYOUT) || layout(a + 2, &w) || qn_arg_product(w.k, w.n, &kn))
        return NULL;
    const uint8_t *packed = qn_arg_vector(a[0], qn_float_weight_bytes(&w), NPY_UINT8);
    uint8_t *codes = packed ? qn_arg_output(a[1], kn, 1) : NULL;
    if (!codes) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_float_weight_codes(&w, packed, codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *float_weight_scales(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_float_weight w = {0};
    int64_t codes, scales;
    int type;
    (void)self;
    if (qn_arg_count("float_weight_scales", count, 2 + LAYOUT) || layout(a + 2, &w) ||
        sizes(&w, &codes, &scales, &type))
        return NULL;
    const uint8_t *packed = qn_arg_vector(a[0], qn_float_weight_bytes(&w), NPY_UINT8);
    void *to = packed ? qn_arg_output(a[1], scales, w.scale == QN_F32 ? sizeof(float) : 1) : NULL;
    if (!to) return NULL;
    qn_float_weight_scales(&w, packed, to);
    Py_RETURN_NONE;
}

static PyObject *matmul_float(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_float_weight w = {0};
    qn_float_product p = {0};
    int64_t mk, mn;
    const void *bias;
    (void)self;
    if (qn_arg_count("matmul_float", count, 7 + LAYOUT) || layout(a + 7, &w) || qn_arg_i64(a[2], &p.m) ||
        qn_arg_product(p.m, w.k, &mk) || qn_arg_product(p.m, w.n, &mn))
        return NULL;
    p.lowest = (float)PyFloat_AsDouble(a[4]), p.highest = (float)PyFloat_AsDouble(a[5]);
    if (PyErr_Occurred()) return NULL;
    const uint8_t *packed = qn_arg_vector(a[0], qn_float_weight_bytes(&w), NPY_UINT8);
    if (!packed || !(p.x = qn_arg_vector(a[1], mk, NPY_FLOAT32)) || qn_arg_optional(a[3], w.n, NPY_FLOAT32, &bias) ||
        !(p.y = qn_arg_output(a[6], mn, sizeof *p.y)))
        return NULL;
    p.bias = bias;
    int64_t bytes = qn_matmul_float_scratch(&w, p.m);
    void *scratch = bytes < 0 ? NULL : PyMem_RawMalloc((size_t)bytes);
    if (!scratch) return PyErr_NoMemory();
    if (mn > 0) {
        Py_BEGIN_ALLOW_THREADS;
        qn_matmul_float(&w, packed, &p, scratch);
        Py_END_ALLOW_THREADS;
    }
    PyMem_RawFree(scratch);
    Py_RETURN_NONE;
}

#define LAYOUT_TEXT "k, n, group, element, scale, tensor_scale, plain, levels, shared, /)\n--\n\n"

PyMethodDef qn_packed_float_methods[] = {
    QN_METHOD(float_weight_room,
              "float_weight_room(" LAYOUT_TEXT "An array for a packed weight of narrow floats, in huge pages."),
    QN_METHOD(float_weight_pack, "float_weight_pack(codes, scales, tables, packed, " LAYOUT_TEXT
                                 "Pack a weight [k][n] of narrow floats with a scale for each group of k."),
    QN_METHOD(float_weight_codes, "float_weight_codes(packed, codes, " LAYOUT_TEXT
                                  "Fill codes [k][n] from a packed weight, one code to a byte."),
    QN_METHOD(float_weight_scales,
              "float_weight_scales(packed, scales, " LAYOUT_TEXT "Fill scales [groups][n] from a packed weight."),
    QN_METHOD(matmul_float, "matmul_float(packed, x, m, bias, lowest, highest, y, " LAYOUT_TEXT
                            "Multiply float32 rows by a packed weight of narrow floats."),
    QN_END,
};
