#include "support.h"

enum {
    GUARD = 64,
    GUARD_BYTE = 0xA5,
    SHOWN = 20, /* failures printed */
};

/* ---- random values ---- */

static uint64_t state;

void random_seed(uint64_t seed) { state = seed; }

uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

int64_t random_i64(int64_t lo, int64_t hi) { return lo + (int64_t)(random_bits() % (uint64_t)(hi - lo + 1)); }
int32_t random_int(int32_t lo, int32_t hi) { return (int32_t)random_i64(lo, hi); }
double random_unit(void) { return (double)(random_bits() >> 11) * 0x1p-53; }

float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float random_edge(void) {
    static const uint32_t edges[] = {
        0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000,
        0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0x3F000000, 0xBF000000, 0x3EFFFFFF,
        0x3F000001, 0x3FC00000, 0x40200000, 0x4F000000, 0xCF000000, 0x4B000000, 0x477FF000, 0x477FEFFF, 0x38800000,
        0x387FFFFF, 0x33000000, 0x33000001, 0x32FFFFFF, 0x7F7F8000, 0x3F808000, 0x3F818000,
    };
    return float_of(edges[random_bits() % (sizeof edges / sizeof *edges)]);
}

float random_scale(bool plain) {
    uint32_t mantissa = (uint32_t)random_bits() & 0x7FFFFF;
    if (random_bits() % 8 == 0) mantissa = random_bits() % 2 ? 0 : 0x7FFFFF;
    int exponent = random_bits() % 2 ? random_int(-10, 2) : plain ? random_int(-90, 89) : random_int(-126, 127);
    return float_of((uint32_t)(exponent + 127) << 23 | mantissa);
}

int64_t size_at(int i) {
    static const int64_t larger[SIZES - SMALL] = {96, 127, 128, 129, 255, 256, 1000, 1023, 1025, 4099};
    return i < SMALL ? i : larger[i - SMALL];
}

/* ---- parameters of a span ---- */

static int64_t param_at(const parameters *s, int64_t i) { return s->p.run ? (s->p.phase + i) / s->p.run : i; }

parameters parameters_make(int64_t n, int run, int32_t qmin, int32_t qmax, bool plain) {
    static const int64_t runs[RUNS][2] = {{1 << 20, 0}, {0, 0}, {1, 0}, {3, 2}, {17, 5}, {64, 63}}; /* run, phase */
    parameters s = {.p = {.run = runs[run][0], .phase = runs[run][1], .rows = 1, .qmin = qmin, .qmax = qmax}};
    size_t count = (size_t)(s.p.run ? (s.p.phase + n) / s.p.run + 1 : n);
    s.scale = array(count, sizeof *s.scale);
    s.zero_point = array(count, sizeof *s.zero_point);
    s.multiplier = array(count, sizeof *s.multiplier);
    s.shift = array(count, sizeof *s.shift);
    bool no_zero = random_bits() % 4 == 0;
    for (size_t k = 0; k < count; k++) {
        s.scale[k] = random_scale(plain);
        s.zero_point[k] =
            no_zero ? 0 : random_int(qmin < INT16_MIN ? INT16_MIN : qmin, qmax > UINT16_MAX ? INT16_MAX : qmax);
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

void parameters_free(parameters *s) { free(s->scale), free(s->zero_point), free(s->multiplier), free(s->shift); }

/* ---- inputs ---- */

/* Values about the numbers of every float format and their ties: few exponents, few mantissa bits, and some ulps. */
static float random_near_tie(void) {
    uint32_t exponent = (uint32_t)random_int(0, 255), mantissa = (uint32_t)random_bits() & 0x7FFFFF;
    mantissa &= 0xFFFFFFFF << random_int(8, 23);
    return float_of(((uint32_t)random_bits() & 0x80000000) + (exponent << 23) + mantissa + (uint32_t)random_int(-2, 2));
}

/* Edges, values in range, and values within some ulps of where two codes meet. */
static double random_real(const parameters *s, int64_t i, int mantissa_bits) {
    double scale = s ? (double)s->scale[param_at(s, i)] : 1.0;
    double code = s ? random_int(s->p.qmin - 2, s->p.qmax + 2) - s->zero_point[param_at(s, i)] : 1.0;
    switch (random_bits() % 4) {
    case 0: return (double)random_edge();
    case 1: return (code + random_unit() - 0.5) * scale;
    default: return (code + 0.5) * scale * (1.0 + random_int(-4, 4) * ldexp(1.0, -mantissa_bits));
    }
}

void fill_float(void *in, int64_t n, const kernel *k, const parameters *s) {
    float *x = in;
    (void)k;
    for (int64_t i = 0; i < n; i++)
        if (!s && random_bits() % 2) x[i] = random_near_tie();
        else x[i] = random_bits() % 8 ? (float)random_real(s, i, 24) : float_of((uint32_t)random_bits());
}

void fill_double(void *in, int64_t n, const kernel *k, const parameters *s) {
    double *x = in;
    (void)k;
    for (int64_t i = 0; i < n; i++)
        if (!s && random_bits() % 2) x[i] = (double)random_near_tie() * (1 + random_int(-1, 1) * 0x1p-52);
        else x[i] = random_bits() % 8 ? random_real(s, i, 53) : double_of(random_bits());
}

void fill_any(void *in, size_t bytes) {
    unsigned char *b = in;
    for (size_t i = 0; i < bytes; i++) b[i] = (unsigned char)random_bits();
}

#define FILL_ANY(type)                                                                                                 \
    void fill_##type(void *in, int64_t n, const kernel *k, const parameters *s) {                                      \
        (void)k, (void)s;                                                                                              \
        fill_any(in, (size_t)n * sizeof(type));                                                                        \
    }
FILL_ANY(int8_t)
FILL_ANY(uint8_t)
FILL_ANY(int16_t)
FILL_ANY(uint16_t)

void fill_int32_t(void *in, int64_t n, const kernel *k, const parameters *s) { /* small sums too, and the ends */
    int32_t *x = in;
    (void)k, (void)s;
    for (int64_t i = 0; i < n; i++) {
        int32_t any = (int32_t)random_bits();
        x[i] = any >> random_int(0, 24);
        if (random_bits() % 16 == 0) x[i] = random_bits() % 2 ? INT32_MIN : INT32_MAX;
    }
}

void fill_range(void *in, int64_t n, const kernel *k, const parameters *s) {
    int32_t *x = in;
    (void)s;
    for (int64_t i = 0; i < n; i++) x[i] = random_int(k->qmin, k->qmax);
}

/* ---- memory ---- */

void *array(size_t count, size_t itemsize) {
    void *p = malloc(count * itemsize + (count == 0));
    if (!p) abort();
    return p;
}

guarded guarded_make(size_t bytes, size_t shift) {
    guarded g = {.bytes = bytes};
    g.total = (shift + bytes + 2 * GUARD + 63) / 64 * 64;
    g.memory = aligned_alloc(64, g.total);
    if (!g.memory) abort();
    memset(g.memory, GUARD_BYTE, g.total);
    g.data = g.memory + GUARD + shift;
    return g;
}

bool guarded_whole(const guarded *g) {
    for (unsigned char *b = g->memory; b < g->memory + g->total; b++)
        if ((b < g->data || b >= g->data + g->bytes) && *b != GUARD_BYTE) return false;
    return true;
}

/* ---- checks ---- */

long passed, failed;
bool silent;

bool count_check(bool good) {
    if (good) passed++;
    else failed++;
    return !good && !silent && failed <= SHOWN;
}

void check(bool good, const char *row, const char *kernel_name, const char *what, int64_t n, const qn_affine *p) {
    if (!count_check(good)) return;
    printf("FAIL %s %s: %s, n=%lld", row, kernel_name, what, (long long)n);
    if (p)
        printf(", run=%lld phase=%lld codes=[%d, %d] convention=%d method=%d exact_inverse=%d stream=%d",
               (long long)p->run, (long long)p->phase, p->qmin, p->qmax, (int)p->convention, (int)p->method,
               p->exact_inverse, p->stream);
    printf("\n");
}

static size_t elements_of(int64_t n, int codes) { return (size_t)((n + codes - 1) / codes); }

void compare_on(const char *row_name, const qn_table *row, const kernel *k, const void *in, int64_t n, const void *p,
                const qn_affine *shown, size_t shift) {
    size_t in_bytes = elements_of(n, k->in_codes) * k->in_size, out_bytes = elements_of(n, k->out_codes) * k->out_size;
    void *copy = array(in_bytes, 1); /* of the exact size, so that a sanitizer sees a read past the end */
    guarded expected = guarded_make(out_bytes, 0), result = guarded_make(out_bytes, shift * k->out_size);
    memcpy(copy, in, in_bytes);
    k->call(&qn_row_scalar, copy, expected.data, n, p);
    k->call(row, copy, result.data, n, p);
    check(!memcmp(expected.data, result.data, out_bytes), row_name, k->name, "differs from the scalar row", n, shown);
    check(guarded_whole(&expected), "scalar", k->name, "wrote outside its output", n, shown);
    check(guarded_whole(&result), row_name, k->name, "wrote outside its output", n, shown);
    check(!memcmp(copy, in, in_bytes), row_name, k->name, "changed its input", n, shown);
    free(copy), free(expected.memory), free(result.memory);
}

void compare(const char *row_name, const qn_table *row, const kernel *k, int64_t n, const void *p, const parameters *s,
             size_t shift) {
    size_t elements = elements_of(n, k->in_codes);
    void *in = array(elements, k->in_size);
    k->fill(in, (int64_t)elements, k, s);
    compare_on(row_name, row, k, in, n, p, s ? &s->p : NULL, shift);
    free(in);
}
