#include "conv_reals.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "threads.h"

enum { CODES_A_PIECE = 4096, BYTES_A_CODE = 5, BYTES_A_SUM = 8, CODES_AT_A_TIME = 1 << 18 };

typedef struct {
    const float *x;
    uint8_t *codes;
    qn_qparams params;
    int32_t qmin, qmax;
} image;

static void quantize_piece(void *context, int64_t begin, int64_t end) {
    const image *i = context;
    uint64_t modes = qn_fp_begin();
    qn_affine p = {.scale = &i->params.scale, .zero_point = &i->params.zero_point, .run = end - begin + 1};
    p.qmin = i->qmin, p.qmax = i->qmax;
    p.exact_inverse = i->params.scale >= 0x1p-90f && i->params.scale <= 0x1p90f;
    qn_kernels()->quantize_f32_u8(i->x + begin, i->codes + begin, end - begin, &p);
    qn_fp_end(modes);
}

static void quantize_image(image *i, int64_t n, const qn_real_images *of) {
    i->qmin = of->x ? of->qmin : 0, i->qmax = of->x ? of->qmax : 255;
    if (of->x) {
        i->params = *of->x;
    } else {
        qn_range r = {INFINITY, -INFINITY, 0, 0};
        uint64_t modes = qn_fp_begin();
        qn_kernels()->min_max_f32(i->x, n, &r);
        i->params = qn_qparams_of_range(fmin(r.min, 0.0), fmax(r.max, 0.0), false, 0, 255);
        qn_fp_end(modes);
    }
    qn_parallel_for(n, CODES_A_PIECE, n * BYTES_A_CODE, quantize_piece, i);
}

/* Channels of int32 sums of one or more images, which become float32 in place. */
typedef struct {
    const qn_real_images *r;
    float x_scale;
    int64_t n, outputs; /* n: of a channel */
    float *y;
} finishing;

static void finish_channels(void *context, int64_t begin, int64_t end) {
    const finishing *f = context;
    const qn_real_images *r = f->r;
    uint64_t modes = qn_fp_begin();
    for (int64_t c = begin; c < end; c++) {
        float *y = f->y + c * f->n;
        const int64_t output = c % f->outputs;
        const float scale = f->x_scale * r->scale[output], bias = r->bias ? r->bias[output] : 0;
        for (int64_t i = 0; i < f->n; i++) {
            int32_t sum;
            memcpy(&sum, y + i, sizeof sum);
            const float product = (float)sum * scale, value = r->bias ? product + bias : product;
            y[i] = value < r->lo ? r->lo : value > r->hi ? r->hi : value;
        }
        if (r->gelu) qn_kernels()->gelu_f32(y, y, f->n);
    }
    qn_fp_end(modes);
}

qn_outcome qn_convolve_reals(const float *x, const qn_conv *c, const qn_real_images *r) {
    const int64_t pixels = c->height * c->width, n = c->channels * pixels, each = c->out_height * c->out_width;
    qn_outcome outcome = QN_DONE;
    if (each * c->outputs == 0) return outcome;
    /* Images of one scale are convolved together: small ones, since each product packs the filters. */
    const int64_t together = r->x && n < CODES_AT_A_TIME / 2 ? CODES_AT_A_TIME / (n ? n : 1) : 1;
    const int64_t most = together < c->images ? together : c->images;
    uint8_t *codes = malloc((size_t)(most * n) + 1);
    if (!codes) return QN_NO_MEMORY;
    for (int64_t i = 0; i < c->images && outcome == QN_DONE; i += most) {
        const int64_t images = c->images - i < most ? c->images - i : most, channels = images * c->outputs;
        image one = {.x = x + i * n, .codes = codes};
        quantize_image(&one, images * n, r);
        qn_conv k = *c;
        k.x = (const char *)codes, k.x_type = QN_U8, k.x_bytes = images * n, k.images = images;
        k.x_zero = one.params.zero_point;
        k.x_step[0] = n, k.x_step[1] = pixels, k.x_step[2] = c->width, k.x_step[3] = 1;
        k.y = r->y + i * each * c->outputs, k.type = QN_I32;
        outcome = qn_convolve(&k);
        finishing f = {r, one.params.scale, each, c->outputs, k.y};
        if (outcome == QN_DONE) qn_parallel_for(channels, 1, each * channels * BYTES_A_SUM, finish_channels, &f);
    }
    free(codes);
    return outcome;
}
