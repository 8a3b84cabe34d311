/* The constants of `_core`: the lists of types as Python reads them, and limits. */
#include "bindings.h"

#include "distinct.h"
#include "threads.h"

/* dict[name] = value; the dict takes the value over. */
static int put(PyObject *dict, const char *name, PyObject *value) {
    int failed = !value || PyDict_SetItemString(dict, name, value);
    Py_XDECREF(value);
    return failed;
}

/* The number of each type. */
static int put_types(PyObject *dict) {
    int failed = 0;
#define FLOAT(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                                \
    failed = failed || put(dict, name, PyLong_FromLong(QN_##NAME));
#define INTEGER(_, tag, NAME, name, type, bits, is_signed, storage)                                                    \
    failed = failed || put(dict, name, PyLong_FromLong(QN_##NAME));
    QN_FLOATS(FLOAT, _)
    QN_INTEGERS(INTEGER, _)
#undef FLOAT
#undef INTEGER
    return failed;
}

/* (number, bits, exponent, mantissa, bias, kind) */
static int put_floats(PyObject *dict) {
    int failed = 0;
#define FLOAT(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                                \
    failed = failed ||                                                                                                 \
             put(dict, name,                                                                                           \
                 Py_BuildValue("(iiiiis)", (int)QN_##NAME, bits, exponent, mantissa, bias, &#kind[sizeof "QN_" - 1]));
    QN_FLOATS(FLOAT, _)
#undef FLOAT
    return failed;
}

/* (number, bits, signed) */
static int put_codes(PyObject *dict) {
    int failed = 0;
#define CODE(_, tag, NAME, name, type, bits, is_signed, storage)                                                       \
    failed = failed || put(dict, name, Py_BuildValue("(iiN)", (int)QN_##NAME, bits, PyBool_FromLong(is_signed)));
    QN_CODES(CODE, _)
#undef CODE
    return failed;
}

static int add_dict(PyObject *module, const char *name, int (*fill)(PyObject *dict)) {
    PyObject *dict = PyDict_New();
    int failed = !dict || fill(dict) || PyModule_AddObjectRef(module, name, dict);
    Py_XDECREF(dict);
    return failed;
}

int qn_add_constants(PyObject *module) {
    return add_dict(module, "TYPES", put_types) || add_dict(module, "FLOATS", put_floats) ||
                   add_dict(module, "CODES", put_codes) ||
                   PyModule_AddIntConstant(module, "MAX_THREADS", QN_MAX_THREADS) ||
                   PyModule_AddIntConstant(module, "FEW_OF_TENSOR", QN_FEW_OF_TENSOR) ||
                   PyModule_AddIntConstant(module, "FEW_OF_CHANNEL", QN_FEW_OF_CHANNEL)
               ? -1
               : 0;
}
