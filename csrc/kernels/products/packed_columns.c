#include "packed_columns.h"

#include <stdlib.h>

#include "activations.h"

enum { FEWEST_ROWS = 256, CODES_AT_ONCE = 8 << 20 };

qn_outcome qn_linear(const qn_input *x, const qn_packed *const *weights, const qn_result *results, int64_t count) {
    int64_t k = qn_packed_rows(weights[0]), most = CODES_AT_ONCE / (k > 0 ? k : 1), bytes;
    if (most < FEWEST_ROWS) most = FEWEST_ROWS;
    if (most > x->m) most = x->m;
    if (most == 0) return QN_DONE;
    int64_t floats = x->hadamard || x->smooth ? qn_transformed_rows(most) * k : 0; /* fewer than most * k / 2 + k */
    if (__builtin_mul_overflow(most + 4, 2 * k + 8, &bytes)) return QN_NO_MEMORY;
    bytes = most * (k + 8) + floats * (int64_t)sizeof(float);
    float *scales = malloc((size_t)bytes);
    if (!scales) return QN_NO_MEMORY;
    qn_activations a = {.k = k, .group = k > 0 ? k : 1, .stride = k, .scales = scales};
    a.is_signed = x->is_signed, a.symmetric = x->symmetric, a.qmin = x->qmin, a.qmax = x->qmax;
    a.scale = x->scale, a.zero_point = x->zero_point;
    a.zero_points = (int32_t *)(scales + most), a.smooth = x->smooth, a.hadamard = x->hadamard;
    a.transformed = (float *)(a.zero_points + most), a.codes = (uint8_t *)(a.transformed + floats);
    qn_outcome outcome = QN_DONE;
    for (int64_t row = 0; row < x->m && outcome == QN_DONE; row += most) {
        a.rows = x->m - row < most ? x->m - row : most, a.x = x->x + row * k;
        qn_quantize_activations(&a);
        qn_matrix left = {(const char *)a.codes, x->is_signed ? QN_I8 : QN_U8, false, a.rows, k, k, 1, false};
        left.narrow = x->is_signed ? x->qmin >= -64 && x->qmax <= 63 : x->qmax <= 127;
        qn_zeros zeros = {a.zero_points, x->scale != 0 ? x->zero_point != 0 : x->symmetric ? 0 : a.rows};
        for (int64_t i = 0; i < count && outcome == QN_DONE; i++) {
            qn_result pass = results[i];
            pass.data = (char *)pass.data + (size_t)(row * pass.row_stride) * (pass.type == QN_F32 ? 4 : 1);
            if (!pass.row_scale) pass.row_scale = scales, pass.row_scales = x->scale != 0 ? 1 : a.rows;
            outcome = qn_matmul_packed(&left, zeros, weights[i], &pass);
        }
    }
    free(scales);
    return outcome;
}
