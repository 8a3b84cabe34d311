#include "layers.h"

#include <stdatomic.h>

#include "dispatch.h"
#include "threads.h"

enum { IDS_A_PIECE = 16, BYTES_A_CODE = 5, ROWS_A_PIECE = 8, BYTES_A_SUM = 12 };

typedef struct {
    const qn_look_up *of;
    atomic_bool outside;
} look_up;

static void look_up_piece(void *context, int64_t begin, int64_t end) {
    look_up *l = context;
    const qn_look_up *of = l->of;
    const int32_t zero = 0;
    uint64_t modes = qn_fp_begin();
    for (int64_t i = begin; i < end; i++) {
        int64_t id = of->wide ? ((const int64_t *)of->ids)[i] : ((const int32_t *)of->ids)[i];
        if (id < 0) id += of->rows;
        if (id < 0 || id >= of->rows) {
            atomic_store(&l->outside, true);
            break;
        }
        const qn_affine p = {.scale = of->scale + id, .zero_point = &zero, .run = of->n + 1};
        qn_kernels()->dequantize_i8_f32(of->codes + id * of->n, of->y + i * of->n, of->n, &p);
    }
    qn_fp_end(modes);
}

bool qn_look_up_rows(const qn_look_up *of, int64_t ids) {
    look_up l = {.of = of};
    qn_parallel_for(ids, IDS_A_PIECE, ids * of->n * BYTES_A_CODE, look_up_piece, &l);
    return !l.outside;
}

static void normalize_piece(void *context, int64_t begin, int64_t end) {
    const qn_norm *first = context;
    uint64_t modes = qn_fp_begin();
    for (int64_t at = begin * first->n; at < end * first->n; at += first->n) {
        qn_norm p = *first;
        p.x += at, p.residual += at, p.sum += at, p.y += at;
        qn_kernels()->add_norm_f32(&p);
    }
    qn_fp_end(modes);
}

void qn_add_norm_rows(const qn_norm *first, int64_t rows) {
    qn_parallel_for(rows, ROWS_A_PIECE, rows * first->n * BYTES_A_SUM, normalize_piece, (qn_norm *)first);
}
