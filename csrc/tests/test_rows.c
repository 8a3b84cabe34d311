/* Every ISA row against the scalar one, bit for bit, called through the tables. kernel_list.h has the kind of test of
 * each kernel.
 *
 * Each kernel runs over sizes 0..70 (every tail of every vector length, several whole strides) and some larger, random
 * and edge values, every convention, one parameter for each run and one for each element, streamed and not, with
 * outputs at several alignments between guard bytes. Then each kernel is replaced by one that does nothing: its test
 * must fail.
 *
 *     test_rows [SEED]
 */
#include "cpu.h"
#include "kinds.h"

/* ---- the table of kernels, from kernel_list.h ---- */

#define CALL_AFFINE(name, ...)                                                                                         \
    static void call_##name(const qn_table *t, const void *in, void *out, int64_t n, const void *p) {                  \
        t->name(in, out, n, p);                                                                                        \
    }
#define CALL_CAST(name, ...) CALL_AFFINE(name, )
#define CALL_PLAIN(name, ...)                                                                                          \
    static void call_##name(const qn_table *t, const void *in, void *out, int64_t n, const void *p) {                  \
        (void)p;                                                                                                       \
        t->name(in, out, n);                                                                                           \
    }
#define CALL_NARROW(name, ...) CALL_PLAIN(name, )
#define CALL_OWN(name, stem) void test_##stem(const char *row_name, const qn_table *row);
#define CALL_PRODUCT(name, ...)
#define CALL(kind, name, arguments, ...) CALL_##kind(name, __VA_ARGS__)
QN_KERNEL_LIST(CALL)

#define ROW_ALL(id, kind, filler, input, output, input_codes, output_codes, what, low, high)                           \
    {.name = #id,                                                                                                      \
     .index = QN_INDEX_##id,                                                                                           \
     .test = test_##kind,                                                                                              \
     .call = call_##id,                                                                                                \
     .fill = filler,                                                                                                   \
     .in_size = sizeof(input),                                                                                         \
     .out_size = sizeof(output),                                                                                       \
     .in_codes = input_codes,                                                                                          \
     .out_codes = output_codes,                                                                                        \
     .varies = what,                                                                                                   \
     .qmin = low,                                                                                                      \
     .qmax = high},
#define ROW_AFFINE(id, input, output, what, low, high)                                                                 \
    ROW_ALL(id, AFFINE, fill_##input, input, output, 1, 1, what, low, high)
#define ROW_CAST(id, input, output) ROW_ALL(id, CAST, fill_##input, input, output, 1, 1, 0, 0, 0)
#define ROW_NARROW(id, input, output, low, high) ROW_ALL(id, NARROW, fill_range, input, output, 1, 1, 0, low, high)
#define ROW_PLAIN(id, input, output, input_codes, output_codes)                                                        \
    ROW_ALL(id, PLAIN, fill_##input, input, output, input_codes, output_codes, 0, 0, 0)
#define ROW_OWN(id, stem) {.name = #id, .index = QN_INDEX_##id, .test_own = test_##stem},
#define ROW_PRODUCT(id, ...) {.name = #id, .index = QN_INDEX_##id}, /* test_matmul.c */
#define ROW(kind, id, arguments, ...) ROW_##kind(id, __VA_ARGS__)

const kernel kernels[QN_KERNEL_COUNT] = {QN_KERNEL_LIST(ROW)};

/* ---- ISA rows ---- */

static bool is_first_of_its_test(int index) { /* a test of its own may cover several kernels */
    for (int k = 0; k < index; k++)
        if (kernels[k].test_own && kernels[k].test_own == kernels[index].test_own) return false;
    return true;
}

static void test_row(const char *name, const qn_table *row, bool can_run) {
    if (!can_run) {
        printf("%-10s skipped: this CPU lacks it\n", name);
        return;
    }
    long before = passed + failed;
    void (*own[QN_KERNEL_COUNT])(void);
    memcpy(own, row, sizeof own);
    for (int k = 0; k < QN_KERNEL_COUNT; k++) {
        if (kernels[k].test_own && is_first_of_its_test(k)) kernels[k].test_own(name, row);
        if (kernels[k].test && own[k])
            kernels[k].test(name, row, &kernels[k]); /* NULL: inherited from a lower ISA row */
    }
    test_formats(name, row);
    printf("%-10s %ld checks\n", name, passed + failed - before);
}

/* ---- tests of the tests ---- */

static void do_nothing(void) {}

/* Whether the test of a kernel fails on a scalar ISA row in which the kernel does nothing. The ABIs of the CPUs that
 * have ISA rows let a function ignore its arguments. */
static bool test_notices(const kernel *k) {
    qn_table row;
    void (*pointers[QN_KERNEL_COUNT])(void);
    memcpy(pointers, &qn_row_scalar, sizeof pointers);
    pointers[k->index] = do_nothing;
    memcpy(&row, pointers, sizeof row);
    const long passed_before = passed, failed_before = failed;
    silent = true;
    if (k->test_own) k->test_own("scalar", &row);
    else k->test("scalar", &row, k);
    silent = false;
    bool noticed = failed > failed_before;
    passed = passed_before, failed = failed_before;
    return noticed;
}

int main(int argc, char **argv) {
    const uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 20240229;
    random_seed(seed);
    printf("seed %llu%s\n", (unsigned long long)seed, QN_EMULATED ? ", avx512 emulated" : "");
    qn_cpu detected = qn_cpu_detect();
    if (QN_EMULATED) detected.avx512 = true;
    const qn_cpu *cpu = &detected;
    (void)cpu;
    /* The scalar ISA row runs against itself too: for the guards, the inputs and the sanitizers. */
#define TEST_ROW(name, target, detector) test_row(#name, &qn_row_##name, detector);
    QN_ISA_LIST(TEST_ROW)
    for (int k = 0; k < QN_KERNEL_COUNT; k++)
        if (kernels[k].test || kernels[k].test_own)
            check(test_notices(&kernels[k]), "scalar", kernels[k].name, "its test passes when it does nothing", 0,
                  NULL);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
