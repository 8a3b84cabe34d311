/* best_of_sums, best_of_bits(best scores, best ids, seen, ...) offer rows to the best of each query; best_sort and
 * dot_candidates. All return None. */
#include "bindings.h"

#include "nearest.h"

/* Scores and ids of shape (queries, k), and how many rows were offered before. */
static int best_of(qn_args a, int64_t queries, int64_t k, int64_t seen, qn_best *best) {
    int64_t places, twice;
    if (qn_arg_product(queries, k, &places) || qn_arg_product(seen, 2, &twice)) return -1; /* ids fit int64 */
    *best = (qn_best){.queries = queries, .k = k, .seen = seen};
    best->scores = qn_arg_output(a[0], places, sizeof(double));
    best->ids = best->scores ? qn_arg_output(a[1], places, sizeof(int64_t)) : NULL;
    return best->ids ? 0 : -1;
}

static PyObject *best_of_sums(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t queries, k, seen, n, products;
    qn_best best;
    const void *offset;
    (void)self;
    if (qn_arg_count("best_of_sums", count, 10) || qn_arg_i64(a[2], &queries) || qn_arg_i64(a[3], &k) ||
        qn_arg_i64(a[4], &seen) || qn_arg_i64(a[5], &n) || qn_arg_product(queries, n, &products) ||
        best_of(a, queries, k, seen, &best) || qn_arg_optional(a[9], n, NPY_FLOAT64, &offset))
        return NULL;
    const int32_t *sums = qn_arg_vector(a[6], products, NPY_INT32);
    const double *factor = sums ? qn_arg_vector(a[7], queries, NPY_FLOAT64) : NULL;
    const double *scale = factor ? qn_arg_vector(a[8], n, NPY_FLOAT64) : NULL;
    if (!scale) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_best_of_sums(&best, sums, n, factor, scale, offset);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *best_of_bits(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t queries, k, seen, n, bytes, stored, asked;
    qn_best best;
    (void)self;
    if (qn_arg_count("best_of_bits", count, 9) || qn_arg_i64(a[2], &queries) || qn_arg_i64(a[3], &k) ||
        qn_arg_i64(a[4], &seen) || qn_arg_i64(a[5], &n) || qn_arg_i64(a[6], &bytes) ||
        qn_arg_product(n, bytes, &stored) || qn_arg_product(queries, bytes, &asked) ||
        best_of(a, queries, k, seen, &best))
        return NULL;
    const uint8_t *rows = qn_arg_vector(a[7], stored, NPY_UINT8);
    const uint8_t *bits = rows ? qn_arg_vector(a[8], asked, NPY_UINT8) : NULL;
    if (!bits) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_best_of_bits(&best, rows, n, bits, bytes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *best_sort(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t queries, k, seen;
    qn_best best;
    (void)self;
    if (qn_arg_count("best_sort", count, 5) || qn_arg_i64(a[2], &queries) || qn_arg_i64(a[3], &k) ||
        qn_arg_i64(a[4], &seen) || best_of(a, queries, k, seen, &best))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_best_sort(&best);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *dot_candidates(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t queries, candidates, n, d, asked, pairs, stored;
    (void)self;
    if (qn_arg_count("dot_candidates", count, 8) || qn_arg_i64(a[3], &queries) || qn_arg_i64(a[4], &candidates) ||
        qn_arg_i64(a[5], &n) || qn_arg_i64(a[6], &d) || qn_arg_product(queries, d, &asked) ||
        qn_arg_product(queries, candidates, &pairs) || qn_arg_product(n, d, &stored))
        return NULL;
    const float *x = qn_arg_vector(a[0], asked, NPY_FLOAT32);
    const float *rows = x ? qn_arg_vector(a[1], stored, NPY_FLOAT32) : NULL;
    const int64_t *ids = rows ? qn_arg_vector(a[2], pairs, NPY_INT64) : NULL;
    double *y = ids ? qn_arg_output(a[7], pairs, sizeof(double)) : NULL;
    if (!y) return NULL;
    bool inside = true;
    for (int64_t i = 0; i < pairs; i++) inside &= ids[i] >= 0 && ids[i] < n;
    if (!inside) {
        PyErr_SetString(PyExc_ValueError, "qnumpy._core: an id is outside the rows.");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    qn_dot_candidates(x, rows, ids, queries, candidates, d, y);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_nearest_methods[] = {
    QN_METHOD(best_of_sums, "best_of_sums(scores, ids, queries, k, seen, n, sums, factor, scale, offset, /)\n--\n\n"
                            "Keep the k best of n more rows for each query."),
    QN_METHOD(best_of_bits, "best_of_bits(scores, ids, queries, k, seen, n, nbytes, rows, bits, /)\n--\n\n"
                            "Keep the k nearest of n more rows of packed bits for each query."),
    QN_METHOD(best_sort, "best_sort(scores, ids, queries, k, seen, /)\n--\n\nSort the best of each query."),
    QN_METHOD(dot_candidates, "dot_candidates(x, rows, ids, queries, candidates, n, d, out, /)\n--\n\n"
                              "Inner products of each query and its own of n rows, summed in float64."),
    QN_END,
};
