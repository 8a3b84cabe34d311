#include "activations.h"

#include <string.h>

#include "dispatch.h"
#include "qparams.h"
#include "threads.h"

enum { ROWS_A_PIECE = 4, BYTES_AN_ELEMENT = 8, LINE = 16 }; /* x is read twice, the second time from a cache */

static void choose(const qn_activations *a, const float *x, int64_t n, float *scale, int32_t *zero_point) {
    qn_range r = {INFINITY, -INFINITY, 0, 0};
    qn_kernels()->min_max_f32(x, n, &r);
    qn_qparams p = qn_qparams_of_range(fmin(r.min, 0.0), fmax(r.max, 0.0), a->symmetric, a->qmin, a->qmax);
    *scale = p.scale, *zero_point = a->symmetric ? a->zero_point : p.zero_point;
}

static bool stored_signed(const qn_activations *a) { return a->is_signed || a->less; }

static void quantize(const qn_activations *a, const float *x, int64_t n, uint8_t *codes, const float *scale,
                     const int32_t *zero_point) {
    qn_affine p = {.scale = scale, .zero_point = zero_point, .run = n + 1};
    p.qmin = a->qmin - a->less, p.qmax = a->qmax - a->less;
    p.exact_inverse = *scale >= 0x1p-90f && *scale <= 0x1p90f;
    if (stored_signed(a)) qn_kernels()->quantize_f32_i8(x, (int8_t *)codes, n, &p);
    else qn_kernels()->quantize_f32_u8(x, codes, n, &p);
}

static void quantize_row(const qn_activations *a, const float *source, int64_t row, int64_t groups) {
    for (int64_t i = 0, at = 0; i < groups; i++, at += a->group) {
        const float *x = source + at;
        int64_t n = a->k - at < a->group ? a->k - at : a->group, one = row * groups + i;
        a->scales[one] = a->scale, a->zero_points[one] = a->zero_point;
        if (a->scale == 0) choose(a, x, n, a->scales + one, a->zero_points + one);
        a->zero_points[one] -= a->less;
        quantize(a, x, n, a->codes + row * a->stride + at, a->scales + one, a->zero_points + one);
    }
}

static void take_row(const qn_activations *a, int64_t row, int64_t groups) {
    const qn_input_codes *g = &a->input;
    const uint8_t *from = g->codes + row * a->k;
    uint8_t *to = a->codes + row * a->stride, less = (uint8_t)a->less;
    for (int64_t k = 0; k < a->k; k++) to[k] = (uint8_t)(from[k] - less);
    for (int64_t i = 0; i < groups && a->k > 0; i++) {
        int64_t at = row * g->row + i * g->step, one = row * groups + i;
        a->scales[one] = g->scales[at];
        a->zero_points[one] = (g->zero_points ? g->zero_points[at] : 0) - a->less;
    }
}

static void sum_row(const qn_activations *a, int64_t row, int64_t groups) {
    const int8_t *codes = (const int8_t *)a->codes + row * a->stride;
    int64_t count = (a->k + a->sum_group - 1) / a->sum_group;
    for (int64_t i = 0, at = 0; i < count; i++, at += a->sum_group) {
        int64_t n = a->k - at < a->sum_group ? a->k - at : a->sum_group;
        int32_t sum = (int32_t)n * a->zero_points[row * groups + at / a->group];
        for (int64_t k = 0; k < n; k++) sum -= codes[at + k];
        a->minus_sums[row * count + i] = sum;
    }
}

/* x times the factors, in `to`; x itself without factors. */
static const float *smooth(const qn_activations *a, const float *x, float *to) {
    if (!a->smooth) return x;
    const qn_affine p = {.scale = a->smooth};
    qn_kernels()->multiply_f32(x, to, a->k, &p);
    return to;
}

static void quantize_rows(void *context, int64_t begin, int64_t end) {
    const qn_activations *a = context;
    int64_t groups = a->k ? (a->k + a->group - 1) / a->group : 1; /* without codes there is still a scale */
    float *transformed = a->hadamard || a->smooth ? a->transformed + begin / ROWS_A_PIECE * a->k : NULL;
    uint64_t modes = qn_fp_begin();
    for (int64_t row = begin; row < end; row++) {
        const float *x = a->x ? a->x + row * a->k : NULL;
        if (x && transformed) {
            for (int64_t k = 0; k < a->k; k += LINE) __builtin_prefetch(x + a->k + k); /* the runs are many streams */
            const float *smoothed = smooth(a, x, transformed);
            if (a->hadamard) qn_kernels()->hadamard_f32(smoothed, transformed, a->hadamard);
            x = transformed;
        }
        if (x) quantize_row(a, x, row, groups);
        else take_row(a, row, groups);
        memset(a->codes + row * a->stride + a->k, 0, (size_t)(a->stride - a->k));
        if (a->minus_sums) sum_row(a, row, groups);
    }
    qn_fp_end(modes);
}

int64_t qn_transformed_rows(int64_t rows) { return (rows + ROWS_A_PIECE - 1) / ROWS_A_PIECE; }

void qn_quantize_activations(const qn_activations *a) {
    qn_parallel_for(a->rows, ROWS_A_PIECE, a->rows * a->k * BYTES_AN_ELEMENT, quantize_rows, (void *)a);
}
