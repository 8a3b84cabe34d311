/* The guard: unwraps arrays and refuses arguments that could corrupt memory. Python refuses those that are only wrong.
 */
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

/* Calls on fewer elements keep the GIL: releasing it costs more than the call. */
enum { QN_GIL_ELEMENTS = 1 << 14 };

typedef PyObject *const *qn_args;

/* Each returns -1 with an exception set when the argument is not what it must be. Every binding starts with
 * qn_arg_count, which also raises the pending error; those that mend the error or tell what can be set start with
 * qn_arg_count_of_setter. */
int qn_arg_count(const char *function, Py_ssize_t count, Py_ssize_t expected);
int qn_arg_count_of_setter(const char *function, Py_ssize_t count, Py_ssize_t expected);
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

/* The error type(text) that every call raises from now on, because a variable of the environment is wrong; None and
 * None end it. */
int qn_set_pending_error(PyObject *type, PyObject *text);

/* A new one-dimensional array that takes over *data, which malloc returned, and sets it to NULL. NULL on error; the
 * caller still owns *data unless it is NULL. */
PyObject *qn_array_owning(void **data, int64_t n, int type_number);

#endif
