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
#include <stdatomic.h>

#include "matmul.h"
#include "source.h"

/* Calls on fewer elements keep the GIL: releasing it costs more than the call. */
enum { QN_GIL_ELEMENTS = 1 << 14 };

typedef PyObject *const *qn_args;

/* (type, text) of the error that every call raises, because a variable of the environment is wrong; or NULL. Never
 * freed: another thread may be about to raise it. */
extern _Atomic(PyObject *) qn_pending_error;
int qn_set_pending_error(PyObject *type, PyObject *text);                        /* None and None: no error */
int qn_refuse_call(const char *function, Py_ssize_t count, Py_ssize_t expected); /* sets the exception; -1 */

/* The context variable of the blocks of qnumpy.threads: a tuple of lists of one number, the innermost block last; 0 is
 * a block that has ended. NULL until a block begins, so that calls of other programs do not pay for the look-up. */
extern _Atomic(PyObject *) qn_thread_blocks;
int qn_read_thread_limit(void);

/* Each returns -1 with an exception set when the argument is refused. Every binding starts with qn_arg_count; those
 * that clear the pending error, or list the values that clear it, with qn_arg_count_always. */
static inline int qn_arg_count_always(const char *function, Py_ssize_t count, Py_ssize_t expected) {
    return count == expected ? 0 : qn_refuse_call(function, count, expected);
}
static inline int qn_arg_count(const char *function, Py_ssize_t count, Py_ssize_t expected) {
    bool pending = atomic_load_explicit(&qn_pending_error, memory_order_relaxed) != NULL;
    bool limited = atomic_load_explicit(&qn_thread_blocks, memory_order_relaxed) != NULL;
    if (count != expected || pending) return qn_refuse_call(function, count, expected);
    return limited ? qn_read_thread_limit() : 0;
}
int qn_arg_i64(PyObject *argument, int64_t *value);
int qn_arg_int(PyObject *argument, int low, int high, int *value);
int qn_arg_flag(PyObject *argument, bool *value);
int qn_arg_product(int64_t a, int64_t b, int64_t *product); /* of two lengths */
int qn_arg_source(PyObject *argument, PyObject *type, qn_source *source);
int qn_arg_packed(PyObject *argument, PyObject *type, PyObject *columns, qn_source *source); /* rows of packed codes */
int qn_arg_grid(qn_args four, int64_t elements, qn_grid *grid);
void *qn_arg_output(PyObject *argument, int64_t elements, size_t itemsize);       /* NULL on error */
const void *qn_arg_vector(PyObject *argument, int64_t elements, int type_number); /* C-contiguous, exactly this long */
int qn_arg_optional(PyObject *argument, int64_t elements, int type_number, const void **data); /* a vector or None */
const int64_t *qn_arg_order(PyObject *argument, int64_t columns); /* as many numbers of columns; NULL on error */

/* Storage of parameters that are Python numbers. */
typedef struct {
    float scale;
    int32_t zero_point;
} qn_number_params;

/* Arrays; or per tensor a float and an int, because making an array costs as much as a small call. */
int qn_arg_parameters(PyObject *scale, PyObject *zero_point, const qn_grid *grid, qn_affine *p, qn_number_params *one);
int qn_arg_code_range(PyObject *qmin, PyObject *qmax, qn_affine *p);

/* (rows, columns, group) of a matrix whose rows are cut into groups of columns. */
int qn_arg_groups(qn_args three, int64_t *rows, int64_t *columns, int64_t *group, int64_t *elements, int64_t *groups);

/* The last two axes of an array of 8-bit codes or words. */
int qn_arg_matrix(PyObject *argument, PyObject *type, qn_matrix *m);

/* (block, order, factors) of rows of `size` elements. Without factors h->factors is NULL, and there is no transform. */
int qn_arg_hadamard(qn_args three, int64_t size, qn_hadamard *h);

/* None, or an array of int32 whose last axis holds 1 or `count` zero points one after the other. */
int qn_arg_zeros(PyObject *argument, int64_t count, qn_zeros *z);

/* None, or NULL with a MemoryError. */
PyObject *qn_none_or_no_memory(bool done);

/* A new one-dimensional array that takes over *data, which malloc returned, and sets it to NULL. NULL on error; the
 * caller still owns *data unless it is NULL. */
PyObject *qn_array_owning(void **data, int64_t n, int type_number);

#endif
