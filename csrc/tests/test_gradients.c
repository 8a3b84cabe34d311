/* fake_quantize_inside_f32, keep_f32, gradient_f32, gradient_columns_f32. */
#include "support.h"

/* The codes and the marks of one element, by plain arithmetic, for the ONNX convention. */
static bool is_inside(float x, const qn_affine *p, int64_t k) {
    double code = nearbyint((double)(x / p->scale[k])) + p->zero_point[k];
    return code >= p->qmin && code <= p->qmax; /* false for NaN */
}

static void test_inside(const char *row_name, const qn_table *row, int64_t n, parameters *s, size_t shift) {
    const char *name = "fake_quantize_inside_f32";
    const qn_affine *p = &s->p;
    float *x = array((size_t)n, sizeof *x), *y = array((size_t)n, sizeof *y);
    guarded values = guarded_make((size_t)n * sizeof *y, shift * sizeof *y), marks = guarded_make((size_t)n, shift);
    fill_float(x, n, NULL, s);
    qn_row_scalar.fake_quantize_f32(x, y, n, p);
    row->fake_quantize_inside_f32(x, (float *)values.data, marks.data, n, p);
    bool right = true;
    for (int64_t i = 0; i < n && p->convention == QN_ONNX; i++)
        right &= marks.data[i] == is_inside(x[i], p, p->run ? (p->phase + i) / p->run : i);
    check(!memcmp(y, values.data, (size_t)n * sizeof *y), row_name, name, "differs from fake_quantize_f32", n, p);
    check(right, row_name, name, "marks the wrong elements", n, p);
    CHECK_GUARDS(values, name);
    CHECK_GUARDS(marks, name);

    guarded kept = guarded_make((size_t)n * sizeof *y, shift * sizeof *y);
    name = "keep_f32";
    if (row->keep_f32) {
        row->keep_f32(x, marks.data, (float *)kept.data, n, p->stream);
        for (int64_t i = 0; i < n; i++) y[i] = marks.data[i] ? x[i] : 0;
        check(!memcmp(y, kept.data, (size_t)n * sizeof *y), row_name, name, "differs from a plain loop", n, p);
        CHECK_GUARDS(kept, name);
    }
    free(x), free(y), free(values.memory), free(marks.memory), free(kept.memory);
}

/* Sums of numbers that are far apart show their order. */
static float random_gradient(void) { return (float)ldexp(random_unit() - 0.5, random_int(-20, 20)); }

static bool same_sums(const double *a, const double *b, int64_t n) {
    bool same = true;
    for (int64_t i = 0; i < n; i++) same &= !memcmp(a + i, b + i, sizeof *a) || (a[i] != a[i] && b[i] != b[i]);
    return same;
}

static void test_sums(const char *row_name, const qn_table *row, int64_t n, parameters *s, bool columns, size_t shift) {
    const char *name = columns ? "gradient_columns_f32" : "gradient_f32";
    const qn_affine *p = &s->p;
    float *x = array((size_t)n, sizeof *x), *g = array((size_t)n, sizeof *g), *dx = array((size_t)n, sizeof *dx);
    guarded out = guarded_make((size_t)n * sizeof *dx, shift * sizeof *dx);
    const int64_t sums = 3 * (columns ? n : 1);
    double *a = array((size_t)sums, sizeof *a);
    guarded b = guarded_make((size_t)sums * sizeof *a, 0);
    fill_float(x, n, NULL, s);
    for (int64_t i = 0; i < n; i++) g[i] = random_gradient();
    for (int64_t i = 0; i < sums; i++) a[i] = random_unit();
    memcpy(b.data, a, (size_t)sums * sizeof *a);
    double *to = (double *)(void *)b.data;
    if (columns) {
        qn_row_scalar.gradient_columns_f32(x, g, dx, n, p, a, a + n, a + 2 * n);
        row->gradient_columns_f32(x, g, (float *)out.data, n, p, to, to + n, to + 2 * n);
    } else {
        qn_gradient one = {a[0], a[1], a[2]}, other = one;
        qn_row_scalar.gradient_f32(x, g, dx, n, p, &one);
        row->gradient_f32(x, g, (float *)out.data, n, p, &other);
        a[0] = one.error, a[1] = one.below, a[2] = one.above;
        to[0] = other.error, to[1] = other.below, to[2] = other.above;
    }
    CHECK_SAME(same_sums(a, to, sums), name);
    CHECK_SAME(!memcmp(dx, out.data, (size_t)n * sizeof *dx), name);
    bool right = true;
    for (int64_t i = 0; i < n && p->convention == QN_ONNX; i++)
        right &= ((float *)out.data)[i] == (is_inside(x[i], p, columns ? i : 0) ? g[i] : 0);
    check(right, row_name, name, "keeps the wrong gradients", n, p);
    CHECK_GUARDS(out, name);
    CHECK_GUARDS(b, name);
    free(x), free(g), free(dx), free(a), free(out.memory), free(b.memory);
}

void test_gradients(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++)
        for (int mode = 0; mode < QN_CONVENTION_COUNT; mode++)
            for (int run = 0; run < RUNS; run++) {
                const int64_t n = size_at(size);
                const bool four = random_bits() % 2;
                parameters s = parameters_make(n, run, four ? -8 : INT8_MIN, four ? 7 : INT8_MAX, false);
                s.p.stream = random_bits() % 3 == 0, s.p.convention = (qn_convention)mode;
                if (row->fake_quantize_inside_f32) test_inside(row_name, row, n, &s, random_bits() % 17);
                const bool columns = s.p.run == 0;
                if (columns ? row->gradient_columns_f32 != NULL : row->gradient_f32 != NULL)
                    test_sums(row_name, row, n, &s, columns, random_bits() % 17);
                parameters_free(&s);
            }
}
