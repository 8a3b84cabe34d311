/* Products of stacks of raw matrices. Few rows are multiplied without packing the right matrix. */
#include <stdatomic.h>
#include <stdlib.h>

#include "dispatch.h"
#include "matmul_private.h"
#include "threads.h"

enum { THIN_ROWS = 16 }; /* the largest sweep_rows and dots_rows of all ISA rows */

typedef struct {
    const qn_matrix *b;
    qn_zeros zb;
    int64_t rows, a_step;
    const int16_t *a;
    const int32_t *sum; /* of each row of a */
    int32_t *out;
    bool turned; /* b is contiguous along k */
} thin;

static void multiply_thin(void *context, int64_t begin, int64_t end) {
    const thin *t = context;
    const qn_matrix *b = t->b;
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t j = begin; j < end; j++) {
            uint32_t zero = !t->zb.count ? 0 : (uint32_t)t->zb.values[t->zb.count == 1 ? 0 : j];
            t->out[r * b->columns + j] = (int32_t)(0u - zero * (uint32_t)t->sum[r]);
        }
    const qn_thin k = {
        .a = t->a,
        .a_step = t->a_step,
        .rows = (int)t->rows,
        .b = (const uint8_t *)b->data + begin * b->column_stride,
        .stride = t->turned ? b->column_stride : b->row_stride,
        .is_signed = b->type == QN_I8,
        .k = b->rows,
        .columns = end - begin,
        .c = t->out + begin,
        .c_step = b->columns,
    };
    if (t->turned) qn_kernels()->dots(&k);
    else qn_kernels()->sweep(&k);
}

static qn_outcome thin_product(const qn_matrix *a, qn_zeros za, const qn_matrix *b, qn_zeros zb, int32_t *out) {
    thin t = {.b = b, .zb = zb, .rows = a->rows, .out = out, .turned = b->column_stride != 1};
    t.a_step = round_up(a->columns, 16);
    int32_t sum[THIN_ROWS] = {0};
    int16_t *codes = qn_allocate(t.a_step * a->rows, 2);
    if (!codes) return QN_NO_MEMORY;
    for (int64_t r = 0; r < a->rows; r++) {
        int32_t zero = za.count ? za.values[za.count == 1 ? 0 : r] : 0;
        int16_t *row = codes + r * t.a_step;
        for (int64_t k = 0; k < a->columns; k++) row[k] = (int16_t)(qn_code_at(a, r, k) - zero), sum[r] += row[k];
        memset(row + a->columns, 0, (size_t)(t.a_step - a->columns) * 2);
    }
    t.a = codes, t.sum = sum;
    int64_t threads = qn_num_threads(), unit = t.turned ? 4 : 64;
    int64_t grain = round_up(most(1, (b->columns + threads - 1) / threads), unit);
    qn_parallel_for(b->columns, grain, b->rows * b->columns, multiply_thin, &t);
    free(codes);
    return QN_DONE;
}

/* One product of a stack; `packed` is b, if the whole stack shares it, else NULL. */
static qn_outcome integer_product(const qn_matrix *a, qn_zeros za, const qn_matrix *b, qn_zeros zb,
                                  const qn_packed *packed, int32_t *out) {
    const qn_result result = {.type = QN_I32, .data = out, .row_stride = b->columns};
    if (packed) return qn_matmul_packed(a, za, packed, &result);
    bool words = a->type == QN_I16 || b->type == QN_I16, in_place = b->column_stride == 1 || b->row_stride == 1;
    qn_tiling tiling;
    qn_kernels()->matmul_tiling(&tiling);
    if (a->rows <= (b->column_stride == 1 ? tiling.sweep_rows : tiling.dots_rows) && in_place && !words &&
        b->rows > 0) {
        int64_t largest =
            qn_magnitude_of(qn_extremes_of_type(a->type), za) * qn_magnitude_of(qn_extremes_of_type(b->type), zb);
        if (!qn_may_overflow(largest, b->rows, 0)) return thin_product(a, za, b, zb, out);
    }
    /* Many rows: packs all of b once. */
    qn_packing own_strips, *strips = words || a->rows > tiling.band_rows ? NULL : &own_strips;
    qn_packed *own = qn_pack_right(b, zb, words ? 16 : 8, false, strips);
    if (!own) return QN_NO_MEMORY;
    qn_outcome outcome = qn_multiply_safely(a, za, own, strips, &result);
    qn_packed_free(own);
    return outcome;
}

typedef struct {
    const qn_product *product;
    const qn_packed *packed;
    atomic_int outcome;
} stack;

static void multiply_stack(void *context, int64_t begin, int64_t end) {
    stack *s = context;
    const qn_product *p = s->product;
    for (int64_t n = begin; n < end && !atomic_load(&s->outcome); n++) {
        qn_matrix a = p->a, b = p->b;
        qn_zeros za = p->za, zb = p->zb;
        int64_t rest = n;
        for (int d = p->ndim - 1; d >= 0; d--) {
            int64_t at = rest % p->shape[d];
            rest /= p->shape[d];
            a.data += at * p->a_step[d], b.data += at * p->b_step[d];
            if (za.values) za.values += at * p->za_step[d];
            if (zb.values) zb.values += at * p->zb_step[d];
        }
        qn_outcome outcome = integer_product(&a, za, &b, zb, s->packed, p->out + n * a.rows * b.columns);
        if (outcome) atomic_store(&s->outcome, outcome);
    }
}

qn_outcome qn_matmul_integer(const qn_product *p) {
    int64_t count = 1;
    bool shared = true;
    for (int d = 0; d < p->ndim; d++) {
        count *= p->shape[d];
        shared = shared && (p->shape[d] == 1 || (p->b_step[d] == 0 && p->zb_step[d] == 0));
    }
    if (count == 0 || p->a.rows == 0 || p->b.columns == 0) return QN_DONE;
    stack s = {.product = p};
    qn_packed *packed = NULL;
    if (shared && count > 1 && p->a.rows > THIN_ROWS / 4) { /* from the second product on packing pays */
        packed = qn_pack_right(&p->b, p->zb, p->a.type == QN_I16 || p->b.type == QN_I16 ? 16 : 8, false, NULL);
        if (!packed) return QN_NO_MEMORY;
        s.packed = packed;
    }
    qn_tiling tiling;
    qn_kernels()->matmul_tiling(&tiling);
    int64_t size = p->b.rows * p->b.columns, cost = most(size, size / tiling.macs_a_byte * p->a.rows);
    if (count == 1 || cost > QN_PARALLEL_BYTES_ASLEEP)
        multiply_stack(&s, 0, count); /* one product after the other, each on all threads */
    else qn_parallel_for(count, 1, cost * count, multiply_stack, &s);
    qn_packed_free(packed);
    return (qn_outcome)atomic_load(&s.outcome);
}
