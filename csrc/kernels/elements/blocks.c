#include "blocks.h"

#include <string.h>

#include "dispatch.h"
#include "packing.h"
#include "source.h"
#include "threads.h"

enum { GRAIN = 512, ONE = 127, NAN_SCALE = 0xFF }; /* codes of E8M0 */

typedef struct {
    const qn_source *x;
    const qn_block_format *format;
    int64_t columns, per_row; /* elements and blocks of a row */
    qn_byte_rows packed;      /* the codes, unless its width has no bits */
    uint8_t *codes, *scales;
} blocks;

static const qn_cast saturating = {.saturate = true};

/* The E8M0 code is the exponent field of the largest magnitude less emax; subnormal magnitudes get the smallest scale.
 * `inverse` receives 1 / S, also a power of two: multiplying by it is exact and cheaper than dividing by S. */
static void power_scales(const float *most, int64_t n, int emax, uint8_t *codes, float *inverse) {
    uint8_t inverse_codes[QN_TILE];
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, most + i, sizeof bits);
        int exponent = (int)(bits >> 23) - emax, code = exponent > 0 ? exponent : 0;
        bool nan = most[i] != most[i];
        codes[i] = (uint8_t)(nan ? NAN_SCALE : code);
        inverse_codes[i] = (uint8_t)(nan ? NAN_SCALE : 2 * ONE - code);
    }
    qn_kernels()->widen_e8m0fnu_f32(inverse_codes, inverse, n, &saturating);
}

static void float_scales(const float *most, int64_t n, const qn_block_format *f, uint8_t *codes, float *scales) {
    float quotients[QN_TILE];
    for (int64_t i = 0; i < n; i++) quotients[i] = most[i] / f->largest / f->tensor_scale;
    qn_kernels()->narrow_f32_e4m3fn(quotients, codes, n, &saturating);
    for (int64_t i = 0; i < n; i++) codes[i] = (uint8_t)(codes[i] ? codes[i] : 1);
    qn_kernels()->widen_e4m3fn_f32(codes, scales, n, &saturating);
    for (int64_t i = 0; i < n; i++) scales[i] *= f->tensor_scale;
}

/* Whole blocks, of which the last may be short: n elements from `start`, at most a tile. */
static void quantize_tile(const blocks *b, int64_t start, int64_t n, int64_t first) {
    const qn_block_format *f = b->format;
    float wide[QN_TILE], most[QN_TILE], scales[QN_TILE], quotient[QN_TILE];
    int64_t count = (n + f->block - 1) / f->block;
    const float *x = qn_floats_at(b->x, start, n, wide);
    qn_kernels()->block_max_f32(x, most, n, f->block);
    const qn_affine p = {.scale = scales, .run = f->block};
    if (f->tensor_scale > 0) {
        float_scales(most, count, f, b->scales + first, scales);
        qn_kernels()->divide_f32(x, quotient, n, &p);
    } else {
        power_scales(most, count, f->emax, b->scales + first, scales);
        qn_kernels()->multiply_f32(x, quotient, n, &p);
    }
    if (b->packed.width.bits) {
        uint8_t codes[QN_TILE];
        qn_narrow(f->element, quotient, codes, n, &saturating);
        qn_pack_span(&b->packed, codes, start, n);
    } else {
        qn_narrow(f->element, quotient, b->codes + start, n, &saturating);
    }
}

static void quantize_piece(void *context, int64_t begin, int64_t end) {
    const blocks *b = context;
    const int64_t block = b->format->block;
    uint64_t modes = qn_fp_begin();
    for (int64_t at = begin; at < end;) {
        int64_t row = at / b->per_row, first = at - row * b->per_row, count = b->per_row - first;
        if (count > end - at) count = end - at;
        if (count > QN_TILE / block) count = QN_TILE / block;
        int64_t n = b->columns - first * block < count * block ? b->columns - first * block : count * block;
        quantize_tile(b, row * b->columns + first * block, n, at);
        at += count;
    }
    qn_fp_end(modes);
}

void qn_quantize_blocks(const qn_source *x, int64_t rows, int64_t columns, const qn_block_format *format,
                        uint8_t *codes, uint8_t *scales) {
    const qn_byte_rows packed = {qn_width_of(format->element), columns, codes};
    if (columns % format->block == 0) columns *= rows, rows = 1; /* no block is short: treat all rows as one */
    blocks b = {x, format, columns, (columns + format->block - 1) / format->block, packed, codes, scales};
    if (rows * columns == 0) return;
    int64_t bytes = rows * columns * (int64_t)(x->itemsize + 1);
    qn_parallel_for(rows * b.per_row, GRAIN, bytes, quantize_piece, &b);
}
