/* What module.c and the bind_*.c files share. */
#ifndef QN_BINDINGS_H
#define QN_BINDINGS_H

#include "args.h"
#include "bind_list.h"

#define QN_DECLARE_METHODS(stem) extern PyMethodDef qn_##stem##_methods[];
QN_BIND_LIST(QN_DECLARE_METHODS)
#undef QN_DECLARE_METHODS

int qn_add_constants(PyObject *module); /* constants.c */

#define QN_PACKED_CAPSULE "qnumpy.packed" /* name of a capsule that holds a qn_packed of matmul.h */
#define QN_METHOD(name, text) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, text}
#define QN_END {NULL, NULL, 0, NULL}

#endif
