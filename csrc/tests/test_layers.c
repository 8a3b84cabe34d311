/* gelu_f32, add_norm_f32. */
#include "support.h"

static float random_float(void) {
    const float special[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 5.65685f, -1e30f};
    if (random_bits() % 16 == 0) return special[random_bits() % 7];
    return (float)((random_unit() - 0.5) * (random_bits() % 4 ? 12 : 1e-3));
}

static void fill(float *x, int64_t n, bool finite) {
    for (int64_t i = 0; i < n; i++) do
            x[i] = random_float();
        while (finite && !(fabsf(x[i]) < 100));
}

static void test_gelu(const char *row_name, const qn_table *row, int64_t n, size_t shift) {
    size_t bytes = (size_t)n * sizeof(float);
    float *x = array((size_t)n + 1, sizeof *x), *y = array((size_t)n + 1, sizeof *y);
    guarded g = guarded_make(bytes, shift);
    fill(x, n, false);
    qn_row_scalar.gelu_f32(x, y, n);
    row->gelu_f32(x, (float *)g.data, n);
    bool same = memcmp(y, g.data, bytes) == 0;
    CHECK_SAME(same, "gelu_f32");
    memcpy(g.data, x, bytes);
    row->gelu_f32((float *)g.data, (float *)g.data, n);
    same = memcmp(y, g.data, bytes) == 0;
    CHECK_SAME(same, "gelu_f32 in place");
    CHECK_GUARDS(g, "gelu_f32");
    free(x), free(y), free(g.memory);
}

static void test_norm(const char *row_name, const qn_table *row, int64_t n, size_t shift) {
    size_t bytes = (size_t)n * sizeof(float);
    float *memory[6];
    for (int i = 0; i < 6; i++) memory[i] = array((size_t)n, sizeof(float)), fill(memory[i], n, true);
    guarded sum = guarded_make(bytes, shift), y = guarded_make(bytes, shift);
    for (int biased = 0; biased < 2; biased++) {
        qn_norm p = {memory[0], memory[1], memory[2], biased ? memory[3] : NULL, 1e-5f, n, memory[4], memory[5]};
        qn_row_scalar.add_norm_f32(&p);
        p.sum = (float *)sum.data, p.y = (float *)y.data;
        row->add_norm_f32(&p);
        bool same = memcmp(memory[4], sum.data, bytes) == 0 && memcmp(memory[5], y.data, bytes) == 0;
        CHECK_SAME(same, "add_norm_f32");
        p.sum = p.y;
        row->add_norm_f32(&p);
        same = memcmp(memory[5], y.data, bytes) == 0;
        CHECK_SAME(same, "add_norm_f32 in place");
        CHECK_GUARDS(sum, "add_norm_f32");
        CHECK_GUARDS(y, "add_norm_f32");
    }
    for (int i = 0; i < 6; i++) free(memory[i]);
    free(sum.memory), free(y.memory);
}

void test_layers(const char *row_name, const qn_table *row) {
    for (int64_t n = 0; n <= 100; n++) {
        size_t shift = (size_t)(n % 4) * sizeof(float);
        if (row->gelu_f32) test_gelu(row_name, row, n, shift);
        if (row->add_norm_f32 && n > 0) test_norm(row_name, row, n, shift);
    }
}
