/* search_grids and search_offsets(w, importance, ...) -> None: scale and zero point, or offset, of every group of a
 * matrix of weights. */
#include "bindings.h"

#include "grid_rows.h"

/* w, importance, half_quadratic, rows, columns, group, qmin, qmax. Sets the number of groups. */
static int weights_of(qn_args a, qn_weights *m, int64_t *groups) {
    int64_t elements;
    int qmin, qmax;
    if (qn_arg_flag(a[2], &m->half_quadratic) ||
        qn_arg_groups(a + 3, &m->rows, &m->columns, &m->group, &elements, groups) ||
        qn_arg_int(a[6], INT16_MIN, INT16_MAX - 1, &qmin) || qn_arg_int(a[7], qmin + 1, INT16_MAX, &qmax))
        return -1;
    m->levels = (qn_levels){qmin, qmax, qmin, qmax};
    m->w = qn_arg_vector(a[0], elements, NPY_FLOAT32);
    if (!m->w) return -1;
    m->by_row = PyArray_Check(a[1]) && PyArray_NDIM((PyArrayObject *)a[1]) == 2;
    const void *importance;
    if (qn_arg_optional(a[1], m->by_row ? elements : m->columns, NPY_FLOAT32, &importance)) return -1;
    m->importance = importance;
    return 0;
}

static PyObject *search_grids(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_weights m;
    int64_t groups;
    int low, high;
    (void)self;
    if (qn_arg_count("search_grids", count, 12) || weights_of(a, &m, &groups) ||
        qn_arg_int(a[8], m.levels.qmin, m.levels.qmax, &low) || qn_arg_int(a[9], low, m.levels.qmax, &high))
        return NULL;
    m.levels.zero_low = low, m.levels.zero_high = high;
    float *scale = qn_arg_output(a[10], groups, sizeof *scale);
    int32_t *zero = scale ? qn_arg_output(a[11], groups, sizeof *zero) : NULL;
    if (!zero) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_search_grids(&m, scale, zero);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *search_offsets(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_weights m;
    int64_t groups;
    (void)self;
    if (qn_arg_count("search_offsets", count, 10) || weights_of(a, &m, &groups)) return NULL;
    float *scale = qn_arg_output(a[8], groups, sizeof *scale);
    float *offset = scale ? qn_arg_output(a[9], groups, sizeof *offset) : NULL;
    if (!offset) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_search_offsets(&m, scale, offset);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_grid_search_methods[] = {
    QN_METHOD(search_grids, "search_grids(w, importance, half_quadratic, rows, columns, group, qmin, qmax, zero_low, "
                            "zero_high, scale, zero, "
                            "/)\n--\n\nScale and zero point of each group of columns of each row."),
    QN_METHOD(
        search_offsets,
        "search_offsets(w, importance, half_quadratic, rows, columns, group, qmin, qmax, scale, offset, /)\n--\n\n"
        "Scale and offset of each group of columns of each row."),
    QN_END,
};
