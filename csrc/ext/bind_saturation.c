/* saturate(a, b, sum, error, pairs, m, k, n) and unsafe_pairs(b, pairs, k, n) -> None; both add to their outputs. */
#include "bindings.h"

#include "saturation.h"

static PyObject *saturate(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t m, k, n, mk, kn, mn;
    (void)self;
    if (qn_arg_count("saturate", count, 8) || qn_arg_i64(a[5], &m) || qn_arg_i64(a[6], &k) || qn_arg_i64(a[7], &n) ||
        qn_arg_product(m, k, &mk) || qn_arg_product(k, n, &kn) || qn_arg_product(m, n, &mn))
        return NULL;
    const uint8_t *left = qn_arg_vector(a[0], mk, NPY_UINT8);
    const int8_t *right = left ? qn_arg_vector(a[1], kn, NPY_INT8) : NULL;
    int64_t *sum = right ? qn_arg_output(a[2], mn, 8) : NULL, *error = sum ? qn_arg_output(a[3], mn, 8) : NULL;
    int64_t *pairs = error ? qn_arg_output(a[4], n, 8) : NULL;
    if (!pairs) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_saturate(left, right, m, k, n, sum, error, pairs);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *unsafe_pairs(PyObject *self, qn_args a, Py_ssize_t count) {
    int64_t k, n, kn;
    (void)self;
    if (qn_arg_count("unsafe_pairs", count, 4) || qn_arg_i64(a[2], &k) || qn_arg_i64(a[3], &n) ||
        qn_arg_product(k, n, &kn))
        return NULL;
    const int8_t *b = qn_arg_vector(a[0], kn, NPY_INT8);
    int64_t *pairs = b ? qn_arg_output(a[1], n, 8) : NULL;
    if (!pairs) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_unsafe_pairs(b, k, n, pairs);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_saturation_methods[] = {
    QN_METHOD(saturate, "saturate(a, b, sum, error, pairs, m, k, n, /)\n--\n\nAdd what saturating pairs of uint8 and "
                        "int8 give, its difference to the exact sum, and the saturated pairs of each column."),
    QN_METHOD(unsafe_pairs,
              "unsafe_pairs(b, pairs, k, n, /)\n--\n\nAdd the pairs of each column that saturate for some "
              "uint8 factors."),
    QN_END,
};
