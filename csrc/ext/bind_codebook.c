/* Tables of levels: cluster_rows, nearest_levels, search_level_scales, round_to_levels, descend_levels,
 * refit_level_scales, levels_objective and refit_levels fill their outputs. */
#include "bindings.h"

#include "codebook.h"
#include "descent.h"
#include "gptq.h"

/* A matrix of weights, its groups and its tables. */
typedef struct {
    const float *w;
    int64_t rows, columns, group, elements, parameters;
    qn_books books;
} tables;

enum { TABLES = 7 }; /* w, rows, columns, group, levels, count, shared */

static int tables_of(qn_args a, tables *t) {
    int count;
    bool shared;
    int64_t levels;
    if (qn_arg_groups(a + 1, &t->rows, &t->columns, &t->group, &t->elements, &t->parameters) ||
        qn_arg_int(a[5], 1, 256, &count) || qn_arg_flag(a[6], &shared) ||
        qn_arg_product(shared ? 1 : t->rows, count, &levels))
        return -1;
    t->w = qn_arg_vector(a[0], t->elements, NPY_FLOAT32);
    t->books = (qn_books){t->w ? qn_arg_vector(a[4], levels, NPY_FLOAT32) : NULL, shared ? 0 : count, count};
    return t->books.levels ? 0 : -1;
}

/* Codes that are indices of levels. */
static const int16_t *codes_of(PyObject *array, int64_t elements, int32_t count) {
    const int16_t *codes = qn_arg_vector(array, elements, NPY_INT16);
    bool inside = true;
    for (int64_t i = 0; codes && i < elements; i++) inside &= codes[i] >= 0 && codes[i] < count;
    if (inside) return codes;
    PyErr_SetString(PyExc_ValueError, "qnumpy._core: a code is no index of a level.");
    return NULL;
}

static PyObject *cluster_rows(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t rows, columns, elements, levels;
    int each;
    const void *importance;
    (void)self;
    if (qn_arg_count("cluster_rows", count, 6) || qn_arg_i64(a[2], &rows) || qn_arg_i64(a[3], &columns) ||
        qn_arg_int(a[4], 1, 256, &each) || qn_arg_product(rows, columns, &elements) ||
        qn_arg_product(rows, each, &levels) || qn_arg_optional(a[1], columns, NPY_FLOAT32, &importance))
        return NULL;
    const float *w = qn_arg_vector(a[0], elements, NPY_FLOAT32);
    float *out = w ? qn_arg_output(a[5], levels, sizeof *out) : NULL;
    if (!out) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_cluster_rows(w, importance, rows, columns, each, out);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

static PyObject *nearest_levels(PyObject *self, qn_args a, Py_ssize_t count) {
    tables t;
    (void)self;
    if (qn_arg_count("nearest_levels", count, TABLES + 2) || tables_of(a, &t)) return NULL;
    const float *scale = qn_arg_vector(a[TABLES], t.parameters, NPY_FLOAT32);
    int16_t *codes = scale ? qn_arg_output(a[TABLES + 1], t.elements, sizeof *codes) : NULL;
    if (!codes) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_nearest_codes(t.w, t.rows, t.columns, t.group, &t.books, scale, codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *search_level_scales(PyObject *self, qn_args a, Py_ssize_t count) {
    tables t;
    const void *importance;
    (void)self;
    if (qn_arg_count("search_level_scales", count, TABLES + 2) || tables_of(a, &t) ||
        qn_arg_optional(a[TABLES], t.columns, NPY_FLOAT32, &importance))
        return NULL;
    float *scale = qn_arg_output(a[TABLES + 1], t.parameters, sizeof *scale);
    if (!scale) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_search_scales(t.w, importance, t.rows, t.columns, t.group, &t.books, scale);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *round_to_levels(PyObject *self, qn_args a, Py_ssize_t count) {
    tables t;
    int64_t factors;
    (void)self;
    if (qn_arg_count("round_to_levels", count, TABLES + 4) || tables_of(a, &t) ||
        qn_arg_product(t.columns, t.columns, &factors))
        return NULL;
    qn_column_loop loop = {.w = t.w, .rows = t.rows, .columns = t.columns, .group = t.group, .books = &t.books};
    loop.factor = qn_arg_vector(a[TABLES], factors, NPY_FLOAT64);
    loop.order = loop.factor ? qn_arg_order(a[TABLES + 1], t.columns) : NULL;
    const float *scale = loop.order ? qn_arg_vector(a[TABLES + 2], t.parameters, NPY_FLOAT32) : NULL;
    loop.codes = scale ? qn_arg_output(a[TABLES + 3], t.elements, sizeof *loop.codes) : NULL;
    if (!loop.codes) return NULL;
    loop.scale = (float *)scale; /* without a search the loop reads it */
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_round_columns(&loop);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

/* The tables, then h, codes, scale. */
static int rounded_of(qn_args a, tables *t, qn_rounded *r) {
    int64_t moments;
    if (tables_of(a, t) || qn_arg_product(t->columns, t->columns, &moments)) return -1;
    *r = (qn_rounded){.w = t->w, .rows = t->rows, .columns = t->columns, .group = t->group, .books = &t->books};
    r->h = qn_arg_vector(a[TABLES], moments, NPY_FLOAT64);
    r->codes = r->h ? codes_of(a[TABLES + 1], t->elements, t->books.count) : NULL;
    r->scale = r->codes ? qn_arg_vector(a[TABLES + 2], t->parameters, NPY_FLOAT32) : NULL;
    return r->scale ? 0 : -1;
}

static PyObject *descend_levels(PyObject *self, qn_args a, Py_ssize_t count) {
    tables t;
    qn_rounded r;
    int64_t sweeps;
    (void)self;
    if (qn_arg_count("descend_levels", count, TABLES + 5) || rounded_of(a, &t, &r) ||
        qn_arg_i64(a[TABLES + 3], &sweeps))
        return NULL;
    int16_t *out = qn_arg_output(a[TABLES + 4], t.elements, sizeof *out);
    if (!out) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_descend(&r, 0, t.books.count - 1, sweeps, out);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

static PyObject *refit_level_scales(PyObject *self, qn_args a, Py_ssize_t count) {
    tables t;
    qn_rounded r;
    (void)self;
    if (qn_arg_count("refit_level_scales", count, TABLES + 4) || rounded_of(a, &t, &r)) return NULL;
    float *scale = qn_arg_output(a[TABLES + 3], t.parameters, sizeof *scale);
    if (!scale) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_refit_scales(&r, scale);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

static PyObject *levels_objective(PyObject *self, qn_args a, Py_ssize_t count) {
    tables t;
    qn_rounded r;
    (void)self;
    if (qn_arg_count("levels_objective", count, TABLES + 4) || rounded_of(a, &t, &r)) return NULL;
    double *objective = qn_arg_output(a[TABLES + 3], t.rows, sizeof *objective);
    if (!objective) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_rounding_objective(&r, objective);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

static PyObject *refit_levels(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_level_fit fit;
    int64_t elements, moments, levels;
    int each;
    (void)self;
    if (qn_arg_count("refit_levels", count, 7) || qn_arg_i64(a[2], &fit.rows) || qn_arg_i64(a[3], &fit.columns) ||
        qn_arg_int(a[4], 1, 256, &each) || qn_arg_product(fit.rows, fit.columns, &elements) ||
        qn_arg_product(fit.columns, fit.columns, &moments) || qn_arg_product(fit.rows, each, &levels))
        return NULL;
    fit.count = each;
    fit.w = qn_arg_vector(a[0], elements, NPY_FLOAT32);
    fit.h = fit.w ? qn_arg_vector(a[1], moments, NPY_FLOAT64) : NULL;
    fit.levels = fit.h ? qn_arg_output(a[5], levels, sizeof *fit.levels) : NULL;
    fit.codes = fit.levels && codes_of(a[6], elements, each) ? qn_arg_output(a[6], elements, sizeof *fit.codes) : NULL;
    if (!fit.codes) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_refit_levels(&fit);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

#define TABLES_TEXT "w, rows, columns, group, levels, count, shared, "
#define ROUNDED_TEXT TABLES_TEXT "h, codes, scale, "

PyMethodDef qn_codebook_methods[] = {
    QN_METHOD(cluster_rows, "cluster_rows(w, importance, rows, columns, count, levels, /)\n--\n\n"
                            "Levels of least weighted square error of each row."),
    QN_METHOD(nearest_levels, "nearest_levels(" TABLES_TEXT "scale, codes, /)\n--\n\nThe code of the nearest level."),
    QN_METHOD(search_level_scales, "search_level_scales(" TABLES_TEXT "importance, scale, /)\n--\n\n"
                                   "Scale of each group of columns of each row."),
    QN_METHOD(round_to_levels, "round_to_levels(" TABLES_TEXT "factor, order, scale, codes, /)\n--\n\n"
                               "Codes, column by column: those that follow make up for the error of each."),
    QN_METHOD(descend_levels, "descend_levels(" ROUNDED_TEXT "sweeps, out, /)\n--\n\n"
                              "Codes of which no single one can change to lower the objective."),
    QN_METHOD(refit_level_scales, "refit_level_scales(" ROUNDED_TEXT "out, /)\n--\n\n"
                                  "Scales of least objective for the codes."),
    QN_METHOD(levels_objective, "levels_objective(" ROUNDED_TEXT "out, /)\n--\n\n(level - w) h (level - w)^T of each "
                                "row."),
    QN_METHOD(refit_levels, "refit_levels(w, h, rows, columns, count, levels, codes, /)\n--\n\n"
                            "Levels of least objective for the codes, which are renumbered."),
    QN_END,
};
