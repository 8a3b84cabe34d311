/* What the C tests share: random values, parameters and inputs of kernels, memory between guards, checks. */
#ifndef QN_SUPPORT_H
#define QN_SUPPORT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qn_kernels.h"

/* The ISA rows of such a build emulate their instructions, so that they run on any CPU. */
#ifdef QN_TEST_EMULATED
#define QN_EMULATED 1
#else
#define QN_EMULATED 0
#endif

/* ---- random values ---- */

void random_seed(uint64_t seed);
uint64_t random_bits(void);
int64_t random_i64(int64_t lo, int64_t hi); /* both ends included */
int32_t random_int(int32_t lo, int32_t hi);
double random_unit(void);       /* [0, 1) */
float random_edge(void);        /* zeros, subnormals, infinities, NaN, bounds of formats */
float random_scale(bool plain); /* positive and normal; plain: 2^-90 <= S <= 2^90 */
float float_of(uint32_t bits);
double double_of(uint64_t bits);

/* ---- sizes ---- */

enum { SMALL = 71, SIZES = SMALL + 10 };

int64_t size_at(int i); /* every size below SMALL, then some larger ones */

/* ---- parameters of a span ---- */

typedef struct {
    float *scale;
    int32_t *zero_point, *multiplier, *shift;
    qn_affine p;
} parameters;

enum { RUNS = 6 }; /* forms of run and phase */

/* plain: scales for which the reciprocal in two parts is exact. */
parameters parameters_make(int64_t n, int run, int32_t qmin, int32_t qmax, bool plain);
void parameters_free(parameters *s);

/* ---- kernels of one input and one output, and how they are tested ---- */

typedef struct kernel kernel;

enum { CONVENTIONS = 1, METHODS = 2, RECTANGLES = 4 }; /* fields that vary besides sizes and values */

struct kernel {
    const char *name;
    int index;
    void (*test)(const char *row_name, const qn_table *row, const kernel *k);
    void (*test_own)(const char *row_name, const qn_table *row); /* in place of test and all below */
    void (*call)(const qn_table *t, const void *in, void *out, int64_t n, const void *p);
    /* s: NULL for kernels without parameters. */
    void (*fill)(void *in, int64_t n, const kernel *k, const parameters *s);
    size_t in_size, out_size; /* bytes of an element */
    int in_codes, out_codes;  /* of an element: 2 of packed 4-bit codes */
    int varies;
    int32_t qmin, qmax;
};

void fill_float(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_double(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_int8_t(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_uint8_t(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_int16_t(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_uint16_t(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_int32_t(void *in, int64_t n, const kernel *k, const parameters *s);
void fill_range(void *in, int64_t n, const kernel *k, const parameters *s); /* int32, the codes of the kernel */
void fill_any(void *in, size_t bytes);

/* ---- memory ---- */

void *array(size_t count, size_t itemsize); /* an empty one has an address too */

/* An output of `bytes` bytes, `shift` bytes past a 64-byte boundary, with guards on both sides. */
typedef struct {
    unsigned char *memory, *data;
    size_t bytes, total;
} guarded;

guarded guarded_make(size_t bytes, size_t shift);
bool guarded_whole(const guarded *g);

/* ---- checks ---- */

extern long passed, failed;
extern bool silent; /* failures are counted only */

bool count_check(bool good); /* whether to print a failure */
void check(bool good, const char *row, const char *kernel_name, const char *what, int64_t n, const qn_affine *p);

/* Checks of a kernel `name` of two ISA rows. */
#define CHECK_SAME(good, name) check(good, row_name, name, "differs from the scalar row", n, NULL)
#define CHECK_GUARDS(g, name) check(guarded_whole(&(g)), row_name, name, "wrote outside its output", n, NULL)

/* One call of the scalar ISA row and one of `row` on the same input; p: the last argument of the kernel. */
void compare_on(const char *row_name, const qn_table *row, const kernel *k, const void *in, int64_t n, const void *p,
                const qn_affine *shown, size_t shift);
void compare(const char *row_name, const qn_table *row, const kernel *k, int64_t n, const void *p, const parameters *s,
             size_t shift);

#endif
