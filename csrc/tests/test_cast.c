/* Conversions: the kinds CAST, NARROW and PLAIN. */
#include "kinds.h"

void test_PLAIN(const char *row_name, const qn_table *row, const kernel *k) {
    for (int size = 0; size < SIZES; size++)
        for (size_t shift = 0; shift < 8; shift++) compare(row_name, row, k, size_at(size), NULL, NULL, shift);
}

void test_NARROW(const char *row_name, const qn_table *row, const kernel *k) { test_PLAIN(row_name, row, k); }

void test_CAST(const char *row_name, const qn_table *row, const kernel *k) {
    for (int size = 0; size < SIZES; size++)
        for (int mode = 0; mode < 8; mode++) {
            qn_cast p = {.saturate = mode & 1, .stochastic = mode & 2, .stream = mode & 4};
            p.seed = random_bits(), p.index = random_int(0, 999);
            compare(row_name, row, k, size_at(size), &p, NULL, random_bits() % 17);
        }
}

enum { CODES = 1 << 16 };

/* Widening and narrowing a number gives it back. */
#define TEST_FORMAT(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                          \
    static void test_##tag(const char *row_name, const qn_table *row) {                                                \
        const qn_cast plain = {0};                                                                                     \
        const int width = (kind != QN_SCALE) + exponent + mantissa;                                                    \
        uint##bits##_t *codes = array(CODES, sizeof *codes), *back = array(CODES, sizeof *back);                       \
        float *wide = array(CODES, sizeof *wide);                                                                      \
        for (int i = 0; i < CODES; i++) codes[i] = (uint##bits##_t)i;                                                  \
        qn_row_scalar.widen_##tag##_f32(codes, wide, CODES, &plain);                                                   \
        qn_row_scalar.narrow_f32_##tag(wide, back, CODES, &plain);                                                     \
        for (int i = 0; i < 1 << width; i++)                                                                           \
            if (wide[i] == wide[i]) check(back[i] == i, "scalar", #tag, "lost a number", i, NULL);                     \
        if (row->widen_##tag##_f32)                                                                                    \
            compare_on(row_name, row, &kernels[QN_INDEX_widen_##tag##_f32], codes, CODES, &plain, NULL, 0);            \
        if (row->narrow_f32_##tag)                                                                                     \
            compare_on(row_name, row, &kernels[QN_INDEX_narrow_f32_##tag], wide, CODES, &plain, NULL, 0);              \
        free(codes), free(back), free(wide);                                                                           \
    }
QN_NARROW_FLOATS(TEST_FORMAT, _)

void test_formats(const char *row_name, const qn_table *row) {
#define CALL(_, tag, NAME, name, bits, exponent, mantissa, bias, kind) test_##tag(row_name, row);
    QN_NARROW_FLOATS(CALL, _)
#undef CALL
}
