/* multiply_add_<T>. */
#include "support.h"

/* A float32 whose sums with others are often ties, subnormal or too large for the type. */
static float random_hard(void) {
    uint64_t bits = random_bits();
    if (bits % 8 == 0) return random_edge();
    float x = float_of((uint32_t)(bits >> 8) << 9 | ((uint32_t)random_int(100, 145) << 23 & 0x7F800000));
    return bits >> 60 == 0 ? x * 0x1p-20f : x;
}

#define TEST_MULTIPLY_ADD(tag)                                                                                         \
    if (row->multiply_add_##tag)                                                                                       \
        for (int size = 0; size < SIZES; size++)                                                                       \
            for (int again = 0; again < 8; again++) {                                                                  \
                int64_t n = size_at(size);                                                                             \
                size_t bytes = (size_t)n * sizeof(float);                                                              \
                float a = random_hard(), *w = array((size_t)n, sizeof *w), *y = array((size_t)n, sizeof *y);           \
                guarded g = guarded_make(bytes, (size_t)again * sizeof(float));                                        \
                for (int64_t i = 0; i < n; i++) w[i] = random_hard(), y[i] = random_hard();                            \
                memcpy(g.data, y, bytes);                                                                              \
                qn_row_scalar.multiply_add_##tag(a, w, y, n);                                                          \
                row->multiply_add_##tag(a, w, (float *)g.data, n);                                                     \
                bool same = memcmp(y, g.data, bytes) == 0;                                                             \
                CHECK_SAME(same, "multiply_add_" #tag);                                                                \
                CHECK_GUARDS(g, "multiply_add_" #tag);                                                                 \
                free(w), free(y), free(g.memory);                                                                      \
            }

void test_accumulate(const char *row_name, const qn_table *row) {
    TEST_MULTIPLY_ADD(f16)
    TEST_MULTIPLY_ADD(bf16)
    TEST_MULTIPLY_ADD(f32)
}
