/* hadamard(x, x_type, rows, size, block, order, factors, inverse, y) -> None. */
#include "bindings.h"

#include "hadamard.h"

int qn_arg_hadamard(qn_args three, int64_t size, qn_hadamard *h) {
    const void *factors;
    int64_t runs;
    if (qn_arg_i64(three[0], &h->block) || qn_arg_i64(three[1], &h->order) ||
        qn_arg_optional(three[2], size, NPY_FLOAT32, &factors))
        return -1;
    h->size = size, h->factors = factors, h->inverse = false;
    bool known = h->order == 1 || h->order == 12 || h->order == 20;
    runs = known && h->block >= h->order ? h->block / h->order : 0;
    if (!factors || (runs > 0 && runs * h->order == h->block && (runs & (runs - 1)) == 0 && size % h->block == 0))
        return 0;
    PyErr_Format(PyExc_ValueError, "qnumpy._core: no blocks of a Hadamard matrix of this size.");
    return -1;
}

static PyObject *hadamard(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_hadamard h;
    int64_t rows, size, elements;
    bool inverse;
    (void)self;
    if (qn_arg_count("hadamard", count, 9) || qn_arg_source(a[0], a[1], &x) || qn_arg_i64(a[2], &rows) ||
        qn_arg_i64(a[3], &size) || qn_arg_product(rows, size, &elements) || qn_arg_hadamard(a + 4, size, &h) ||
        qn_arg_flag(a[7], &inverse))
        return NULL;
    if (!qn_is_float(x.type) || elements != qn_elements(&x) || !h.factors)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.hadamard: the input is not real or not that large.");
    float *y = qn_arg_output(a[8], elements, sizeof *y);
    if (!y) return NULL;
    h.inverse = inverse;
    Py_BEGIN_ALLOW_THREADS;
    qn_hadamard_rows(&x, rows, &h, y);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_hadamard_methods[] = {
    QN_METHOD(hadamard, "hadamard(x, x_type, rows, size, block, order, factors, inverse, y, /)\n--\n\nFill y with rows "
                        "times Hadamard matrices."),
    QN_END,
};
