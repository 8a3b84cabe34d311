/* What module.c takes from each bind_*.c. */
#ifndef QN_BINDINGS_H
#define QN_BINDINGS_H

#include "args.h"

extern PyMethodDef qn_quantize_methods[], qn_reduce_methods[], qn_metrics_methods[], qn_observers_methods[],
    qn_pack_methods[], qn_runtime_methods[];
int qn_runtime_constants(PyObject *module); /* adds TYPES */

#define QN_METHOD(name, text) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, text}
#define QN_END {NULL, NULL, 0, NULL}

#endif
