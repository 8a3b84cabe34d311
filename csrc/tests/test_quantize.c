/* Kernels with parameters: the kind AFFINE. */
#include "kinds.h"
#include "support.h"

static const int32_t code_ranges[][2] = {{-128, 127}, {0, 255}, {-127, 127}, {1, 255},       {-8, 7},
                                         {0, 15},     {-2, 1},  {0, 3},      {-32768, 32767}};

static void test_spans(const char *row_name, const qn_table *row, const kernel *k) {
    bool quantizes = k->varies & CONVENTIONS;
    int modes = quantizes ? QN_CONVENTION_COUNT : k->varies & METHODS ? 2 : 1;
    for (int size = 0; size < SIZES; size++)
        for (int run = 0; run < RUNS; run++)
            for (int mode = 0; mode < modes; mode++)
                for (int variant = 0; variant < 4; variant++) {
                    int64_t n = size_at(size);
                    int32_t lo = k->qmin, hi = k->qmax;
                    if (variant & 1) { /* a narrower range of codes that this type can hold */
                        const int32_t *r = code_ranges[random_bits() % (sizeof code_ranges / sizeof *code_ranges)];
                        bool any = k->out_size == 4;
                        if (any || (r[0] >= k->qmin && r[1] <= k->qmax)) lo = r[0], hi = r[1];
                    }
                    parameters s = parameters_make(n, run, lo, hi, quantizes ? variant & 2 : 0);
                    s.p.stream = random_bits() % 3 == 0;
                    if (quantizes) s.p.convention = (qn_convention)mode;
                    else s.p.method = k->varies & METHODS ? (mode ? QN_FIXED_DOUBLE : QN_FIXED) : QN_FLOAT;
                    compare(row_name, row, k, n, &s.p, &s, random_bits() % 17);
                    parameters_free(&s);
                }
}

/* A rectangle of `row` beside the scalar ISA row called line by line; elements between the lines do not change. */
static void compare_rectangle(const char *row_name, const qn_table *row, const kernel *k, int64_t n, parameters *s,
                              size_t shift) {
    const int64_t rows = s->p.rows, stride = s->p.stride, total = (rows - 1) * stride + n;
    char *in = array((size_t)total, k->in_size);
    guarded expected = guarded_make((size_t)total * k->out_size, shift * k->out_size);
    guarded result = guarded_make((size_t)total * k->out_size, shift * k->out_size);
    for (int64_t r = 0; r < rows; r++) {
        char *line = in + (size_t)(r * stride) * k->in_size;
        k->fill(line, r < rows - 1 ? stride : n, k, NULL);
        k->fill(line, n, k, s);
    }
    qn_affine one = s->p;
    one.rows = 1;
    for (int64_t r = 0; r < rows; r++)
        k->call(&qn_row_scalar, in + (size_t)(r * stride) * k->in_size,
                expected.data + (size_t)(r * stride) * k->out_size, n, &one);
    k->call(row, in, result.data, n, &s->p);
    check(memcmp(expected.memory, result.memory, result.total) == 0, row_name, k->name, "a rectangle differs", n,
          &s->p);
    free(in), free(expected.memory), free(result.memory);
}

static void test_rectangles(const char *row_name, const qn_table *row, const kernel *k) {
    for (int again = 0; again < 300; again++) {
        int64_t n = again < SMALL ? again : random_int(SMALL, 300);
        parameters s = parameters_make(n, 1, k->qmin, k->qmax, false);
        s.p.rows = random_int(1, 40);
        s.p.stream = again % 2;
        s.p.stride = n + random_int(0, 70);
        if (s.p.stream) s.p.stride = (s.p.stride + 63) / 64 * 64;
        if (k->varies & CONVENTIONS) s.p.convention = (qn_convention)random_int(0, QN_CONVENTION_COUNT - 1);
        compare_rectangle(row_name, row, k, n, &s, random_bits() % 17);
        parameters_free(&s);
    }
}

void test_AFFINE(const char *row_name, const qn_table *row, const kernel *k) {
    test_spans(row_name, row, k);
    if (k->varies & RECTANGLES) test_rectangles(row_name, row, k);
}
