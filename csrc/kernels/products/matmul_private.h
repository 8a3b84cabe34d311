/* What matmul.c (planning, tiles), matmul_pack.c and matmul_raw.c share. The head of matmul.c draws the packed form. */
#ifndef QN_MATMUL_PRIVATE_H
#define QN_MATMUL_PRIVATE_H

#include <string.h>

#include "allocate.h"
#include "excess.h"
#include "matmul.h"

enum { QN_PACK_QUARTETS = 64 }; /* quartets packed at a time: their rows of B stay in the L1 cache and in the TLB */

typedef enum { QN_FULL, QN_NARROW, QN_WORDS } qn_form;

struct qn_packed {
    int64_t k, n, quartets, panels;
    qn_form form;
    qn_type type;
    int bits;          /* of a stored code: 8, or 4 or 2 of a narrow matrix */
    int32_t base, pad; /* code of a stored 0; byte stored beyond k and n */
    int64_t magnitude; /* bound of |b - zb| */
    bool uniform;      /* all columns have the zero point e[0] + base */
    bool lowest;       /* a stored byte may be 0, 128 below the middle */
    qn_excess *excess; /* NULL: quads are slower here, or the ISA row has none */
    bool borrowed;     /* panel is memory of others */
    uint8_t *panel;    /* [panels][quartets][64]; of fewer bits: see panel_body.h */
    int32_t *sum;      /* [panels * 16] sum of u over k */
    int32_t *pairs;    /* [panels * 16] -sum of (u0 - 128)(u1 - 128) over pairs of k */
    int32_t *e;        /* [panels * 16] zb - base */
};

static inline int64_t qn_ks_a_quartet(qn_form f) { return f == QN_WORDS ? 2 : 4; }
/* Of so many quartets of a panel, a multiple of four if codes have 2 bits. */
static inline int64_t qn_quartets_bytes(const qn_packed *b, int64_t quartets) {
    return quartets * QN_QUARTET * b->bits / 8;
}
static inline int64_t qn_panel_bytes(const qn_packed *b) { return qn_quartets_bytes(b, b->quartets); }
/* Of the stored codes. */
static inline uint8_t qn_middle_of(const qn_packed *b) {
    return b->bits < 8 ? (uint8_t)qn_middle(b->bits) : b->form == QN_FULL ? 128 : 64;
}

static inline int32_t qn_code_at(const qn_matrix *m, int64_t row, int64_t column) {
    const char *p = m->data + row * m->row_stride + column * m->column_stride;
    if (m->type == QN_I8) return *(const int8_t *)p;
    if (m->type == QN_U8) return *(const uint8_t *)p;
    uint16_t word;
    memcpy(&word, p, 2);
    return (int16_t)(m->swapped ? __builtin_bswap16(word) : word);
}

typedef struct {
    qn_packed *to;
    const qn_matrix *from;
    uint8_t flip;          /* XOR of the code's byte and the stored one */
    uint8_t less;          /* then subtracted: narrow matrices */
    qn_codes_maker gather; /* computes the matrix, if it is not in memory */
    const void *context;
} qn_packing;

typedef struct {
    int32_t lo, hi;
} qn_extremes;

/* Copies rows x columns codes from (row, column) on into to[rows][step], `pad` past the end of the matrix; words if
 * `wide`. */
void qn_stage(const qn_matrix *m, int64_t row, int64_t column, int64_t rows, int64_t columns, int32_t pad, bool wide,
              void *to, int64_t step);

/* Packs quartets [g, g + quartets) of `panels` panels from p on; `step` bytes from panel to panel. */
void qn_pack_bytes(const qn_packing *w, int64_t p, int panels, int64_t g, int64_t quartets, uint8_t *to, int64_t step);
void qn_sum_panel(const qn_packed *b, const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs);

qn_extremes qn_extremes_of_type(qn_type type);
qn_extremes qn_extremes_of_matrix(const qn_matrix *m);
int64_t qn_magnitude_of(qn_extremes e, qn_zeros z); /* the largest |code - zero| */

/* `weights`: for many products, so that reading all codes beforehand pays. `strips` not NULL: fills it, packs no
 * panels. */
qn_packed *qn_pack_right(const qn_matrix *m, qn_zeros zb, int bits, bool weights, qn_packing *strips);

/* Whether a sum of k products and `extra` may overflow int32; `each` bounds a product. */
bool qn_may_overflow(int64_t largest, int64_t k, int64_t extra);
qn_outcome qn_multiply_safely(const qn_matrix *a, qn_zeros za, const qn_packed *b, const qn_packing *strips,
                              const qn_result *out);

#endif
