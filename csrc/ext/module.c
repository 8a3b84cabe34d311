/* qnumpy._core: multi-phase init, slots, method table. */
#define QN_IMPORTS_NUMPY
#include "bindings.h"

#include "dispatch.h"

static int execute(PyObject *module) {
    if (PyArray_ImportNumPyAPI() < 0) return -1;
    qn_dispatch_init();
    PyMethodDef *const tables[] = {
        qn_quantize_methods, qn_cast_methods,       qn_reduce_methods,  qn_metrics_methods,     qn_histogram_methods,
        qn_pack_methods,     qn_accumulate_methods, qn_blocks_methods,  qn_float_error_methods, qn_matmul_methods,
        qn_packed8_methods,  qn_conv_methods,       qn_packed4_methods, qn_saturation_methods,  qn_runtime_methods,
    };
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++)
        if (PyModule_AddFunctions(module, tables[k])) return -1;
    return qn_runtime_constants(module) || qn_cast_constants(module) ? -1 : 0;
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
