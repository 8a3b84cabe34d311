/* Every ISA row against the scalar row, bit for bit, called through the tables.
 *
 * Each kernel runs over sizes 0..70 (every tail of every vector length, several whole strides) and some larger, random and
 * edge values, every convention, one parameter for each run and one for each element, streamed and not, with outputs at
 * several alignments between guard bytes. Inputs are exact copies on the heap, so a sanitizer sees a read past the end.
 *
 *     test_rows [SEED]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "qn_kernels.h"

#ifdef QN_TEST_EMULATED /* this build carries the row's instructions as plain code: run it whatever the CPU has */
#define QN_EMULATED 1
#else
#define QN_EMULATED 0
#endif

static const int64_t larger[] = {96, 127, 128, 129, 255, 256, 1000, 1023, 1025, 4099};
enum {
    SMALL = 71,
    SIZES = SMALL + sizeof larger / sizeof *larger,
    GUARD = 64,
    GUARD_BYTE = 0xA5,
    SHOWN = 20, /* failures printed in full */
};

static int64_t size_at(int i) { return i < SMALL ? i : larger[i - SMALL]; }

/* ---- random values ---------------------------------------------------------------------------------------------- */

static uint64_t state;

static uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}
static int32_t random_int(int32_t lo, int32_t hi) { /* both ends included */
    return (int32_t)(lo + (int64_t)(random_bits() % (uint64_t)((int64_t)hi - lo + 1)));
}
static double random_unit(void) { return (double)(random_bits() >> 11) * 0x1p-53; }

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static const uint32_t edges[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000,
    0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0x3F000000, 0xBF000000, 0x3EFFFFFF,
    0x3F000001, 0x3FC00000, 0x40200000, 0x4F000000, 0xCF000000, 0x4B000000, 0x477FF000, 0x477FEFFF, 0x38800000,
    0x387FFFFF, 0x33000000, 0x33000001, 0x32FFFFFF, 0x7F7F8000, 0x3F808000, 0x3F818000,
};
static float edge(void) { return float_of(edges[random_bits() % (sizeof edges / sizeof *edges)]); }

/* ---- parameters ------------------------------------------------------------------------------------------------- */

typedef struct {
    float *scale;
    int32_t *zero_point, *multiplier, *shift;
    qn_affine p;
} parameters;

static const int64_t runs[][2] = {{1 << 20, 0}, {0, 0}, {1, 0}, {3, 2}, {17, 5}, {64, 63}}; /* run, phase */
enum { RUNS = sizeof runs / sizeof *runs };

static float scale_at(const parameters *s, int64_t i) { return s->scale[s->p.run ? (s->p.phase + i) / s->p.run : i]; }
static int32_t zero_at(const parameters *s, int64_t i) {
    return s->zero_point[s->p.run ? (s->p.phase + i) / s->p.run : i];
}

/* Positive and normal; of exponents for which the reciprocal in two parts is exact when `plain`. */
static float random_scale(bool plain) {
    uint32_t mantissa = (uint32_t)random_bits() & 0x7FFFFF;
    if (random_bits() % 8 == 0) mantissa = random_bits() % 2 ? 0 : 0x7FFFFF;
    int exponent = random_bits() % 2 ? random_int(-10, 2) : plain ? random_int(-90, 89) : random_int(-126, 127);
    return float_of((uint32_t)(exponent + 127) << 23 | mantissa);
}

static void *array(size_t count, size_t itemsize) { /* an empty one still has an address */
    void *p = malloc(count * itemsize + (count == 0));
    if (!p) abort();
    return p;
}

static parameters parameters_make(int64_t n, int run, int32_t qmin, int32_t qmax, bool plain) {
    parameters s = {.p = {.run = runs[run][0], .phase = runs[run][1], .rows = 1, .qmin = qmin, .qmax = qmax}};
    size_t count = (size_t)(s.p.run ? (s.p.phase + n) / s.p.run + 1 : n);
    s.scale = array(count, sizeof *s.scale);
    s.zero_point = array(count, sizeof *s.zero_point);
    s.multiplier = array(count, sizeof *s.multiplier);
    s.shift = array(count, sizeof *s.shift);
    bool no_zero = random_bits() % 4 == 0;
    for (size_t k = 0; k < count; k++) {
        s.scale[k] = random_scale(plain);
        s.zero_point[k] = no_zero ? 0 : random_int(qmin, qmax);
        s.multiplier[k] = random_int(1 << 30, INT32_MAX);
        s.shift[k] = random_int(1, 62);
    }
    s.p.scale = s.scale;
    s.p.zero_point = s.zero_point;
    s.p.multiplier = s.multiplier;
    s.p.shift = s.shift;
    s.p.ahead = random_bits() % 2 ? 512 : 0;
    s.p.exact_inverse = plain && qmax - qmin <= 255;
    return s;
}

static void parameters_free(parameters *s) { free(s->scale), free(s->zero_point), free(s->multiplier), free(s->shift); }

/* ---- inputs ----------------------------------------------------------------------------------------------------- */

/* Fills `in` with n elements; `s` is NULL for kernels without parameters. */
typedef void (*filler)(void *in, int64_t n, const parameters *s);

/* Edges, any bits, values in range, and values within some ulps of where two codes meet. */
static double random_real(const parameters *s, int64_t i, int mantissa_bits) {
    double scale = s ? (double)scale_at(s, i) : 1.0, code = s ? random_int(s->p.qmin - 2, s->p.qmax + 2) : 1.0;
    if (s) code -= zero_at(s, i);
    switch (random_bits() % 4) {
    case 0: return (double)edge();
    case 1: return (code + random_unit() - 0.5) * scale;
    default: return (code + 0.5) * scale * (1.0 + random_int(-4, 4) * ldexp(1.0, -mantissa_bits));
    }
}
static void fill_f32(void *in, int64_t n, const parameters *s) {
    float *x = in;
    for (int64_t i = 0; i < n; i++)
        x[i] = random_bits() % 8 ? (float)random_real(s, i, 24) : float_of((uint32_t)random_bits());
}
static void fill_f64(void *in, int64_t n, const parameters *s) {
    double *x = in;
    for (int64_t i = 0; i < n; i++) x[i] = random_bits() % 8 ? random_real(s, i, 53) : double_of(random_bits());
}
static void fill_any(void *in, size_t bytes) {
    unsigned char *b = in;
    for (size_t i = 0; i < bytes; i++) b[i] = (unsigned char)random_bits();
}
static void fill_8(void *in, int64_t n, const parameters *s) { (void)s, fill_any(in, (size_t)n); }
static void fill_16(void *in, int64_t n, const parameters *s) { (void)s, fill_any(in, (size_t)n * 2); }
static void fill_32(void *in, int64_t n, const parameters *s) { /* accumulators: small ones too, and the ends */
    int32_t *x = in;
    (void)s;
    for (int64_t i = 0; i < n; i++) {
        int32_t any = (int32_t)random_bits();
        x[i] = any >> random_int(0, 24);
        if (random_bits() % 16 == 0) x[i] = random_bits() % 2 ? INT32_MIN : INT32_MAX;
    }
}
#define FILL_CODES(tag, lo, hi)                                                                                        \
    static void fill_codes_##tag(void *in, int64_t n, const parameters *s) {                                           \
        int32_t *x = in;                                                                                               \
        (void)s;                                                                                                       \
        for (int64_t i = 0; i < n; i++) x[i] = random_int(lo, hi);                                                     \
    }
FILL_CODES(i8, -128, 127)
FILL_CODES(u8, 0, 255)
FILL_CODES(i16, -32768, 32767)
FILL_CODES(u16, 0, 65535)

/* ---- the kernels, as the test sees them -------------------------------------------------------------------------- */

typedef void (*caller)(const qn_table *t, const void *in, void *out, int64_t n, const qn_affine *p);

/* What varies besides sizes and values. */
typedef enum { PLAIN, AFFINE, CONVENTIONS, METHODS } variety;

typedef struct {
    const char *name;
    int index;
    caller call;
    filler fill;
    size_t in_size, out_size; /* bytes */
    int in_per, out_per;      /* elements that one item of input and output holds: 2 and 4 for packed bytes */
    variety varies;
    int32_t qmin, qmax; /* of the code type */
} kernel;

/* AFFINE_KERNELS(K): K(name, input, output, fill, variety, qmin, qmax) */
#define AFFINE_KERNELS(K)                                                                                              \
    K(quantize_f32_i8, float, int8_t, fill_f32, CONVENTIONS, -128, 127)                                                \
    K(quantize_f32_u8, float, uint8_t, fill_f32, CONVENTIONS, 0, 255)                                                  \
    K(quantize_f32_i16, float, int16_t, fill_f32, CONVENTIONS, -32768, 32767)                                          \
    K(quantize_f32_u16, float, uint16_t, fill_f32, CONVENTIONS, 0, 65535)                                              \
    K(quantize_f64_i32, double, int32_t, fill_f64, CONVENTIONS, -32768, 32767)                                         \
    K(fake_quantize_f32, float, float, fill_f32, CONVENTIONS, -128, 127)                                               \
    K(dequantize_i8_f32, int8_t, float, fill_8, AFFINE, -128, 127)                                                     \
    K(dequantize_u8_f32, uint8_t, float, fill_8, AFFINE, 0, 255)                                                       \
    K(dequantize_i16_f32, int16_t, float, fill_16, AFFINE, -32768, 32767)                                              \
    K(dequantize_u16_f32, uint16_t, float, fill_16, AFFINE, 0, 65535)                                                  \
    K(dequantize_i32_f32, int32_t, float, fill_32, AFFINE, -32768, 32767)                                              \
    K(dequantize_i4_f32, uint8_t, float, fill_8, AFFINE, -8, 7)                                                        \
    K(dequantize_u4_f32, uint8_t, float, fill_8, AFFINE, 0, 15)                                                        \
    K(dequantize_i2_f32, uint8_t, float, fill_8, AFFINE, -2, 1)                                                        \
    K(dequantize_u2_f32, uint8_t, float, fill_8, AFFINE, 0, 3)                                                         \
    K(requantize_i32_i8, int32_t, int8_t, fill_32, AFFINE, -128, 127)                                                  \
    K(requantize_i32_u8, int32_t, uint8_t, fill_32, AFFINE, 0, 255)                                                    \
    K(requantize_i32_i16, int32_t, int16_t, fill_32, AFFINE, -32768, 32767)                                            \
    K(requantize_i32_u16, int32_t, uint16_t, fill_32, AFFINE, 0, 65535)                                                \
    K(requantize_fixed_i32, int32_t, int32_t, fill_32, METHODS, -32768, 32767)                                         \
    K(divide_f32, float, float, fill_f32, AFFINE, -128, 127)                                                           \
    K(divide_f64, double, double, fill_f64, AFFINE, -128, 127)                                                         \
    K(multiply_f32, float, float, fill_f32, AFFINE, -128, 127)

/* PLAIN_KERNELS(K): K(name, input, output, fill, in_per, out_per) */
#define PLAIN_KERNELS(K)                                                                                               \
    K(narrow_i32_i8, int32_t, int8_t, fill_codes_i8, 1, 1)                                                             \
    K(narrow_i32_u8, int32_t, uint8_t, fill_codes_u8, 1, 1)                                                            \
    K(narrow_i32_i16, int32_t, int16_t, fill_codes_i16, 1, 1)                                                          \
    K(narrow_i32_u16, int32_t, uint16_t, fill_codes_u16, 1, 1)                                                         \
    K(truncate_f64_f32, double, float, fill_f64, 1, 1)                                                                 \
    K(pack_4, uint8_t, uint8_t, fill_8, 1, 2)                                                                          \
    K(pack_2, uint8_t, uint8_t, fill_8, 1, 4)                                                                          \
    K(unpack_i4, uint8_t, uint8_t, fill_8, 2, 1)                                                                       \
    K(unpack_u4, uint8_t, uint8_t, fill_8, 2, 1)                                                                       \
    K(unpack_i2, uint8_t, uint8_t, fill_8, 4, 1)                                                                       \
    K(unpack_u2, uint8_t, uint8_t, fill_8, 4, 1)

/* Reductions have a test of their own below. REDUCTIONS(K): K(tag, element, fill) */
#define REDUCTIONS(K)                                                                                                  \
    K(f32, float, fill_f32)                                                                                            \
    K(f64, double, fill_f64)

#define CALL_AFFINE(name, input, output, fill, varies, lo, hi)                                                         \
    static void call_##name(const qn_table *t, const void *in, void *out, int64_t n, const qn_affine *p) {             \
        t->name(in, out, n, p);                                                                                        \
    }
#define CALL_PLAIN(name, input, output, fill, in_per, out_per)                                                         \
    static void call_##name(const qn_table *t, const void *in, void *out, int64_t n, const qn_affine *p) {             \
        (void)p;                                                                                                       \
        t->name(in, out, n);                                                                                           \
    }
AFFINE_KERNELS(CALL_AFFINE)
PLAIN_KERNELS(CALL_PLAIN)

static const kernel kernels[] = {
#define ENTRY_AFFINE(name, input, output, fill, varies, lo, hi)                                                        \
    {#name, QN_INDEX_##name, call_##name, fill, sizeof(input), sizeof(output), 1, 1, varies, lo, hi},
#define ENTRY_PLAIN(name, input, output, fill, in_per, out_per)                                                        \
    {#name, QN_INDEX_##name, call_##name, fill, sizeof(input), sizeof(output), in_per, out_per, PLAIN, 0, 0},
    AFFINE_KERNELS(ENTRY_AFFINE) PLAIN_KERNELS(ENTRY_PLAIN)};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* ---- comparing -------------------------------------------------------------------------------------------------- */

static long passed, failed;
static bool covered[QN_KERNEL_COUNT];

static void count(bool good, const char *row, const char *kernel, const char *what, int64_t n, const qn_affine *p) {
    if (good) {
        passed++;
        return;
    }
    if (failed++ >= SHOWN) return;
    printf("FAIL %s %s: %s, n=%lld", row, kernel, what, (long long)n);
    if (p)
        printf(", run=%lld phase=%lld codes=[%d, %d] convention=%d method=%d exact_inverse=%d stream=%d",
               (long long)p->run, (long long)p->phase, p->qmin, p->qmax, (int)p->convention, (int)p->method,
               p->exact_inverse, p->stream);
    printf("\n");
}

/* An output of `bytes` bytes, `shift` bytes past a 64-byte boundary, guards on both sides. */
typedef struct {
    unsigned char *block, *data;
    size_t bytes, total;
} guarded;

static guarded guarded_make(size_t bytes, size_t shift) {
    guarded g = {.bytes = bytes};
    g.total = (shift + bytes + 2 * GUARD + 63) / 64 * 64;
    g.block = aligned_alloc(64, g.total);
    if (!g.block) abort();
    memset(g.block, GUARD_BYTE, g.total);
    g.data = g.block + GUARD + shift;
    return g;
}
static bool guarded_whole(const guarded *g) {
    for (unsigned char *b = g->block; b < g->block + g->total; b++)
        if ((b < g->data || b >= g->data + g->bytes) && *b != GUARD_BYTE) return false;
    return true;
}

/* One call of the scalar row and one of `row` on the same input. */
static void compare(const char *row_name, const qn_table *row, const kernel *k, int64_t n, parameters *s,
                    size_t shift) {
    size_t in_bytes = (size_t)((n + k->in_per - 1) / k->in_per) * k->in_size;
    size_t out_bytes = (size_t)((n + k->out_per - 1) / k->out_per) * k->out_size;
    void *in = array(in_bytes, 1), *before = array(in_bytes, 1);
    guarded expected = guarded_make(out_bytes, 0), got = guarded_make(out_bytes, shift * k->out_size);
    const qn_affine *p = s ? &s->p : NULL;
    k->fill(in, k->in_per == 1 ? n : (n + k->in_per - 1) / k->in_per, s);
    memcpy(before, in, in_bytes);
    k->call(&qn_row_scalar, in, expected.data, n, p);
    k->call(row, in, got.data, n, p);
    bool same = memcmp(expected.data, got.data, out_bytes) == 0;
    count(same, row_name, k->name, "differs from the scalar row", n, p);
    if (!same && failed <= SHOWN)
        for (size_t i = 0; i < out_bytes; i++)
            if (expected.data[i] != got.data[i]) {
                printf("     first at item %zu\n", i / k->out_size);
                break;
            }
    count(guarded_whole(&expected), "scalar", k->name, "wrote outside its output", n, p);
    count(guarded_whole(&got), row_name, k->name, "wrote outside its output", n, p);
    count(memcmp(in, before, in_bytes) == 0, row_name, k->name, "changed its input", n, p);
    free(in), free(before), free(expected.block), free(got.block);
}

static const int32_t code_ranges[][2] = {{-128, 127}, {0, 255}, {-127, 127}, {1, 255},       {-8, 7},
                                         {0, 15},     {-2, 1},  {0, 3},      {-32768, 32767}};

static void test_affine(const char *row_name, const qn_table *row, const kernel *k) {
    bool quantizes = k->varies == CONVENTIONS;
    int modes = quantizes ? QN_CONVENTION_COUNT : k->varies == METHODS ? 2 : 1;
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
                    else s.p.method = k->varies == METHODS ? (mode ? QN_FIXED_DOUBLE : QN_FIXED) : QN_FLOAT;
                    compare(row_name, row, k, n, &s, random_bits() % 17);
                    parameters_free(&s);
                }
}

/* A rectangle of `row` beside the scalar row called line by line; what lies between the lines stays as it was. */
static void compare_rectangle(const char *row_name, const qn_table *row, const kernel *k, int64_t n, parameters *s,
                              size_t shift) {
    const int64_t rows = s->p.rows, stride = s->p.stride, total = (rows - 1) * stride + n;
    char *in = array((size_t)total, k->in_size);
    guarded expected = guarded_make((size_t)total * k->out_size, shift * k->out_size);
    guarded got = guarded_make((size_t)total * k->out_size, shift * k->out_size);
    for (int64_t r = 0; r < rows; r++) {
        char *line = in + (size_t)(r * stride) * k->in_size;
        k->fill(line, r < rows - 1 ? stride : n, NULL);
        k->fill(line, n, s);
    }
    qn_affine line = s->p;
    line.rows = 1;
    for (int64_t r = 0; r < rows; r++)
        k->call(&qn_row_scalar, in + (size_t)(r * stride) * k->in_size,
                expected.data + (size_t)(r * stride) * k->out_size, n, &line);
    k->call(row, in, got.data, n, &s->p);
    count(memcmp(expected.block, got.block, got.total) == 0, row_name, k->name, "a rectangle differs", n, &s->p);
    free(in), free(expected.block), free(got.block);
}

static void test_rectangles(const char *row_name, const qn_table *row, const kernel *k) {
    static const int one_row[] = {QN_INDEX_quantize_f64_i32, QN_INDEX_requantize_fixed_i32, QN_INDEX_divide_f32,
                                  QN_INDEX_divide_f64, QN_INDEX_multiply_f32};
    for (size_t i = 0; i < sizeof one_row / sizeof *one_row; i++)
        if (k->index == one_row[i]) return;
    for (int again = 0; again < 300; again++) {
        int64_t n = again < SMALL ? again : random_int(SMALL, 300);
        parameters s = parameters_make(n, 1, k->qmin, k->qmax, false);
        s.p.rows = random_int(1, 40);
        s.p.stream = again % 2;
        s.p.stride = n + random_int(0, 70);
        if (s.p.stream) s.p.stride = (s.p.stride + 63) / 64 * 64;
        if (k->varies == CONVENTIONS) s.p.convention = (qn_convention)random_int(0, QN_CONVENTION_COUNT - 1);
        compare_rectangle(row_name, row, k, n, &s, random_bits() % 17);
        parameters_free(&s);
    }
}

static void test_plain(const char *row_name, const qn_table *row, const kernel *k) {
    for (int size = 0; size < SIZES; size++)
        for (size_t shift = 0; shift < 8; shift++) compare(row_name, row, k, size_at(size), NULL, shift);
}

/* ---- floats -------------------------------------------------------------------------------------------------------- */

/* Values about the numbers of every format and their ties: few exponents, few mantissa bits, and some ulps. */
static float float_near_a_tie(void) {
    uint32_t exponent = (uint32_t)random_int(0, 255), mantissa = (uint32_t)random_bits() & 0x7FFFFF;
    mantissa &= 0xFFFFFFFF << random_int(8, 23);
    return float_of(((uint32_t)random_bits() & 0x80000000) + (exponent << 23) + mantissa + (uint32_t)random_int(-2, 2));
}

/* One call of both rows with the same options; `in` and the output are copies between guards as in compare(). */
#define TEST_CAST(name, input, output, ...)                                                                            \
    static void cast_##name(const char *row_name, const qn_table *row, const input *from, int64_t n,                   \
                            const qn_cast *p) {                                                                        \
        if (!row->name) return;                                                                                        \
        size_t bytes = (size_t)n * sizeof(output);                                                                     \
        input *in = array((size_t)n, sizeof *in);                                                                      \
        guarded expected = guarded_make(bytes, 0), got = guarded_make(bytes, random_bits() % 17 * sizeof(output));     \
        memcpy(in, from, (size_t)n * sizeof *in);                                                                      \
        (void)p;                                                                                                       \
        qn_row_scalar.name(in, (output *)expected.data, n __VA_ARGS__);                                                \
        row->name(in, (output *)got.data, n __VA_ARGS__);                                                              \
        count(!memcmp(expected.data, got.data, bytes), row_name, #name, "differs from the scalar row", n, NULL);       \
        count(guarded_whole(&expected) && guarded_whole(&got), row_name, #name, "wrote outside its output", n, NULL);  \
        count(!memcmp(in, from, (size_t)n * sizeof *in), row_name, #name, "changed its input", n, NULL);               \
        free(in), free(expected.block), free(got.block);                                                               \
    }
#define TEST_FORMAT(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                          \
    TEST_CAST(widen_##tag##_f32, uint##bits##_t, float, , p)                                                           \
    TEST_CAST(narrow_f32_##tag, float, uint##bits##_t, , p)
QN_NARROW_FLOATS(TEST_FORMAT, _)
TEST_CAST(narrow_f64_f32, double, float, , p)
TEST_CAST(odd_f64_f32, double, float)
TEST_CAST(widen_f32_f64, float, double, , p)
TEST_CAST(copy_f32_f32, float, float, , p)
TEST_CAST(copy_f64_f64, double, double, , p)

enum { ALL = 1 << 16 };

/* All codes of a format, there and back: a number returns as it went. */
#define TEST_ALL_CODES(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                       \
    {                                                                                                                  \
        const qn_cast plain = {0};                                                                                     \
        const int width = (kind != QN_SCALE) + exponent + mantissa;                                                    \
        for (int i = 0; i < ALL; i++) code##bits[i] = (uint##bits##_t)i;                                               \
        cast_widen_##tag##_f32(row_name, row, code##bits, ALL, &plain);                                                \
        qn_row_scalar.widen_##tag##_f32(code##bits, wide, ALL, &plain);                                                \
        cast_narrow_f32_##tag(row_name, row, wide, ALL, &plain);                                                       \
        qn_row_scalar.narrow_f32_##tag(wide, back##bits, ALL, &plain);                                                 \
        for (int i = 0; i < 1 << width; i++)                                                                           \
            if (wide[i] == wide[i]) count(back##bits[i] == i, "scalar", #tag, "lost a number", i, NULL);               \
        covered[QN_INDEX_widen_##tag##_f32] = covered[QN_INDEX_narrow_f32_##tag] = true;                               \
    }

static void test_all_codes(const char *row_name, const qn_table *row) {
    uint16_t *code16 = array(ALL, 2), *back16 = array(ALL, 2);
    uint8_t *code8 = array(ALL, 1), *back8 = array(ALL, 1);
    float *wide = array(ALL, sizeof *wide);
    QN_NARROW_FLOATS(TEST_ALL_CODES, _)
    free(code16), free(back16), free(code8), free(back8), free(wide);
}

#define CAST_FORMAT(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                          \
    cast_widen_##tag##_f32(row_name, row, codes, n, &p);                                                               \
    cast_narrow_f32_##tag(row_name, row, x, n, &p);

static void test_casts(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++)
        for (int mode = 0; mode < 8; mode++) {
            int64_t n = size_at(size);
            qn_cast p = {.saturate = mode & 1, .stochastic = mode & 2, .stream = mode & 4};
            p.seed = random_bits(), p.index = random_int(0, 999);
            float *x = array((size_t)n, sizeof *x);
            double *y = array((size_t)n, sizeof *y);
            void *codes = array((size_t)n, sizeof(uint16_t));
            fill_f32(x, n, NULL), fill_f64(y, n, NULL), fill_16(codes, n, NULL);
            for (int64_t i = 0; i < n; i++) {
                if (random_bits() % 4) x[i] = float_near_a_tie();
                if (random_bits() % 4) y[i] = (double)x[i] * (1 + random_int(-1, 1) * 0x1p-52);
            }
            QN_NARROW_FLOATS(CAST_FORMAT, _)
            cast_narrow_f64_f32(row_name, row, y, n, &p), cast_odd_f64_f32(row_name, row, y, n, &p);
            cast_widen_f32_f64(row_name, row, x, n, &p);
            cast_copy_f32_f32(row_name, row, x, n, &p), cast_copy_f64_f64(row_name, row, y, n, &p);
            free(x), free(y), free(codes);
        }
    covered[QN_INDEX_narrow_f64_f32] = covered[QN_INDEX_odd_f64_f32] = covered[QN_INDEX_widen_f32_f64] = true;
    covered[QN_INDEX_copy_f32_f32] = covered[QN_INDEX_copy_f64_f64] = true;
}

/* Ranges compare by value, and by the sign of a zero. */
static bool same_ranges(const qn_range *a, const qn_range *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i].min, &b[i].min, 8) || memcmp(&a[i].max, &b[i].max, 8) || a[i].nan != b[i].nan ||
            a[i].infinite != b[i].infinite)
            return false;
    return true;
}

static qn_range random_range(void) { /* empty, or one that has seen something */
    if (random_bits() % 2) return (qn_range){INFINITY, -INFINITY, 0, 0};
    return (qn_range){-random_unit(), random_unit(), (int64_t)(random_bits() % 9), (int64_t)(random_bits() % 9)};
}

#define TEST_REDUCTION(tag, type, fill)                                                                                \
    static void test_min_max_##tag(const char *row_name, const qn_table *row, bool finite) {                           \
        const char *name = "min_max_" #tag, *columns = "min_max_columns_" #tag;                                        \
        for (int size = 0; size < SIZES; size++)                                                                       \
            for (int again = 0; again < 8; again++) {                                                                  \
                int64_t n = size_at(size), rows = again * again + (again == 7) * 80, stride = n + random_int(0, 3);    \
                if (n > SMALL && again > 3) continue;                                                                  \
                int64_t total = rows ? (rows - 1) * stride + n : 0;                                                    \
                if (total < n) total = n;                                                                              \
                type *x = array((size_t)total, sizeof *x);                                                             \
                fill(x, total, NULL);                                                                                  \
                for (int64_t i = 0; finite && i < total; i++)                                                          \
                    if (!isfinite(x[i])) x[i] = 0;                                                                     \
                if (row->min_max_##tag) {                                                                              \
                    qn_range a = random_range(), b = a;                                                                \
                    qn_row_scalar.min_max_##tag(x, n, &a);                                                             \
                    row->min_max_##tag(x, n, &b);                                                                      \
                    count(same_ranges(&a, &b, 1), row_name, name, "differs from the scalar row", n, NULL);             \
                }                                                                                                      \
                if (row->min_max_columns_##tag) {                                                                      \
                    size_t bytes = (size_t)n * sizeof(qn_range);                                                       \
                    qn_range *a = array(bytes, 1);                                                                     \
                    guarded g = guarded_make(bytes, 0);                                                                \
                    for (int64_t i = 0; i < n; i++) a[i] = random_range();                                             \
                    memcpy(g.data, a, bytes);                                                                          \
                    qn_row_scalar.min_max_columns_##tag(x, rows, stride, n, a);                                        \
                    row->min_max_columns_##tag(x, rows, stride, n, (qn_range *)g.data);                                \
                    bool same = same_ranges(a, (qn_range *)g.data, n);                                                 \
                    count(same, row_name, columns, "differs from the scalar row", n, NULL);                            \
                    count(guarded_whole(&g), row_name, columns, "wrote outside its output", n, NULL);                  \
                    free(a), free(g.block);                                                                            \
                }                                                                                                      \
                free(x);                                                                                               \
            }                                                                                                          \
        covered[QN_INDEX_min_max_##tag] = covered[QN_INDEX_min_max_columns_##tag] = true;                              \
    }
REDUCTIONS(TEST_REDUCTION)

static int by_value(const void *a, const void *b) { return *(const int16_t *)a - *(const int16_t *)b; }

static void test_sort(const char *row_name, const qn_table *row) {
    covered[QN_INDEX_sort_columns_i16] = true;
    if (!row->sort_columns_i16) return;
    for (int64_t n = 0; n <= 256; n += n < 70 ? 1 : 31) {
        size_t bytes = (size_t)n * QN_COLUMNS * sizeof(int16_t);
        guarded g = guarded_make(bytes, 0);
        int16_t *keys = (int16_t *)g.data, *want = array(bytes, 1), *columns = array(bytes, 1);
        for (int64_t i = 0; i < n * QN_COLUMNS; i++) keys[i] = (int16_t)(random_bits() % (i % 3 ? 65536 : 5));
        for (int64_t i = 0; i < n * QN_COLUMNS; i++) columns[i % QN_COLUMNS * n + i / QN_COLUMNS] = keys[i];
        for (int64_t c = 0; c < QN_COLUMNS; c++) qsort(columns + c * n, (size_t)n, sizeof *keys, by_value);
        for (int64_t i = 0; i < n * QN_COLUMNS; i++) want[i] = columns[i % QN_COLUMNS * n + i / QN_COLUMNS];
        row->sort_columns_i16(keys, n);
        count(!memcmp(keys, want, bytes), row_name, "sort_columns_i16", "differs from qsort", n, NULL);
        count(guarded_whole(&g), row_name, "sort_columns_i16", "wrote outside its output", n, NULL);
        free(want), free(columns), free(g.block);
    }
}

static void test_metrics(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++) {
        int64_t n = size_at(size);
        float *x = array((size_t)n, sizeof *x), *y = array((size_t)n, sizeof *y);
        uint8_t *codes = array((size_t)n, 1);
        for (int64_t i = 0; i < n; i++) x[i] = (float)(random_unit() - 0.5), y[i] = x[i] * 1.01f;
        fill_8(codes, n, NULL);
        if (row->error_sums_f32) {
            qn_error a = {1, 2, 3, 4, 0.001}, b = a;
            qn_row_scalar.error_sums_f32(x, y, n, &a);
            row->error_sums_f32(x, y, n, &b);
            count(!memcmp(&a, &b, sizeof a), row_name, "error_sums_f32", "differs from the scalar row", n, NULL);
        }
        if (row->codes_seen_8) {
            uint8_t a[256] = {[3] = 1};
            guarded g = guarded_make(sizeof a, 0);
            memcpy(g.data, a, sizeof a);
            for (int64_t i = 0; i < n; i++) a[codes[i]] = 1;
            row->codes_seen_8(codes, n, g.data);
            count(!memcmp(a, g.data, sizeof a), row_name, "codes_seen_8", "differs from a plain loop", n, NULL);
            count(guarded_whole(&g), row_name, "codes_seen_8", "wrote outside its output", n, NULL);
            free(g.block);
        }
        free(x), free(y), free(codes);
    }
    covered[QN_INDEX_error_sums_f32] = covered[QN_INDEX_codes_seen_8] = true;
}

/* A float32 whose sums with others are often ties, subnormal or too large for the type. */
static float hard(void) {
    uint64_t bits = random_bits();
    if (bits % 8 == 0) return edge();
    float x = float_of((uint32_t)(bits >> 8) << 9 | ((uint32_t)random_int(100, 145) << 23 & 0x7F800000));
    return bits >> 60 == 0 ? x * 0x1p-20f : x;
}

#define TEST_MULTIPLY_ADD(tag)                                                                                         \
    if (row->multiply_add_##tag)                                                                                       \
        for (int size = 0; size < SIZES; size++)                                                                       \
            for (int again = 0; again < 8; again++) {                                                                  \
                int64_t n = size_at(size);                                                                             \
                size_t bytes = (size_t)n * sizeof(float);                                                              \
                float a = hard(), *w = array((size_t)n, sizeof *w), *y = array((size_t)n, sizeof *y);                  \
                guarded g = guarded_make(bytes, (size_t)again * sizeof(float));                                        \
                for (int64_t i = 0; i < n; i++) w[i] = hard(), y[i] = hard();                                          \
                memcpy(g.data, y, bytes);                                                                              \
                qn_row_scalar.multiply_add_##tag(a, w, y, n);                                                          \
                row->multiply_add_##tag(a, w, (float *)g.data, n);                                                     \
                bool same = memcmp(y, g.data, bytes) == 0;                                                             \
                count(same, row_name, "multiply_add_" #tag, "differs from the scalar row", n, NULL);                   \
                count(guarded_whole(&g), row_name, "multiply_add_" #tag, "wrote outside its output", n, NULL);         \
                free(w), free(y), free(g.block);                                                                       \
            }                                                                                                          \
    covered[QN_INDEX_multiply_add_##tag] = true;

static void test_multiply_add(const char *row_name, const qn_table *row) {
    TEST_MULTIPLY_ADD(f16)
    TEST_MULTIPLY_ADD(bf16)
    TEST_MULTIPLY_ADD(f32)
}

static void test_blocks(const char *row_name, const qn_table *row) {
    for (int size = 0; row->block_max_f32 && size < SIZES; size++)
        for (int again = 0; again < 8; again++) {
            int64_t n = size_at(size), block = (int64_t[]){1, 2, 7, 16, 32, 33, 64, 5000}[again];
            int64_t blocks = (n + block - 1) / block;
            float *x = array((size_t)n, sizeof *x), *most = array((size_t)blocks, sizeof *most);
            guarded g = guarded_make((size_t)blocks * sizeof *most, (size_t)again * sizeof(float));
            fill_f32(x, n, NULL);
            qn_row_scalar.block_max_f32(x, most, n, block);
            row->block_max_f32(x, (float *)g.data, n, block);
            bool same = memcmp(most, g.data, (size_t)blocks * sizeof *most) == 0;
            count(same, row_name, "block_max_f32", "differs from the scalar row", n, NULL);
            count(guarded_whole(&g), row_name, "block_max_f32", "wrote outside its output", n, NULL);
            free(x), free(most), free(g.block);
        }
    covered[QN_INDEX_block_max_f32] = true;
}

/* y as some float16 of x would be, and now and then anything at all. */
#define TEST_FLOAT_ERROR(tag, type, fill)                                                                              \
    if (row->float_error_##tag)                                                                                        \
        for (int size = 0; size < SIZES; size++)                                                                       \
            for (int again = 0; again < 4; again++) {                                                                  \
                int64_t n = size_at(size) * (again ? 1 : 5);                                                           \
                type *x = array((size_t)n, sizeof *x);                                                                 \
                float *y = array((size_t)n, sizeof *y);                                                                \
                const qn_float_limits limits = {65520, 65520, 0x1p-14f};                                               \
                fill(x, n, NULL);                                                                                      \
                for (int64_t i = 0; i < n; i++)                                                                        \
                    y[i] = fabs((double)x[i]) < 1e30 ? (float)x[i] * 1.001f : random_bits() % 2 ? INFINITY : NAN;      \
                qn_float_error a = {.least = 3, .peak = 2, .nan = 1}, b = a;                                           \
                qn_row_scalar.float_error_##tag(x, y, n, &limits, &a);                                                 \
                row->float_error_##tag(x, y, n, &limits, &b);                                                          \
                bool same = memcmp(&a, &b, sizeof a) == 0;                                                             \
                count(same, row_name, "float_error_" #tag, "differs from the scalar row", n, NULL);                    \
                free(x), free(y);                                                                                      \
            }                                                                                                          \
    covered[QN_INDEX_float_error_##tag] = true;

static void test_float_error(const char *row_name, const qn_table *row) {
    TEST_FLOAT_ERROR(f32, float, fill_f32)
    TEST_FLOAT_ERROR(f64, double, fill_f64)
}

/* Lines are compared with what lies between them; only the QN_REACH after the last one of a plane is free. */
static void test_widen_image_rows(const char *row_name, const qn_table *row) {
    covered[QN_INDEX_widen_image_rows] = true;
    if (!row->widen_image_rows) return;
    for (int n = 1; n < SMALL; n++)
        for (int again = 0; again < 12; again++) {
            qn_wide_rows p = {.is_signed = again & 1, .x_step = random_int(1, 3), .height = random_int(1, 5), .n = n};
            int64_t codes = (n - 1) * p.x_step + 1, bytes;
            p.x_row = codes + random_int(0, 3), p.x_plane = p.height * p.x_row, p.planes = random_int(1, 3);
            p.row = random_int(-3, 6), p.gap = random_int(1, 3), p.lines = random_int(1, 6);
            p.line = n + random_int(0, 3), p.plane = p.lines * p.line + QN_REACH + random_int(0, 3);
            p.zero_point = random_int(-128, 255), bytes = p.planes * p.x_plane - p.x_row + codes;
            p.room = again & 2 ? bytes : 0;
            uint8_t *x = array((size_t)bytes, 1);
            fill_any(x, (size_t)bytes);
            p.x = x;
            size_t size = (size_t)(p.planes * p.plane) * sizeof(int16_t);
            guarded expected = guarded_make(size, 0), got = guarded_make(size, (size_t)(again % 5) * 2);
            p.to = (int16_t *)(void *)expected.data, qn_row_scalar.widen_image_rows(&p);
            p.to = (int16_t *)(void *)got.data, row->widen_image_rows(&p);
            bool same = true;
            for (int64_t m = 0; m < p.planes; m++) {
                size_t at = (size_t)(m * p.plane) * sizeof(int16_t), line = (size_t)(p.lines * p.line);
                same = same && !memcmp(expected.data + at, got.data + at, line * sizeof(int16_t));
            }
            count(same, row_name, "widen_image_rows", "differs from the scalar row", n, NULL);
            count(guarded_whole(&got), row_name, "widen_image_rows", "wrote outside its output", n, NULL);
            free(x), free(expected.block), free(got.block);
        }
}

/* Random words, ends among them. By step 1 three neighbouring weights make two taps: a b, 0 a and c 0, b c. */
static void test_dot_rows(const char *row_name, const qn_table *row) {
    enum { RUNS = 4, INPUTS = 3, OUTPUTS = 2 };
    covered[QN_INDEX_dot_rows] = true;
    if (!row->dot_rows) return;
    for (int n = 1; n < SMALL; n++)
        for (int again = 0; again < 12; again++) {
            static const qn_type types[] = {QN_I32, QN_I8, QN_U8};
            const int64_t gap = again % 4 ? random_int(-(n / 2), 3) : random_int(0, 80),
                          reach = 2 * QN_RESULTS + QN_REACH;
            qn_dot_rows d = {.type = types[again % 3], .step = again & 1 ? 2 : 1, .rows = again % 5 + 1, .n = n};
            d.line = (n + gap) * d.step, d.inputs = random_int(1, INPUTS), d.outputs = random_int(1, OUTPUTS);
            d.x_step = (d.rows + 2) * d.line + n * d.step, d.taps = 2 * random_int(0, RUNS),
            d.y_step = d.rows * n + random_int(0, 2);
            int64_t outputs = d.inputs * d.outputs, elements = d.inputs * d.x_step + reach, tap[2 * RUNS];
            int16_t *x = array((size_t)elements, sizeof *x), w[INPUTS * OUTPUTS][2 * RUNS][4] = {0};
            int32_t start[INPUTS * OUTPUTS];
            float scale[INPUTS * OUTPUTS];
            fill_any(x, (size_t)elements * sizeof *x), fill_any(start, sizeof start);
            x[0] = x[1] = INT16_MIN;
            for (int t = 0; t < d.taps; t += 2)
                tap[t] = random_int(0, (int32_t)d.line), tap[t + 1] = tap[t] + (d.step == 1 ? 2 : random_int(0, 9));
            for (int m = 0; m < outputs; m++) {
                scale[m] = (float)random_unit() * (m ? 1e-6f : 1e6f);
                for (int64_t t = 0; t < d.taps; t += 2) {
                    int16_t *to = w[0][0] + (m * d.taps + t) * 4, run[3];
                    fill_any(run, sizeof run);
                    if (!t) run[0] = run[1] = INT16_MIN;
                    memcpy(to, run, 4), memcpy(to + 6, run + 1, 4), to[3] = run[0], to[4] = run[2];
                }
            }
            d.x = x, d.w = w[0][0], d.tap = tap, d.start = again % 2 ? start : NULL, d.scale = scale;
            d.zero_point = random_int(-128, 255), d.qmin = d.type == QN_I8 ? -128 : again % 4, d.qmax = again + 100;
            size_t size = d.type == QN_I32 ? sizeof(int32_t) : 1;
            size_t bytes = (size_t)((outputs - 1) * d.y_step + d.rows * n) * size;
            guarded expected = guarded_make(bytes, 0), got = guarded_make(bytes, (size_t)(again % 5) * 4);
            guarded flat = guarded_make((size_t)((d.rows - 1) * d.line / d.step + n + QN_RESULTS) * size, 0);
            memset(expected.data, 0, bytes), memset(got.data, 0, bytes), d.flat = flat.data;
            d.y = expected.data, qn_row_scalar.dot_rows(&d);
            d.y = got.data, row->dot_rows(&d);
            count(!memcmp(expected.data, got.data, bytes), row_name, "dot_rows", "differs from the scalar row", n,
                  NULL);
            count(guarded_whole(&got), row_name, "dot_rows", "wrote outside its output", n, NULL);
            count(guarded_whole(&flat), row_name, "dot_rows", "wrote outside its scratch", n, NULL);
            free(x), free(expected.block), free(got.block), free(flat.block);
        }
}

/* Any bytes are nibbles; the first record and row are all at the ends, where int16 sums come nearest to overflow. */
static void test_matmul4(const char *row_name, const qn_table *row) {
    enum { GROUPS = 3 };
    static const int64_t depths[] = {16, 32, 64, 128};
    covered[QN_INDEX_matmul4_panels] = true;
    if (!row->matmul4_panels) return;
    for (int variant = 0; variant < 32; variant++)
        for (int64_t rows = 0; rows < 20; rows++) {
            qn_weight4 w = {.group = depths[variant % 4], .groups = GROUPS, .half = variant & 4, .zeros = variant & 8};
            w.record = w.group * 8 + (w.half ? 32 : 64) + (w.zeros ? 16 : 0);
            const int64_t panels = random_int(1, 6), stride = GROUPS * w.group, width = GROUPS * w.record;
            size_t bytes = (size_t)(panels * rows) * 16 * sizeof(float), each = (size_t)(rows * GROUPS);
            uint8_t *panel = array((size_t)(panels * width), 1), *codes = array((size_t)(rows * stride), 1);
            float *scales = array(each, sizeof *scales);
            int32_t *sums = array(each, sizeof *sums), *zeros = array(each, sizeof *zeros);
            fill_any(panel, (size_t)(panels * width)), fill_any(codes, (size_t)(rows * stride));
            memset(panel, 0xFF, (size_t)w.group * 8);
            if (rows) memset(codes, 0x80, (size_t)stride);
            for (int64_t g = 0; g < panels * GROUPS; g++) {
                uint8_t *to = panel + g * w.record + w.group * 8;
                for (int c = 0; c < 16; c++) {
                    float scale = random_scale(true);
                    uint16_t half = (uint16_t)random_int(0x400, 0x7BFF); /* positive and normal */
                    if (w.half) memcpy(to + 2 * c, &half, 2);
                    else memcpy(to + 4 * c, &scale, 4);
                    if (w.zeros) to[(w.half ? 32 : 64) + c] &= 15;
                }
            }
            /* One zero point and scale for a row, or one for each of its groups. */
            const int64_t step = rows % 2;
            for (int64_t i = 0; i < rows * GROUPS; i++)
                scales[i] = random_scale(true), zeros[i] = i ? random_int(-127, 128) : -127;
            qn_rows4 x = {(int8_t *)codes, scales, variant & 16 ? zeros : NULL, sums, rows, stride, GROUPS, 1, step};
            if (step) x.scale_row = GROUPS;
            for (int64_t i = 0; i < rows * GROUPS; i++) {
                int32_t minus_zero = x.minus_zeros ? zeros[i / GROUPS * x.scale_row + i % GROUPS * step] : 0;
                sums[i] = -(int32_t)w.group * minus_zero;
                for (int64_t k = 0; k < w.group; k++) sums[i] -= (int8_t)codes[i * w.group + k];
            }
            guarded expected = guarded_make(bytes, 0), got = guarded_make(bytes, (size_t)(rows % 5) * 4);
            memset(expected.data, 0, bytes), memset(got.data, 0, bytes);
            qn_row_scalar.matmul4_panels(&w, panel, panels, &x, 0, GROUPS, (float *)expected.data);
            row->matmul4_panels(&w, panel, panels, &x, 0, 2, (float *)got.data); /* in two parts */
            row->matmul4_panels(&w, panel, panels, &x, 2, GROUPS, (float *)got.data);
            bool same = !memcmp(expected.data, got.data, bytes);
            count(same, row_name, "matmul4_panels", "differs from the scalar row", rows, NULL);
            count(guarded_whole(&got), row_name, "matmul4_panels", "wrote outside its output", rows, NULL);
            free(panel), free(codes), free(scales), free(sums), free(zeros), free(expected.block), free(got.block);
        }
}

/* Full range, and both ends often: they are what saturates. */
static void fill_extreme(uint8_t *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        static const uint8_t ends[] = {0, 255, 127, 128};
        x[i] = random_bits() % 3 ? (uint8_t)random_bits() : ends[random_bits() % 4];
    }
}

static void test_saturation(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++)
        for (int64_t k = 0; k < 9; k++) {
            int64_t n = size_at(size), stride = n + random_int(0, 3), total = k ? (k - 1) * stride + n : 0;
            size_t bytes = 3 * (size_t)n * sizeof(int32_t);
            uint8_t *a = array((size_t)k, 1), *b = array((size_t)total, 1);
            fill_extreme(a, k), fill_extreme(b, total);
            guarded expected = guarded_make(bytes, 0), got = guarded_make(bytes, 0);
            memset(expected.data, 1, bytes), memset(got.data, 1, bytes);
            int32_t *e = (int32_t *)expected.data, *g = (int32_t *)got.data;
            if (row->saturate_pairs_u8s8) {
                qn_row_scalar.saturate_pairs_u8s8(a, (int8_t *)b, k, stride, n, e, e + n, e + 2 * n);
                row->saturate_pairs_u8s8(a, (int8_t *)b, k, stride, n, g, g + n, g + 2 * n);
                count(!memcmp(e, g, bytes), row_name, "saturate_pairs_u8s8", "differs from the scalar row", n, NULL);
            }
            if (row->unsafe_pairs_i8) {
                qn_row_scalar.unsafe_pairs_i8((int8_t *)b, k, stride, n, e);
                row->unsafe_pairs_i8((int8_t *)b, k, stride, n, g);
                count(!memcmp(e, g, bytes), row_name, "unsafe_pairs_i8", "differs from the scalar row", n, NULL);
            }
            count(guarded_whole(&got), row_name, "saturate_pairs_u8s8", "wrote outside its output", n, NULL);
            free(a), free(b), free(expected.block), free(got.block);
        }
    covered[QN_INDEX_saturate_pairs_u8s8] = covered[QN_INDEX_unsafe_pairs_i8] = true;
}

/* Counters against a plain loop over the bits. Which way counts an element is free; the sum over the ways is not. */
static void test_counts(const char *row_name, const qn_table *row) {
    enum { SHIFT = 20, BINS = 1 << (32 - SHIFT), TABLE = BINS + 3, COLUMNS = 37 };
    for (int size = 0; size < SIZES; size++) {
        int64_t n = size_at(size), rows = n / COLUMNS;
        float *x = array((size_t)n, sizeof *x);
        fill_f32(x, n, NULL);
        for (int ways = 1; ways <= 4 && row->count_f32; ways += 3) {
            uint32_t *expected = calloc(BINS, sizeof *expected);
            size_t bytes = BINS * (size_t)ways * sizeof *expected;
            guarded g = guarded_make(bytes, 0);
            memset(g.data, 0, bytes);
            for (int64_t i = 0; i < n; i++) {
                uint32_t bits;
                memcpy(&bits, x + i, sizeof bits);
                expected[bits >> SHIFT]++;
            }
            row->count_f32(x, n, SHIFT, ways, (uint32_t *)g.data);
            bool same = true;
            for (int k = 0; k < BINS; k++)
                for (int way = 0; way < ways; way++) expected[k] -= ((uint32_t *)g.data)[k * ways + way];
            for (int k = 0; k < BINS; k++) same &= expected[k] == 0;
            count(same, row_name, "count_f32", "differs from a plain loop", n, NULL);
            count(guarded_whole(&g), row_name, "count_f32", "wrote outside its output", n, NULL);
            free(expected), free(g.block);
        }
        if (row->count_columns_f32 && n % 5 == 0) {
            size_t bytes = (size_t)COLUMNS * TABLE * sizeof(uint32_t);
            uint32_t *expected = calloc(bytes, 1);
            guarded g = guarded_make(bytes, 0);
            memset(g.data, 0, bytes);
            for (int64_t i = 0; i < rows * COLUMNS; i++) {
                uint32_t bits;
                memcpy(&bits, x + i, sizeof bits);
                expected[i % COLUMNS * TABLE + (bits >> SHIFT)]++;
            }
            row->count_columns_f32(x, rows, COLUMNS, COLUMNS, SHIFT, TABLE, (uint32_t *)g.data);
            count(!memcmp(expected, g.data, bytes), row_name, "count_columns_f32", "differs from a plain loop", n,
                  NULL);
            count(guarded_whole(&g), row_name, "count_columns_f32", "wrote outside its output", n, NULL);
            free(expected), free(g.block);
        }
        free(x);
    }
    covered[QN_INDEX_count_f32] = covered[QN_INDEX_count_columns_f32] = true;
}

static void *line(size_t bytes) { /* 64-byte aligned, whole lines */
    void *p = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!p) abort();
    return p;
}
static void fill_line(void *to, size_t bytes, int32_t lo, int32_t hi) {
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)to)[i] = (uint8_t)random_int(lo, hi);
}

/* Codes of magnitude 60 at most: then no pair and no quad leaves int16. */
static void test_quads_of(const char *row_name, const qn_table *row, int64_t rows, int64_t quartets, uint8_t center) {
    const qn_table *scalar = &qn_row_scalar;
    const int64_t slivers = (rows + 3) / 4 * 4, bands = (rows + QN_BAND - 1) / QN_BAND, step = bands * QN_BAND;
    const int64_t k = quartets * 4 - random_int(0, 7);
    const size_t left = (size_t)(step * quartets * 4), right = (size_t)(quartets / 2 * QN_QUADS);
    const bool is_signed = random_int(0, 1);
    const int32_t least = is_signed ? -(int32_t)center : 0, zero = random_int(-128, 255);
    uint8_t *a = array((size_t)(rows * k), 1), *packed[2], *turned[2], *quads[2], *panel = line((size_t)quartets * 64);
    int32_t *ends[2], *more = line((size_t)step * 64), *c[2], start[QN_PANEL];
    guarded g = guarded_make((size_t)(rows * QN_PANEL) * 4, 0);
    fill_line(a, (size_t)(rows * k), least, least + 2 * center - 1);
    fill_line(panel, (size_t)quartets * 64, center - 60, center + 60);
    for (int i = 0; i < QN_PANEL; i++) start[i] = random_int(-1000, 1000);
    c[0] = array((size_t)(rows * QN_PANEL), 4), c[1] = (int32_t *)(void *)g.data;
    for (int64_t i = 0; i < rows * QN_PANEL; i++) c[0][i] = c[1][i] = random_int(INT32_MIN, INT32_MAX);
    for (int64_t i = 0; i < step * QN_PANEL; i++) more[i] = random_int(-32640, 32640);
    for (int n = 0; n < 2; n++) {
        const qn_table *from = n ? row : scalar;
        packed[n] = line(left), turned[n] = line(left), quads[n] = line(right), ends[n] = array((size_t)slivers, 8);
        memset(packed[n], 0, left);
        qn_left l = {.a = a, .stride = k, .is_signed = is_signed, .zero = &zero, .center = center, .rows = rows};
        l.k = k, l.quartets = quartets, l.packed = packed[n], l.start = ends[n], l.sum = ends[n] + slivers;
        from->left_quads(&l);
        from->left_turned(packed[0], quartets, rows, turned[n], step);
        from->right_quads(panel, quartets, center, center, quads[n]);
        qn_tile t = {.left = packed[0], .right = quads[0], .quartets = quartets, .rows = rows, .panels = 1, .c = c[n]};
        t.c_step = QN_PANEL, t.row_start = ends[0], t.column_start = start;
        t.more = quartets % 4 ? more : NULL, t.add = rows % 2;
        from->multiply_quads(&t);
    }
    count(!memcmp(packed[0], packed[1], left), row_name, "left_quads", "packs other bytes", rows, NULL);
    count(!memcmp(ends[0], ends[1], (size_t)slivers * 8), row_name, "left_quads", "has other sums", rows, NULL);
    count(!memcmp(turned[0], turned[1], left), row_name, "left_turned", "differs from the scalar row", rows, NULL);
    count(!memcmp(quads[0], quads[1], right), row_name, "right_quads", "differs from the scalar row", quartets, NULL);
    bool same = !memcmp(c[0], c[1], (size_t)(rows * QN_PANEL) * 4);
    count(same && guarded_whole(&g), row_name, "multiply_quads", "differs from the scalar row", rows, NULL);
    if (bands <= 3) {
        qn_excess_pair excess[QN_PANEL * 4];
        qn_excess_pass pass = {.first = 0};
        for (int j = 0, n = 0; j < QN_PANEL; j++) {
            pass.column[j] = (uint8_t)((j * 5 + rows) % QN_PANEL), pass.count[j] = (uint8_t)random_int(0, 4);
            for (int i = 0; i < pass.count[j]; i++, n++)
                for (int h = 0; h < 2; h++) {
                    excess[n].k[h] = (uint16_t)random_int(0, (int32_t)quartets * 4 - 1);
                    excess[n].excess[h] = (int8_t)random_int(-31, 31); /* 8 x 31 < 255 */
                    if (i == 3 || (i == 0 && pass.count[j] == 1)) excess[n].excess[h] = (int8_t)(h ? 0 : -6);
                    pass.sum[j] = (int16_t)(pass.sum[j] + excess[n].excess[h]);
                }
        }
        int32_t *sums[2] = {line((size_t)step * 64), line((size_t)step * 64)};
        for (int n = 0; n < 2; n++) {
            memcpy(sums[n], more, (size_t)step * 64);
            qn_excess_tile x = {.turned = turned[0], .step = step, .bands = (int)bands, .center = center};
            x.add = rows % 2, x.pass = &pass, x.pairs = excess, x.sums = sums[n];
            (n ? row : scalar)->add_excess(&x);
        }
        same = !memcmp(sums[0], sums[1], (size_t)step * 64);
        count(same, row_name, "add_excess", "differs from the scalar row", rows, NULL);
        free(sums[0]), free(sums[1]);
    }
    for (int n = 0; n < 2; n++) free(packed[n]), free(turned[n]), free(quads[n]), free(ends[n]);
    free(a), free(panel), free(more), free(c[0]), free(g.block);
}

static void test_quads(const char *row_name, const qn_table *row) {
    static const int indices[] = {QN_INDEX_left_quads, QN_INDEX_left_turned, QN_INDEX_right_quads,
                                  QN_INDEX_multiply_quads, QN_INDEX_add_excess};
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) covered[indices[i]] = true;
    if (!row->multiply_quads) return;
    for (int64_t rows = 1; rows < 100; rows++)
        for (int64_t quartets = 2; quartets <= 42; quartets += 8)
            for (uint8_t center = 64; center >= 64 && center <= 128; center += 64)
                test_quads_of(row_name, row, rows, quartets, center);
}

/* Rows choose how the left matrix is packed, so the kernels of products are tested together: test_matmul.c. */
static void leave_products(void) {
    static const int indices[] = {
        QN_INDEX_matmul_tiling,  QN_INDEX_left_pairs,          QN_INDEX_left_bytes,     QN_INDEX_left_words,
        QN_INDEX_right_bytes,    QN_INDEX_right_turned,        QN_INDEX_right_sums,     QN_INDEX_right_widen,
        QN_INDEX_multiply_pairs, QN_INDEX_multiply_pairs_wide, QN_INDEX_multiply_u8,    QN_INDEX_multiply_u7,
        QN_INDEX_left_parts,     QN_INDEX_multiply_parts,      QN_INDEX_multiply_words, QN_INDEX_sweep,
        QN_INDEX_dots,           QN_INDEX_add_outer,           QN_INDEX_finish_f32,     QN_INDEX_finish_i8,
        QN_INDEX_finish_u8,
    };
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) covered[indices[i]] = true;
}

static void test_row(const char *name, const qn_table *row, bool can_run) {
    if (!can_run) {
        printf("%-8s skipped: this CPU lacks it\n", name);
        return;
    }
    long before = passed + failed;
    void (*own[QN_KERNEL_COUNT])(void);
    memcpy(own, row, sizeof own);
    for (int i = 0; i < KERNELS; i++) {
        covered[kernels[i].index] = true;
        if (!own[kernels[i].index]) continue; /* inherited from the row below */
        if (kernels[i].varies == PLAIN) test_plain(name, row, &kernels[i]);
        else test_affine(name, row, &kernels[i]), test_rectangles(name, row, &kernels[i]);
    }
    test_all_codes(name, row);
    test_casts(name, row);
    test_sort(name, row);
    test_metrics(name, row);
    test_multiply_add(name, row);
    test_blocks(name, row);
    test_float_error(name, row);
    test_saturation(name, row);
    test_matmul4(name, row);
    test_widen_image_rows(name, row);
    test_dot_rows(name, row);
    test_counts(name, row);
    test_quads(name, row);
    leave_products();
#define REDUCE_BOTH(tag, type, fill)                                                                                   \
    test_min_max_##tag(name, row, true);                                                                               \
    test_min_max_##tag(name, row, false);
    REDUCTIONS(REDUCE_BOTH)
    printf("%-8s %ld checks\n", name, passed + failed - before);
}

int main(int argc, char **argv) {
    state = argc > 1 ? strtoull(argv[1], NULL, 0) : 20240229;
    printf("seed %llu%s\n", (unsigned long long)state, QN_EMULATED ? ", avx512 emulated" : "");
    qn_cpu detected = qn_cpu_detect();
    if (QN_EMULATED) detected.avx512 = true;
    const qn_cpu *cpu = &detected;
    (void)cpu;
    /* The scalar row runs against itself too: guards, inputs, and whatever a sanitizer sees. */
#define TEST_ROW(name, target, detector) test_row(#name, &qn_row_##name, detector);
    QN_ISA_LIST(TEST_ROW)
    static const char *const names[] = {
#define NAME(kind, name, arguments, ...) #name,
        QN_KERNEL_LIST(NAME)};
    for (int k = 0; k < QN_KERNEL_COUNT; k++) count(covered[k], "-", names[k], "has no test here", 0, NULL);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
