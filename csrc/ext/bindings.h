/* What module.c takes from each bind_*.c. */
#ifndef QN_BINDINGS_H
#define QN_BINDINGS_H

#include "args.h"

extern PyMethodDef qn_quantize_methods[], qn_cast_methods[], qn_reduce_methods[], qn_metrics_methods[],
    qn_histogram_methods[], qn_pack_methods[], qn_accumulate_methods[], qn_blocks_methods[], qn_float_error_methods[],
    qn_matmul_methods[], qn_packed8_methods[], qn_conv_methods[], qn_packed4_methods[], qn_saturation_methods[],
    qn_runtime_methods[];
int qn_runtime_constants(PyObject *module); /* adds TYPES */
int qn_cast_constants(PyObject *module);    /* adds FLOATS */

#define QN_PACKED_CAPSULE "qnumpy.packed" /* holds a qn_packed of matmul.h */
#define QN_METHOD(name, text) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, text}
#define QN_END {NULL, NULL, 0, NULL}

#endif
