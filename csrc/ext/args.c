#include "args.h"

#include "threads.h"

#include <stdlib.h>

#include "packing.h"

static int refuse(const char *what) {
    PyErr_Format(PyExc_ValueError, "qnumpy._core: %s.", what);
    return -1;
}

_Atomic(PyObject *) qn_pending_error;

int qn_set_pending_error(PyObject *type, PyObject *text) {
    PyObject *error = type == Py_None ? NULL : PyTuple_Pack(2, type, text);
    if (type != Py_None && !error) return -1;
    atomic_store_explicit(&qn_pending_error, error, memory_order_release);
    return 0;
}

_Atomic(PyObject *) qn_thread_blocks;

/* The limit of the innermost block that has not ended; 0 without one. -1: a value that qnumpy.threads did not set. */
static int innermost_limit(PyObject *blocks) {
    if (!PyTuple_Check(blocks)) return -1;
    int limit = 0;
    for (Py_ssize_t k = PyTuple_GET_SIZE(blocks); k > 0 && !limit; k--) {
        PyObject *block = PyTuple_GET_ITEM(blocks, k - 1);
        if (!PyList_Check(block) || PyList_GET_SIZE(block) != 1) return -1;
        int overflow; /* the item is a small int, which is immortal: no reference to take */
        long number = PyLong_Check(PyList_GET_ITEM(block, 0))
                          ? PyLong_AsLongAndOverflow(PyList_GET_ITEM(block, 0), &overflow)
                          : -1;
        if (number < 0 || number > QN_MAX_THREADS) return -1;
        limit = (int)number;
    }
    return limit;
}

int qn_read_thread_limit(void) {
    PyObject *blocks = NULL;
    if (PyContextVar_Get(atomic_load_explicit(&qn_thread_blocks, memory_order_acquire), NULL, &blocks)) return -1;
    int limit = blocks ? innermost_limit(blocks) : 0;
    Py_XDECREF(blocks);
    if (limit < 0) return refuse("the blocks of threads are of another form");
    qn_limit_threads(limit);
    return 0;
}

int qn_refuse_call(const char *function, Py_ssize_t count, Py_ssize_t expected) {
    PyObject *error = atomic_load_explicit(&qn_pending_error, memory_order_acquire);
    if (count != expected)
        PyErr_Format(PyExc_TypeError, "qnumpy._core.%s: takes %zd arguments; got %zd.", function, expected, count);
    else if (error) PyErr_SetObject(PyTuple_GET_ITEM(error, 0), PyTuple_GET_ITEM(error, 1));
    else return 0; /* another thread has just cleared it */
    return -1;
}

int qn_arg_i64(PyObject *argument, int64_t *value) {
    *value = PyLong_AsLongLong(argument);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

int qn_arg_int(PyObject *argument, int low, int high, int *value) {
    int64_t wide;
    if (qn_arg_i64(argument, &wide)) return -1;
    if (wide < low || wide > high) return refuse("an integer argument is out of range");
    *value = (int)wide;
    return 0;
}

int qn_arg_flag(PyObject *argument, bool *value) {
    int number;
    if (qn_arg_int(argument, 0, 1, &number)) return -1;
    *value = number;
    return 0;
}

int qn_arg_product(int64_t a, int64_t b, int64_t *product) {
    return a < 0 || b < 0 || __builtin_mul_overflow(a, b, product) ? refuse("a shape is negative or too large") : 0;
}

int qn_arg_source(PyObject *argument, PyObject *type, qn_source *source) {
    int number;
    if (qn_arg_int(type, 0, QN_TYPE_COUNT - 1, &number)) return -1;
    if (!PyArray_Check(argument)) return refuse("an input is not an array");
    PyArrayObject *array = (PyArrayObject *)argument;
    if ((size_t)PyArray_ITEMSIZE(array) != qn_itemsize((qn_type)number) || PyDataType_REFCHK(PyArray_DESCR(array)))
        return refuse("an input has another item size than its type");
    if (PyArray_NDIM(array) > QN_MAX_DIMS) return refuse("an input has too many dimensions");
    source->data = PyArray_BYTES(array);
    source->type = (qn_type)number;
    source->itemsize = (size_t)PyArray_ITEMSIZE(array);
    source->ndim = PyArray_NDIM(array);
    for (int d = 0; d < source->ndim; d++) {
        source->shape[d] = PyArray_DIM(array, d);
        source->strides[d] = PyArray_STRIDE(array, d);
    }
    source->swapped = PyArray_ISBYTESWAPPED(array);
    source->width = (qn_width){0};
    source->direct = PyArray_IS_C_CONTIGUOUS(array) && PyArray_ISALIGNED(array) && !source->swapped;
    return 0;
}

int qn_arg_packed(PyObject *argument, PyObject *type, PyObject *columns, qn_source *source) {
    int64_t length;
    if (qn_arg_source(argument, type, source) || qn_arg_i64(columns, &length)) return -1;
    qn_width width = qn_width_of(source->type);
    int last = source->ndim - 1;
    if (!width.bits || last < 0) return refuse("an input is not packed");
    if (length < 0 || length > QN_MAX_COLUMNS || source->shape[last] != qn_row_bytes(width.bits, length) ||
        (source->shape[last] > 1 && source->strides[last] != 1))
        return refuse("the rows of a packed input do not have that many codes");
    source->no_gaps = source->direct;
    source->shape[last] = length, source->width = width, source->direct = false;
    int64_t elements = 1;
    for (int d = 0; d <= last; d++)
        if (qn_arg_product(elements, source->shape[d], &elements)) return -1;
    return 0;
}

int qn_arg_grid(qn_args four, int64_t elements, qn_grid *grid) {
    if (qn_arg_i64(four[0], &grid->outer) || qn_arg_i64(four[1], &grid->channels) ||
        qn_arg_i64(four[2], &grid->inner) || qn_arg_i64(four[3], &grid->group))
        return -1;
    int64_t product;
    if (grid->outer < 0 || grid->channels < 0 || grid->inner < 0 || grid->group < 0 ||
        __builtin_mul_overflow(grid->outer, grid->channels, &product) ||
        __builtin_mul_overflow(product, grid->inner, &product) || product != elements)
        return refuse("the grid does not fit the array");
    return 0;
}

void *qn_arg_output(PyObject *argument, int64_t elements, size_t itemsize) {
    if (!PyArray_Check(argument)) return refuse("an output is not an array"), NULL;
    PyArrayObject *array = (PyArrayObject *)argument;
    if (!PyArray_ISCARRAY(array) || (size_t)PyArray_ITEMSIZE(array) != itemsize || PyArray_SIZE(array) != elements)
        return refuse("an output is not writable, C-contiguous, aligned and of the right size"), NULL;
    return PyArray_DATA(array);
}

const void *qn_arg_vector(PyObject *argument, int64_t elements, int type_number) {
    if (!PyArray_Check(argument)) return refuse("a parameter is not an array"), NULL;
    PyArrayObject *array = (PyArrayObject *)argument;
    if (!PyArray_ISCARRAY_RO(array) || PyArray_TYPE(array) != type_number || PyArray_SIZE(array) != elements)
        return refuse("a parameter is not C-contiguous or not of the right type and size"), NULL;
    return PyArray_DATA(array);
}

int qn_arg_optional(PyObject *argument, int64_t elements, int type_number, const void **data) {
    *data = argument == Py_None ? NULL : qn_arg_vector(argument, elements, type_number);
    return argument != Py_None && !*data ? -1 : 0;
}

const int64_t *qn_arg_order(PyObject *argument, int64_t columns) {
    const int64_t *order = qn_arg_vector(argument, columns, NPY_INT64);
    bool inside = true;
    for (int64_t p = 0; order && p < columns; p++) inside &= order[p] >= 0 && order[p] < columns;
    return inside ? order : (refuse("the order has a column that does not exist"), NULL);
}

int qn_arg_parameters(PyObject *scale, PyObject *zero_point, const qn_grid *grid, qn_affine *p, qn_number_params *one) {
    int64_t n = qn_grid_params(grid);
    if (n == 1 && PyFloat_CheckExact(scale)) one->scale = (float)PyFloat_AS_DOUBLE(scale), p->scale = &one->scale;
    else p->scale = qn_arg_vector(scale, n, NPY_FLOAT32);
    if (!p->scale) return -1;
    if (n == 1 && PyLong_CheckExact(zero_point)) {
        if (qn_arg_int(zero_point, INT16_MIN, UINT16_MAX, &one->zero_point)) return -1;
        p->zero_point = &one->zero_point;
    } else {
        p->zero_point = qn_arg_vector(zero_point, n, NPY_INT32);
    }
    return p->zero_point ? 0 : -1;
}

int qn_arg_code_range(PyObject *qmin, PyObject *qmax, qn_affine *p) {
    int low, high;
    if (qn_arg_int(qmin, -UINT16_MAX, UINT16_MAX, &low) || qn_arg_int(qmax, low, UINT16_MAX, &high)) return -1;
    p->qmin = low, p->qmax = high;
    return 0;
}

int qn_arg_groups(qn_args three, int64_t *rows, int64_t *columns, int64_t *group, int64_t *elements, int64_t *groups) {
    if (qn_arg_i64(three[0], rows) || qn_arg_i64(three[1], columns) || qn_arg_i64(three[2], group) ||
        qn_arg_product(*rows, *columns, elements))
        return -1;
    if (*group < 1) return refuse("groups are empty");
    return qn_arg_product(*rows, *columns / *group + (*columns % *group > 0), groups);
}

static bool is_integer(qn_type type) { return type == QN_I8 || type == QN_U8 || type == QN_I16; }

int qn_arg_matrix(PyObject *argument, PyObject *type, qn_matrix *m) {
    qn_source s;
    if (qn_arg_source(argument, type, &s)) return -1;
    if (s.ndim < 2 || !is_integer(s.type)) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: an operand is not a matrix of int8, uint8 or int16.");
        return -1;
    }
    int r = s.ndim - 2, c = s.ndim - 1;
    *m = (qn_matrix){s.data, s.type, s.swapped, s.shape[r], s.shape[c], s.strides[r], s.strides[c], false};
    return 0;
}

int qn_arg_zeros(PyObject *argument, int64_t count, qn_zeros *z) {
    *z = (qn_zeros){NULL, 0};
    if (argument == Py_None) return 0;
    PyArrayObject *array = (PyArrayObject *)argument;
    int last = PyArray_Check(argument) ? PyArray_NDIM(array) - 1 : -1;
    if (last < 0 || PyArray_TYPE(array) != NPY_INT32 || !PyArray_ISALIGNED(array) || PyArray_ISBYTESWAPPED(array) ||
        (PyArray_DIM(array, last) != 1 && (PyArray_DIM(array, last) != count || PyArray_STRIDE(array, last) != 4))) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: zero points are not int32 of the right layout.");
        return -1;
    }
    *z = (qn_zeros){PyArray_DATA(array), PyArray_DIM(array, last)};
    return 0;
}

static void free_data(PyObject *capsule) { free(PyCapsule_GetPointer(capsule, NULL)); }

PyObject *qn_none_or_no_memory(bool done) {
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *qn_array_owning(void **data, int64_t n, int type_number) {
    npy_intp length = (npy_intp)n;
    PyObject *capsule = PyCapsule_New(*data, NULL, free_data);
    if (!capsule) return NULL;
    PyObject *array = PyArray_SimpleNewFromData(1, &length, type_number, *data);
    *data = NULL;
    if (!array) return Py_DECREF(capsule), NULL;
    if (PyArray_SetBaseObject((PyArrayObject *)array, capsule)) Py_CLEAR(array); /* takes the capsule in either case */
    return array;
}
