/* cast(x, type, out, type, saturate, stochastic, seed) -> None. */
#include "bindings.h"

#include "cast.h"

static PyObject *cast(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    int type, saturate, stochastic;
    (void)self;
    if (qn_arg_count("cast", count, 7) || qn_arg_source(a[0], a[1], &x)) return NULL;
    if (x.type >= QN_I8) return PyErr_Format(PyExc_TypeError, "qnumpy._core.cast: the input is not real.");
    int64_t n = qn_elements(&x);
    if (qn_arg_int(a[3], QN_F32, QN_I8 - 1, &type) || qn_arg_int(a[4], 0, 1, &saturate) ||
        qn_arg_int(a[5], 0, 1, &stochastic))
        return NULL;
    void *out = qn_arg_output(a[2], n, qn_itemsize((qn_type)type));
    uint64_t seed = PyLong_AsUnsignedLongLong(a[6]);
    if (!out || PyErr_Occurred()) return NULL;
    const qn_cast options = {.seed = seed, .saturate = saturate, .stochastic = stochastic};
    if (n < QN_GIL_ELEMENTS) {
        qn_cast_array(&x, out, (qn_type)type, &options);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        qn_cast_array(&x, out, (qn_type)type, &options);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

PyMethodDef qn_cast_methods[] = {
    QN_METHOD(cast, "cast(x, x_type, out, out_type, saturate, stochastic, seed, /)\n--\n\nFill out with x in another "
                    "float type."),
    QN_END,
};
