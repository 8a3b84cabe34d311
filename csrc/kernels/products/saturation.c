#include "saturation.h"

#include <string.h>

#include "dispatch.h"
#include "threads.h"

enum {
    STRIP = 256,         /* columns whose sums stay in the L1 cache */
    DEPTH = 1 << 16,     /* even, and 65280 * DEPTH / 2 fits in an int32 sum */
    PRODUCTS_A_BYTE = 4, /* multiplications in the time that a byte of memory traffic takes */
};

typedef struct {
    const uint8_t *a;
    const int8_t *b;
    int64_t m, k, n, *sum, *error, *pairs;
} saturating_product;

static void add(int64_t *to, const int32_t *from, int64_t n) {
    for (int64_t j = 0; j < n; j++) to[j] += from[j];
}

static void saturate_columns(void *context, int64_t begin, int64_t end) {
    const saturating_product *c = context;
    int32_t sum[STRIP], error[STRIP], pairs[STRIP];
    for (int64_t j = begin; j < end; j += STRIP) {
        int64_t n = end - j < STRIP ? end - j : STRIP;
        for (int64_t k = 0; k < c->k; k += DEPTH)
            for (int64_t i = 0; i < c->m; i++) {
                memset(sum, 0, sizeof sum), memset(error, 0, sizeof error), memset(pairs, 0, sizeof pairs);
                qn_kernels()->saturate_pairs_u8s8(c->a + i * c->k + k, c->b + k * c->n + j,
                                                  c->k - k < DEPTH ? c->k - k : DEPTH, c->n, n, sum, error, pairs);
                add(c->sum + i * c->n + j, sum, n);
                add(c->error + i * c->n + j, error, n);
                add(c->pairs + j, pairs, n);
            }
    }
}

void qn_saturate(const uint8_t *a, const int8_t *b, int64_t m, int64_t k, int64_t n, int64_t *sum, int64_t *error,
                 int64_t *pairs) {
    saturating_product c = {a, b, m, k, n, sum, error, pairs};
    double work = (double)m * (double)k * (double)n / PRODUCTS_A_BYTE;
    qn_parallel_for(n, STRIP, work < 0x1p40 ? (int64_t)work : (int64_t)1 << 40, saturate_columns, &c);
}

static void unsafe_columns(void *context, int64_t begin, int64_t end) {
    const saturating_product *c = context;
    int32_t pairs[STRIP];
    for (int64_t j = begin; j < end; j += STRIP) {
        int64_t n = end - j < STRIP ? end - j : STRIP;
        for (int64_t k = 0; k < c->k; k += DEPTH) {
            memset(pairs, 0, sizeof pairs);
            qn_kernels()->unsafe_pairs_i8(c->b + k * c->n + j, c->k - k < DEPTH ? c->k - k : DEPTH, c->n, n, pairs);
            add(c->pairs + j, pairs, n);
        }
    }
}

void qn_unsafe_pairs(const int8_t *b, int64_t k, int64_t n, int64_t *pairs) {
    saturating_product c = {.b = b, .k = k, .n = n, .pairs = pairs};
    qn_parallel_for(n, STRIP, k * n, unsafe_columns, &c);
}
