/* accumulate(x, x_type, w, w_type, out, out_type) -> None. */
#include "bindings.h"

#include "accumulate.h"

static bool gathers(const qn_source *s) { return s->type <= QN_BF16 && s->type != QN_F64; }

static PyObject *accumulate(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x, w;
    int type;
    (void)self;
    if (qn_arg_count("accumulate", count, 6) || qn_arg_source(a[0], a[1], &x) || qn_arg_source(a[2], a[3], &w) ||
        qn_arg_int(a[5], QN_F32, QN_BF16, &type))
        return NULL;
    if (x.ndim != 2 || w.ndim != 2 || x.shape[1] != w.shape[0] || !gathers(&x) || !gathers(&w) || type == QN_F64)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.accumulate: the types or the shapes do not fit.");
    void *y = qn_arg_output(a[4], x.shape[0] * w.shape[1], qn_itemsize((qn_type)type));
    if (!y) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_accumulate(&x, &w, y, (qn_type)type);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_accumulate_methods[] = {
    QN_METHOD(accumulate, "accumulate(x, x_type, w, w_type, out, out_type, /)\n--\n\nA matrix product whose sums are "
                          "rounded after each step."),
    QN_END,
};
