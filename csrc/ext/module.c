/* qnumpy._core: multi-phase init, slots, method table. */
#define QN_IMPORTS_NUMPY
#include "bindings.h"

#include "dispatch.h"

static int execute(PyObject *module) {
    if (PyArray_ImportNumPyAPI() < 0) return -1;
    qn_dispatch_init();
    PyMethodDef *const tables[] = {
#define QN_METHODS(stem) qn_##stem##_methods,
        QN_BIND_LIST(QN_METHODS)
#undef QN_METHODS
    };
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++)
        if (PyModule_AddFunctions(module, tables[k])) return -1;
    return qn_add_constants(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED}, /* NumPy itself is not isolated */
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "qnumpy._core",
    .m_doc = "The kernels of qnumpy; private.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
