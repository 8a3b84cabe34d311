/* look_up: rows of embeddings. */
#include "bindings.h"

#include "layers.h"

static PyObject *look_up(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_look_up l = {0};
    int64_t codes, elements;
    (void)self;
    if (qn_arg_count("look_up", count, 7) || qn_arg_flag(a[1], &l.wide) || qn_arg_i64(a[4], &l.rows) ||
        qn_arg_i64(a[5], &l.n) || qn_arg_product(l.rows, l.n, &codes))
        return NULL;
    const int64_t ids = PyArray_Check(a[0]) ? PyArray_SIZE((PyArrayObject *)a[0]) : 0;
    if (qn_arg_product(ids, l.n, &elements) || !(l.ids = qn_arg_vector(a[0], ids, l.wide ? NPY_INT64 : NPY_INT32)) ||
        !(l.codes = qn_arg_vector(a[2], codes, NPY_INT8)) || !(l.scale = qn_arg_vector(a[3], l.rows, NPY_FLOAT32)) ||
        !(l.y = qn_arg_output(a[6], elements, sizeof(float))))
        return NULL;
    bool inside;
    Py_BEGIN_ALLOW_THREADS;
    inside = qn_look_up_rows(&l, ids);
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(inside);
}

PyMethodDef qn_layers_methods[] = {
    QN_METHOD(look_up, "look_up(ids, wide, codes, scale, rows, n, out, /)\n--\n\nFill out with rows of an embedding, "
                       "dequantized; False when an id is outside."),
    QN_END,
};
