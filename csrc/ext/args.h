/* The guard: unwraps arrays and refuses what could corrupt memory. What would only be wrong is refused in Python. */
#ifndef QN_ARGS_H
#define QN_ARGS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL qnumpy_ARRAY_API
#ifndef QN_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "matmul.h"
#include "source.h"

/* Calls below this many elements keep the GIL: releasing it costs more than they do. */
enum { QN_GIL_ELEMENTS = 1 << 14 };

typedef PyObject *const *qn_args;

/* Each returns -1 with an exception set when the argument is not what it must be. */
int qn_arg_count(const char *function, Py_ssize_t given,
                 Py_ssize_t wanted); /* also raises what qn_refuse_calls holds */
int qn_arg_count_always(const char *function, Py_ssize_t given, Py_ssize_t wanted);
int qn_arg_i64(PyObject *argument, int64_t *value);
int qn_arg_int(PyObject *argument, int low, int high, int *value);
int qn_arg_flag(PyObject *argument, bool *value);
int qn_arg_product(int64_t a, int64_t b, int64_t *product); /* of two lengths */
int qn_arg_source(PyObject *argument, PyObject *type, qn_source *source);
int qn_arg_grid(qn_args four, int64_t elements, qn_grid *grid);
void *qn_arg_output(PyObject *argument, int64_t elements, size_t itemsize);       /* NULL on error */
const void *qn_arg_vector(PyObject *argument, int64_t elements, int type_number); /* C-contiguous, exactly this long */
int qn_arg_optional(PyObject *argument, int64_t elements, int type_number, const void **data); /* such a one or None */

/* The last two axes of an array of 8-bit codes or words. */
int qn_arg_matrix(PyObject *argument, PyObject *type, qn_matrix *m);

/* None, or an array of int32 whose last axis holds 1 or `count` zero points one after the other. */
int qn_arg_zeros(PyObject *argument, int64_t count, qn_zeros *z);

/* From now on every function that calls qn_arg_count raises type(text); NULL and NULL end it. A bad variable of the
 * environment is told so, when the kernels are first used. */
int qn_refuse_calls(PyObject *type, PyObject *text);

/* A new array of one axis that owns *data, of malloc's kind, which is NULL afterwards: what is large is not copied. NULL on
 * error; then *data is still the caller's, unless it is NULL. */
PyObject *qn_array_owning(void **data, int64_t n, int type_number);

#endif
