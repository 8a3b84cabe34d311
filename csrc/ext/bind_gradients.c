/* fake_quantize_inside, keep_inside, gradients: fake-quantization for training. */
#include "bindings.h"

#include "gradients.h"

/* A type that kernels widen to float32, or float32. */
static int floats(PyObject *array, PyObject *type, qn_source *x) {
    if (qn_arg_source(array, type, x)) return -1;
    if (qn_is_float(x->type) && x->type != QN_F64) return 0;
    PyErr_Format(PyExc_TypeError, "qnumpy._core: the input must be float32 or narrower.");
    return -1;
}

static void *floats_out(PyObject *array, PyObject *type, int64_t elements, qn_type *out_type) {
    int number;
    if (qn_arg_int(type, 0, QN_I8 - 1, &number)) return NULL;
    *out_type = (qn_type)number;
    if (*out_type != QN_F64) return qn_arg_output(array, elements, qn_itemsize(*out_type));
    return PyErr_Format(PyExc_TypeError, "qnumpy._core: the output must be float32 or narrower.");
}

static int affine(qn_args scale, qn_args grid_and_codes, int64_t elements, qn_grid *grid, qn_affine *p,
                  qn_number_params *one) {
    int convention;
    if (qn_arg_grid(grid_and_codes, elements, grid) || qn_arg_parameters(scale[0], scale[1], grid, p, one) ||
        qn_arg_code_range(grid_and_codes[4], grid_and_codes[5], p) ||
        qn_arg_int(grid_and_codes[6], 0, QN_CONVENTION_COUNT - 1, &convention))
        return -1;
    p->convention = (qn_convention)convention;
    return 0;
}

static int64_t bytes_of_bits(int64_t bits) { return bits / 8 + (bits % 8 != 0); }

/* (x, x_type, scale, zero_point, out, out_type, inside, outer, channels, inner, group, qmin, qmax, convention) */
static PyObject *fake_quantize_inside(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    qn_grid grid;
    qn_affine p = {0};
    qn_number_params one;
    qn_type type;
    (void)self;
    if (qn_arg_count("fake_quantize_inside", count, 14) || floats(a[0], a[1], &x)) return NULL;
    const int64_t n = qn_elements(&x);
    if (affine(a + 2, a + 7, n, &grid, &p, &one)) return NULL;
    void *y = floats_out(a[4], a[5], n, &type);
    uint8_t *inside = y ? qn_arg_output(a[6], bytes_of_bits(n), 1) : NULL;
    if (!inside) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    memset(inside, 0, (size_t)bytes_of_bits(n));
    qn_fake_quantize_inside(&x, y, type, inside, &grid, &p);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* (g, g_type, inside, out, out_type) */
static PyObject *keep_inside(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source g;
    qn_type type;
    (void)self;
    if (qn_arg_count("keep_inside", count, 5) || floats(a[0], a[1], &g)) return NULL;
    const int64_t n = qn_elements(&g);
    const uint8_t *inside = qn_arg_vector(a[2], bytes_of_bits(n), NPY_UINT8);
    void *dx = inside ? floats_out(a[3], a[4], n, &type) : NULL;
    if (!dx) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_keep_inside(&g, inside, dx, type);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

/* (x, x_type, g, g_type, scale, zero_point, out, out_type, sums, outer, channels, inner, group, qmin, qmax,
 * convention) */
static PyObject *gradients(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x, g;
    qn_grid grid;
    qn_affine p = {0};
    qn_number_params one;
    qn_type type;
    int64_t values;
    (void)self;
    if (qn_arg_count("gradients", count, 16) || floats(a[0], a[1], &x) || floats(a[2], a[3], &g)) return NULL;
    const int64_t n = qn_elements(&x);
    if (qn_elements(&g) != n) return PyErr_Format(PyExc_ValueError, "qnumpy._core.gradients: x and g differ in size.");
    if (affine(a + 4, a + 9, n, &grid, &p, &one) || qn_arg_product(qn_grid_params(&grid), 3, &values)) return NULL;
    void *dx = floats_out(a[6], a[7], n, &type);
    double *sums = dx ? qn_arg_output(a[8], values, sizeof *sums) : NULL;
    if (!sums) return NULL;
    bool done;
    Py_BEGIN_ALLOW_THREADS;
    done = qn_gradients(&x, &g, dx, type, &grid, &p, sums);
    Py_END_ALLOW_THREADS;
    return qn_none_or_no_memory(done);
}

PyMethodDef qn_gradients_methods[] = {
    QN_METHOD(
        fake_quantize_inside,
        "fake_quantize_inside(x, x_type, scale, zero_point, out, out_type, inside, outer, channels, inner, group, "
        "qmin, qmax, convention, /)\n--\n\nFill out with dequantized codes, and inside with a bit for each "
        "element: its code does not saturate."),
    QN_METHOD(keep_inside, "keep_inside(g, g_type, inside, out, out_type, /)\n--\n\nFill out with g where the bit is "
                           "set, with 0 elsewhere."),
    QN_METHOD(gradients,
              "gradients(x, x_type, g, g_type, scale, zero_point, out, out_type, sums, outer, channels, inner, "
              "group, qmin, qmax, convention, /)\n--\n\nFill out with the gradient of x, and sums with those "
              "that the gradients of the parameters follow from."),
    QN_END,
};
