/* inverse_factor(h, n, out) -> bool; round_columns, descend, refit_scales, rounding_objective fill their outputs. */
#include "bindings.h"

#include "cholesky.h"
#include "descent.h"
#include "gptq.h"

static PyObject *inverse_factor(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t n, elements;
    (void)self;
    if (qn_arg_count("inverse_factor", count, 3) || qn_arg_i64(a[1], &n) || qn_arg_product(n, n, &elements))
        return NULL;
    const double *h = qn_arg_vector(a[0], elements, NPY_FLOAT64);
    double *u = h ? qn_arg_output(a[2], elements, sizeof *u) : NULL;
    if (!u) return NULL;
    qn_factor_outcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = qn_inverse_factor(h, n, u);
    Py_END_ALLOW_THREADS;
    return outcome == QN_FACTOR_NO_MEMORY ? PyErr_NoMemory() : PyBool_FromLong(outcome == QN_FACTORED);
}

static PyObject *round_columns(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_column_loop loop = {0};
    int64_t elements, parameters, factors;
    int qmin, qmax, low, high;
    const void *importance;
    (void)self;
    if (qn_arg_count("round_columns", count, 15) ||
        qn_arg_groups(a + 4, &loop.rows, &loop.columns, &loop.group, &elements, &parameters) ||
        qn_arg_product(loop.columns, loop.columns, &factors) || qn_arg_int(a[7], INT16_MIN, INT16_MAX - 1, &qmin) ||
        qn_arg_int(a[8], qmin + 1, INT16_MAX, &qmax) || qn_arg_int(a[9], qmin, qmax, &low) ||
        qn_arg_int(a[10], low, qmax, &high) || qn_arg_flag(a[11], &loop.search) ||
        qn_arg_optional(a[3], loop.columns, NPY_FLOAT32, &importance))
        return NULL;
    loop.levels = (qn_levels){qmin, qmax, low, high};
    loop.importance = importance;
    loop.w = qn_arg_vector(a[0], elements, NPY_FLOAT32);
    loop.factor = loop.w ? qn_arg_vector(a[1], factors, NPY_FLOAT64) : NULL;
    loop.order = loop.factor ? qn_arg_order(a[2], loop.columns) : NULL;
    loop.codes = loop.order ? qn_arg_output(a[14], elements, sizeof *loop.codes) : NULL;
    if (!loop.codes) return NULL;
    if (loop.search) { /* without it the loop only reads the grids */
        loop.scale = qn_arg_output(a[12], parameters, sizeof *loop.scale);
        loop.zero = loop.scale ? qn_arg_output(a[13], parameters, sizeof *loop.zero) : NULL;
    } else {
        loop.scale = (float *)qn_arg_vector(a[12], parameters, NPY_FLOAT32);
        loop.zero = loop.scale ? (int32_t *)qn_arg_vector(a[13], parameters, NPY_INT32) : NULL;
    }
    if (!loop.zero) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_round_columns(&loop);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

/* w, h, codes, scale, zero, rows, columns, group */
static int rounded_of(qn_args eight, qn_rounded *r, int64_t *elements, int64_t *parameters) {
    int64_t moments;
    if (qn_arg_groups(eight + 5, &r->rows, &r->columns, &r->group, elements, parameters) ||
        qn_arg_product(r->columns, r->columns, &moments))
        return -1;
    r->w = qn_arg_vector(eight[0], *elements, NPY_FLOAT32);
    r->h = r->w ? qn_arg_vector(eight[1], moments, NPY_FLOAT64) : NULL;
    r->codes = r->h ? qn_arg_vector(eight[2], *elements, NPY_INT16) : NULL;
    r->scale = r->codes ? qn_arg_vector(eight[3], *parameters, NPY_FLOAT32) : NULL;
    r->zero = r->scale ? qn_arg_vector(eight[4], *parameters, NPY_INT32) : NULL;
    return r->zero ? 0 : -1;
}

static PyObject *descend(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_rounded r = {0};
    int64_t elements, parameters, sweeps;
    int qmin, qmax;
    (void)self;
    if (qn_arg_count("descend", count, 12) || rounded_of(a, &r, &elements, &parameters) ||
        qn_arg_int(a[8], INT16_MIN, INT16_MAX - 1, &qmin) || qn_arg_int(a[9], qmin + 1, INT16_MAX, &qmax) ||
        qn_arg_i64(a[10], &sweeps))
        return NULL;
    int16_t *out = qn_arg_output(a[11], elements, sizeof *out);
    if (!out) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_descend(&r, qmin, qmax, sweeps, out);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

static PyObject *refit_scales(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_rounded r = {0};
    int64_t elements, parameters;
    (void)self;
    if (qn_arg_count("refit_scales", count, 9) || rounded_of(a, &r, &elements, &parameters)) return NULL;
    float *scale = qn_arg_output(a[8], parameters, sizeof *scale);
    if (!scale) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_refit_scales(&r, scale);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

static PyObject *rounding_objective(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_rounded r = {0};
    int64_t elements, parameters;
    (void)self;
    if (qn_arg_count("rounding_objective", count, 9) || rounded_of(a, &r, &elements, &parameters)) return NULL;
    double *objective = qn_arg_output(a[8], r.rows, sizeof *objective);
    if (!objective) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_rounding_objective(&r, objective);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

PyMethodDef qn_gptq_methods[] = {
    QN_METHOD(inverse_factor, "inverse_factor(h, n, out, /)\n--\n\nUpper triangular factor of the inverse of a "
                              "matrix; False where it is not positive definite."),
    QN_METHOD(round_columns, "round_columns(w, factor, order, importance, rows, columns, group, qmin, qmax, zero_low, "
                             "zero_high, search, scale, zero, codes, /)\n--\n\nCodes, column by column: those that "
                             "follow make up for the error of each."),
    QN_METHOD(descend, "descend(w, h, codes, scale, zero, rows, columns, group, qmin, qmax, sweeps, out, /)\n--\n\n"
                       "Codes of which no single one can change to lower the objective."),
    QN_METHOD(refit_scales, "refit_scales(w, h, codes, scale, zero, rows, columns, group, out, /)\n--\n\n"
                            "Scales of least objective for the codes."),
    QN_METHOD(rounding_objective, "rounding_objective(w, h, codes, scale, zero, rows, columns, group, out, /)\n--\n\n"
                                  "(level - w) h (level - w)^T of each row."),
    QN_END,
};
