/* cast(x, type, out, type, saturate, stochastic, seed) -> None, and FLOATS: float_list.h as Python reads it. */
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
    const qn_cast how = {.seed = seed, .saturate = saturate, .stochastic = stochastic};
    if (n < QN_GIL_ELEMENTS) {
        qn_cast_array(&x, out, (qn_type)type, &how);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        qn_cast_array(&x, out, (qn_type)type, &how);
        Py_END_ALLOW_THREADS;
    }
    Py_RETURN_NONE;
}

int qn_cast_constants(PyObject *module) {
    static const struct {
        const char *name, *kind;
        int type, bits, exponent, mantissa, bias;
    } floats[] = {
#define ROW(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                                  \
    {name, &#kind[sizeof "QN_" - 1], QN_##NAME, bits, exponent, mantissa, bias},
        QN_FLOATS(ROW, _)
#undef ROW
    };
    PyObject *dict = PyDict_New();
    for (size_t k = 0; dict && k < sizeof floats / sizeof *floats; k++) {
        PyObject *row = Py_BuildValue("(iiiiis)", floats[k].type, floats[k].bits, floats[k].exponent,
                                      floats[k].mantissa, floats[k].bias, floats[k].kind);
        if (!row || PyDict_SetItemString(dict, floats[k].name, row)) Py_CLEAR(dict);
        Py_XDECREF(row);
    }
    int failed = !dict || PyModule_AddObjectRef(module, "FLOATS", dict);
    Py_XDECREF(dict);
    return failed ? -1 : 0;
}

PyMethodDef qn_cast_methods[] = {
    QN_METHOD(cast, "cast(x, x_type, out, out_type, saturate, stochastic, seed, /)\n--\n\nFill out with x in another "
                    "float type."),
    QN_END,
};
