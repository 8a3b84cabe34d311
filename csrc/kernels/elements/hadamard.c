#include "hadamard.h"

#include <math.h>
#include <string.h>

#include "dispatch.h"
#include "source.h"
#include "threads.h"

enum { GRAIN = 4, BYTES_AN_ELEMENT = 16 }; /* ten additions an element cost about as much as 8 bytes of traffic */

typedef struct {
    const qn_source *x;
    const qn_hadamard *h;
    float *y;
} transform;

/* Elements of any layout and type as float32. */
static void gather_row(const qn_source *x, int64_t start, int64_t n, float *y) {
    qn_tile_buffer t;
    for (int64_t at = 0; at < n; at += QN_TILE) {
        int64_t count = n - at < QN_TILE ? n - at : QN_TILE;
        if (x->type == QN_F64) {
            const qn_cast exact = {0};
            qn_kernels()->narrow_f64_f32(qn_source_raw(x, start + at, count, &t), y + at, count, &exact);
        } else {
            const float *from = qn_source_floats(x, start + at, count, &t, y + at);
            if (from != y + at) memcpy(y + at, from, (size_t)count * sizeof *y);
        }
    }
}

static void transform_rows(void *context, int64_t begin, int64_t end) {
    const transform *t = context;
    const qn_hadamard *h = t->h;
    const bool in_place = t->x->direct && t->x->type == QN_F32;
    uint64_t modes = qn_fp_begin();
    for (int64_t row = begin; row < end; row++) {
        float *y = t->y + row * h->size;
        if (in_place) qn_kernels()->hadamard_f32((const float *)t->x->data + row * h->size, y, h);
        else {
            gather_row(t->x, row * h->size, h->size, y);
            qn_kernels()->hadamard_f32(y, y, h);
        }
        for (int64_t i = 0; i < h->size; i++) y[i] = y[i] == y[i] ? y[i] : NAN;
    }
    qn_fp_end(modes);
}

void qn_hadamard_rows(const qn_source *x, int64_t rows, const qn_hadamard *h, float *y) {
    transform t = {x, h, y};
    qn_parallel_for(rows, GRAIN, rows * h->size * BYTES_AN_ELEMENT, transform_rows, &t);
}

bool qn_hadamard_make(const int8_t *signs, int64_t size, int64_t block, float *factors, qn_hadamard *h) {
    const int64_t power = block > 0 ? block & -block : 0, odd = power ? block / power : 0;
    const bool known = odd == 1 || ((odd == 3 || odd == 5) && power >= 4);
    if (!known || block < 2 || size % block) return false;
    const float factor = (float)(1 / sqrt((double)block));
    for (int64_t i = 0; i < size; i++) factors[i] = signs[i] < 0 ? -factor : factor;
    *h = (qn_hadamard){.size = size, .block = block, .order = odd == 1 ? 1 : odd * 4, .factors = factors};
    return true;
}
