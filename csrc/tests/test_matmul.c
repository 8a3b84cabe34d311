/* Products of every ISA row against int64, through the driver: every route, with K, N and M around the sizes of tiles
 * and kblocks.
 *
 * Operands end at a page without access, and the output lies between guards. M_PERTURB fills scratch with rubbish, so
 * that elements that a kernel does not write make the result wrong.
 *
 * The driver calls the kernels of products through thunks that note each call: a kernel that no case calls fails the
 * test.
 *
 *     test_matmul [SEED]
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu.h"
#include "dispatch.h"
#include "matmul.h"
#include "support.h"
#include "threads.h"

#ifdef QN_TEST_EMULATED
static bool emulated(const char *row) { /* AMX on top of a real AVX-512 VNNI ISA row */
    return !strcmp(row, "avx512") || !strcmp(row, "avxvnni") || (!strcmp(row, "amx") && qn_cpu_detect().avx512vnni);
}
#else
static bool emulated(const char *row) { return !row; }
#endif

enum { CASES = 700, GUARD = 64, GUARD_WORD = 0x5A5AA5A5 };

static void count(bool good, const char *row, const char *what, int64_t m, int64_t k, int64_t n) {
    if (count_check(good))
        printf("FAIL %s: %s, M=%lld K=%lld N=%lld\n", row, what, (long long)m, (long long)k, (long long)n);
}

/* ---- which kernels were called ---- */

typedef void (*kernel_pointer)(void);
static kernel_pointer kernels[QN_KERNEL_COUNT]; /* of the active table */
static _Atomic bool called[QN_KERNEL_COUNT];

/* ONLY_<kind>: expands to its argument for the kernels of products. */
#define ONLY_PRODUCT(...) __VA_ARGS__
#define ONLY_AFFINE(...)
#define ONLY_CAST(...)
#define ONLY_NARROW(...)
#define ONLY_PLAIN(...)
#define ONLY_OWN(...)

/* A thunk for kernels of any signature: all arguments of these are integers or pointers, at most eight, and the ABIs of
 * x86-64 and AArch64 pass such arguments in the same places whatever their types are. */
#define WORDS(X) X(a), X(b), X(c), X(d), X(e), X(f), X(g), X(h)
#define PARAMETER(name) intptr_t name
#define ARGUMENT(name) name
#define THUNK_OF(name)                                                                                                 \
    static void thunk_##name(WORDS(PARAMETER)) {                                                                       \
        called[QN_INDEX_##name] = true;                                                                                \
        ((void (*)(WORDS(PARAMETER)))kernels[QN_INDEX_##name])(WORDS(ARGUMENT));                                       \
    }
#define THUNK(kind, name, ...) ONLY_##kind(THUNK_OF(name))
QN_KERNEL_LIST(THUNK)

static void note_calls(void) {
    kernel_pointer *table = (kernel_pointer *)(void *)(intptr_t)qn_kernels();
    memcpy(kernels, table, sizeof kernels);
#define INSTALL(kind, name, ...) ONLY_##kind(table[QN_INDEX_##name] = (kernel_pointer)thunk_##name;)
    QN_KERNEL_LIST(INSTALL)
}

/* Some kernels are called only if the tiling of an ISA row has their flag, and this machine may have no such ISA row.
 */
static bool may_be_called(int index, const qn_tiling *chosen) {
    switch (index) {
    case QN_INDEX_left_pairs:
    case QN_INDEX_multiply_pairs:
    case QN_INDEX_multiply_pairs_wide:
    case QN_INDEX_right_widen: return chosen->pairs;
    case QN_INDEX_left_parts:
    case QN_INDEX_multiply_parts: return chosen->parts;
    default: return true;
    }
}

static void count_calls(const qn_tiling *chosen) {
#define COUNT(kind, name, ...)                                                                                         \
    ONLY_##kind(count(called[QN_INDEX_##name] || !may_be_called(QN_INDEX_##name, chosen), #name, "no case calls it",   \
                      0, 0, 0);)
    QN_KERNEL_LIST(COUNT)
}

/* ---- operands ---- */

/* Bytes that end at a page without access, and begin after one if they fill whole pages. */
typedef struct {
    char *map, *data;
    size_t size;
} walled;

static walled walled_make(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    walled w = {.size = inner + 2 * page};
    w.map = mmap(NULL, w.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w.map == MAP_FAILED || mprotect(w.map, page, PROT_NONE) || mprotect(w.map + page + inner, page, PROT_NONE))
        abort();
    w.data = w.map + page + inner - bytes;
    return w;
}

typedef struct {
    walled memory;
    qn_matrix m;
    int64_t lo, hi; /* of the codes */
} operand;

static int64_t lowest(qn_type type) { return type == QN_I8 ? -128 : type == QN_U8 ? 0 : -32768; }
static int64_t codes(qn_type type) { return type == QN_I16 ? 65536 : 256; }

/* Codes of a random layout; all extreme, alternating, few extreme, in the shape of a bell, or anything in [lo, hi]. */
static operand operand_make(int64_t rows, int64_t columns, int64_t span, bool words) {
    operand o = {.m = {.rows = rows, .columns = columns, .type = random_bits() % 2 ? QN_I8 : QN_U8}};
    if (words) o.m.type = QN_I16, o.m.swapped = random_bits() % 2;
    int64_t lines = rows, length = columns, gap = random_i64(0, 3), size = words ? 2 : 1;
    o.lo = lowest(o.m.type) + random_i64(0, codes(o.m.type) - span), o.hi = o.lo + span - 1;
    if (span == 128 && random_bits() % 2) o.lo = o.m.type == QN_U8 ? 0 : -64, o.hi = o.lo + 127; /* 7 bits */
    if (span <= 16) o.lo = o.m.type == QN_U8 ? 0 : -span / 2, o.hi = o.lo + span - 1;            /* 4 or 2 bits */
    bool turned = random_bits() % 2;
    if (turned) lines = columns, length = rows;
    int64_t step = random_bits() % 4 ? 1 : 2, stride = length * step + gap; /* step 2: not even a line is contiguous */
    int64_t count = lines && length ? (lines - 1) * stride + (length - 1) * step + 1 : 0;
    o.memory = walled_make((size_t)(count * size));
    uint64_t kind = random_bits() % 6;
    for (int64_t i = 0; i < count; i++) {
        int64_t any = random_i64(o.lo, o.hi), middle = (o.lo + o.hi + 1) / 2;
        if (kind == 0) any = o.hi;
        else if (kind == 1) any = i & 1 ? o.lo : o.hi;
        else if (kind == 2) any = random_bits() % 64 ? middle : random_bits() % 2 ? o.lo : o.hi;
        else if (kind == 3) any = (any + 3 * middle + random_i64(-40, 40) * (o.hi - o.lo) / 256) / 4;
        char bytes[2] = {(char)any, (char)(any >> 8)};
        if (o.m.swapped) bytes[0] = (char)(any >> 8), bytes[1] = (char)any;
        memcpy(o.memory.data + i * size, bytes, (size_t)size);
    }
    o.m.data = o.memory.data;
    o.m.row_stride = (turned ? step : stride) * size, o.m.column_stride = (turned ? stride : step) * size;
    return o;
}
static int64_t code(const operand *o, int64_t r, int64_t c) {
    const char *p = o->m.data + r * o->m.row_stride + c * o->m.column_stride;
    if (o->m.type == QN_I8) return *(const int8_t *)p;
    if (o->m.type == QN_U8) return *(const uint8_t *)p;
    return (int16_t)((uint8_t)p[o->m.swapped] | (uint8_t)p[!o->m.swapped] << 8);
}

static qn_zeros zeros_make(const operand *o, int64_t length, int32_t *values) {
    static const int64_t counts[] = {0, 1, 1};
    int64_t least = lowest(o->m.type), most = least + 255;
    if (o->m.type == QN_I16) least = o->lo, most = o->hi;
    int64_t pick = random_i64(0, 3), n = pick == 3 ? length : counts[pick];
    for (int64_t i = 0; i < n; i++) values[i] = (int32_t)(random_bits() % 4 ? random_i64(least, most) : least);
    return (qn_zeros){values, n};
}
static int64_t zero(qn_zeros z, int64_t i) { return z.count ? z.values[z.count == 1 ? 0 : i] : 0; }

/* ---- products ---- */

static void test_one(const char *row, int64_t m, int64_t k, int64_t n) {
    static const int64_t spans[] = {256, 256, 128, 100, 16, 4};
    static const int64_t word_spans[] = {65536, 1000, 256, 100}; /* most sums of the first leave int32 */
    bool a_words = random_bits() % 6 == 0, b_words = random_bits() % (a_words ? 2 : 6) == 0;
    operand a = operand_make(m, k, a_words ? word_spans[random_bits() % 4] : random_bits() % 4 ? 256 : 128, a_words);
    const int64_t span = b_words ? word_spans[random_bits() % 4] : spans[random_bits() % 6];
    operand b = operand_make(k, n, span, b_words);
    int32_t *za_values = array((size_t)(m + 1), 4), *zb_values = array((size_t)(n + 1), 4),
            *out = array((size_t)(m * n + 2 * GUARD), 4);
    qn_zeros za = zeros_make(&a, m, za_values), zb = zeros_make(&b, n, zb_values);
    int64_t *expected = array((size_t)(m * n), 8);
    bool fits = true;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int64_t sum = 0;
            for (int64_t x = 0; x < k; x++) sum += (code(&a, i, x) - zero(za, i)) * (code(&b, x, j) - zero(zb, j));
            expected[i * n + j] = sum;
            fits = fits && sum >= INT32_MIN && sum <= INT32_MAX;
        }
    for (int64_t i = 0; i < m * n + 2 * GUARD; i++) out[i] = GUARD_WORD;
    qn_product product = {.a = a.m, .b = b.m, .za = za, .zb = zb, .out = out + GUARD};
    qn_outcome outcome = qn_matmul_integer(&product);
    count(outcome == (fits ? QN_DONE : QN_OVERFLOW), row, "the outcome is another", m, k, n);
    bool same = true, whole = true;
    for (int64_t i = 0; i < m * n; i++) same = same && out[GUARD + i] == expected[i];
    for (int64_t i = 0; i < GUARD; i++) whole = whole && out[i] == GUARD_WORD && out[m * n + GUARD + i] == GUARD_WORD;
    count(same || !fits, row, "a raw product is wrong", m, k, n);
    count(whole, row, "a product wrote outside its output", m, k, n);
    a.m.narrow = a.m.type == QN_I8 ? a.lo >= -64 && a.hi < 64 : a.m.type == QN_U8 && a.hi < 128;
    float *scale = array((size_t)(m + 2 * n), 4), *real = array((size_t)(m * n + 1), 4);
    for (int64_t i = 0; i < m + 2 * n; i++) scale[i] = (float)random_i64(1, 1000) * 1e-4f;
    qn_result r = {.type = QN_F32, .data = real, .row_stride = n, .row_scale = scale, .row_scales = m};
    r.column_scale = scale + m, r.lo = -INFINITY, r.hi = INFINITY;
    const uint64_t stage = random_bits();
    if (stage % 3 == 0) r.row_scales = 1;
    if (stage % 5 < 2) r.bias = scale + m + n;
    if (n && stage % 2) scale[m + n] = NAN; /* in the bias */
    if (stage % 7 < 2) r.lo = -1.5f;
    if (stage % 7 == 1) r.hi = 2;
    if (a.m.type != QN_I16 || b.m.type == QN_I16) { /* words times packed bytes do not exist */
        qn_packed *packed = qn_pack_weights(&b.m, zb, b_words ? 16 : span == 16 ? 4 : span == 4 ? 2 : 8);
        count(qn_matmul_packed(&a.m, za, packed, &r) == outcome, row, "the packed outcome is another", m, k, n);
        for (int64_t i = 0; same && i < m * n; i++) {
            float x = (float)(int32_t)expected[i] * (scale[r.row_scales == 1 ? 0 : i / n] * scale[m + i % n]);
            if (r.bias) x += r.bias[i % n];
            x = x < r.lo ? r.lo : x > r.hi ? r.hi : x;
            same = !memcmp(real + i, &x, sizeof x);
        }
        count(same || !fits, row, "a packed product is wrong", m, k, n);
        uint8_t *q = array((size_t)(m * n), 1);
        double *wide = array((size_t)(n + 1), 8); /* biases that int32 does not hold, or none */
        for (int64_t j = 0; j < n; j++) wide[j] = random_bits() % 3 ? 0 : (double)random_i64(-9, 9) * 0x1p40;
        if (stage % 4 == 0) r.wide_bias = wide;
        r.type = stage % 2 ? QN_I8 : QN_U8, r.data = q, r.bias = NULL;
        r.qmin = stage % 2 ? -100 : 3, r.qmax = stage % 2 ? 127 : 250,
        r.zero_point = (int32_t)random_i64(r.qmin, r.qmax);
        count(qn_matmul_packed(&a.m, za, packed, &r) == outcome, row, "the outcome of codes is another", m, k, n);
        for (int64_t i = 0; same && i < m * n; i++) {
            const float sum = r.wide_bias ? (float)((double)expected[i] + wide[i % n]) : (float)(int32_t)expected[i];
            const float x = sum * (scale[r.row_scales == 1 ? 0 : i / n] * scale[m + i % n]);
            double code = rint((double)x) + r.zero_point;
            same = q[i] == (uint8_t)(int)(code < r.qmin ? r.qmin : code > r.qmax ? r.qmax : code);
        }
        count(same || !fits, row, "codes of a packed product are wrong", m, k, n);
        free(q), free(wide);
        qn_packed_free(packed);
    }
    free(za_values), free(zb_values), free(out), free(expected), free(scale), free(real);
    munmap(a.memory.map, a.memory.size), munmap(b.memory.map, b.memory.size);
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 20240229;
    mallopt(M_PERTURB, 0x5A);
    qn_dispatch_init();
    qn_tiling chosen = {0}; /* by any ISA row */
    for (int isa = 0; isa < qn_isa_count(); isa++) {
        const char *row = qn_isa_name(isa);
        if (!qn_isa_supported(isa) && !emulated(row)) {
            printf("%-10s skipped: this CPU lacks it\n", row);
            continue;
        }
        long before = passed + failed;
        random_seed(seed);
        qn_isa_select(isa);
        note_calls();
        qn_tiling tiling;
        qn_kernels()->matmul_tiling(&tiling);
        chosen.pairs |= tiling.pairs, chosen.parts |= tiling.parts;
        for (int i = 0; i < CASES; i++) {
            qn_set_num_threads(1 + i % 3);
            int64_t m = random_i64(1, 70), k = random_i64(0, 70), n = random_i64(1, 70);
            if (i % 5 == 0) m = random_i64(1, 6);
            if (i % 7 == 1) m = random_i64(1, 17), n = random_i64(60, 300); /* strips and streams of raw matrices */
            if (i % 20 == 0) m = random_i64(1, 130), k = random_i64(500, 2200);
            if (i % 7 == 0) m = random_i64(65, 230), k = random_i64(0, 300), n = random_i64(1, 40);
            if (i % 35 == 0) m = random_i64(65, 300), k = random_i64(500, 1600);
            if (i % 50 == 0) m = random_i64(1, 20), k = random_i64(4000, 4200);
            if (i == 99) m = 2, k = 140000, n = 3; /* sums may exceed int32 */
            test_one(row, m, k, n);
        }
        printf("%-10s %ld checks\n", row, passed + failed - before);
    }
    count_calls(&chosen);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
