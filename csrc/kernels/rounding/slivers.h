/* Sums of products of slivers in float64. A sliver holds 4 rows of a matrix, [column][4 rows]. */
#ifndef QN_SLIVERS_H
#define QN_SLIVERS_H

#include <stdint.h>

enum { SLIVER = 4 };

typedef double pair __attribute__((vector_size(16), may_alias));

/* The products of two slivers: [row of b][rows of a]. */
typedef struct {
    pair sum[SLIVER][2];
} sliver_sums;

static inline double sums_get(const sliver_sums *c, int row_b, int row_a) {
    return c->sum[row_b][row_a / 2][row_a % 2];
}

static inline pair pair_of(double x) { return (pair){x, x}; }

static inline void sliver_load(const double *a, pair x[2]) { x[0] = *(const pair *)a, x[1] = *(const pair *)(a + 2); }

static inline void sliver_store(double *a, const pair x[2]) { *(pair *)a = x[0], *(pair *)(a + 2) = x[1]; }

/* Subtracts a[k] b[k] of n columns, one column after another, so that any cut of the columns gives the same sums. */
static inline sliver_sums sums_less(sliver_sums c, const double *a, const double *b, int64_t n) {
    pair s0 = c.sum[0][0], s1 = c.sum[0][1], s2 = c.sum[1][0], s3 = c.sum[1][1];
    pair s4 = c.sum[2][0], s5 = c.sum[2][1], s6 = c.sum[3][0], s7 = c.sum[3][1];
    for (int64_t k = 0; k < n; k++, a += SLIVER, b += SLIVER) {
        pair x[2], y;
        sliver_load(a, x);
        y = pair_of(b[0]), s0 -= x[0] * y, s1 -= x[1] * y;
        y = pair_of(b[1]), s2 -= x[0] * y, s3 -= x[1] * y;
        y = pair_of(b[2]), s4 -= x[0] * y, s5 -= x[1] * y;
        y = pair_of(b[3]), s6 -= x[0] * y, s7 -= x[1] * y;
    }
    return (sliver_sums){{{s0, s1}, {s2, s3}, {s4, s5}, {s6, s7}}};
}

/* The memory traffic that takes the time of so many multiplications, for qn_parallel_for. */
static inline int64_t work_bytes(double products) {
    enum { PRODUCTS_A_BYTE = 2 };
    return products < 0x1p40 ? (int64_t)products / PRODUCTS_A_BYTE : (int64_t)1 << 39;
}

#endif
