/* Layouts and parameter structs that kernels, their callers and the bindings share. */
#ifndef QN_TYPES_H
#define QN_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "code_list.h"
#include "float_list.h"

/* Element types as the bindings name them. The floats come first; codes follow, from QN_I8. */
typedef enum {
#define QN_TYPE(C, tag, NAME, name, bits, exponent, mantissa, bias, kind) QN_##NAME,
    QN_FLOATS(QN_TYPE, _)
#undef QN_TYPE
#define QN_TYPE(C, tag, NAME, name, type, bits, is_signed, storage) QN_##NAME,
        QN_INTEGERS(QN_TYPE, _)
#undef QN_TYPE
            QN_TYPE_COUNT
} qn_type;

/* Which rounding a quantize follows; docs/semantics.md states the formulas. */
typedef enum { QN_ONNX, QN_GUIDE, QN_TORCH, QN_TFLITE, QN_CONVENTION_COUNT } qn_convention;

typedef enum { QN_FLOAT, QN_FIXED, QN_FIXED_DOUBLE, QN_METHOD_COUNT } qn_method;

/* Parameters of one span of contiguous elements.
 *
 * run > 0   element i uses parameter (phase + i) / run: one scale for each run of elements
 * run == 0  element i uses parameter i: one scale for each element (per channel on the last axis). `rows` rows of n
 *           elements each, `stride` elements apart in input and output, use the same parameters; if they are streamed,
 *           all rows of the output have the same alignment
 */
typedef struct {
    const float *scale;        /* [params] S, or the multiplier M of requantize */
    const int32_t *zero_point; /* [params] Z */
    const int32_t *multiplier; /* [params] requantize_fixed: M = multiplier * 2^-shift */
    const int32_t *shift;      /* [params] 1..62 */
    int64_t run, phase;
    int64_t rows, stride; /* read only when run == 0; at least one row */
    int64_t ahead;        /* prefetch distance in elements, to the next read of the caller */
    int32_t qmin, qmax;   /* codes saturate here */
    qn_convention convention;
    qn_method method;
    bool exact_inverse; /* run > 0: the fused form rounds as the division: 8-bit codes and 2^-90 <= S <= 2^90 */
    bool stream;        /* bypass the caches */
} qn_affine;

enum {
    QN_BOUND = 1 << 10,       /* exceeds |code - zero point| of all 8-bit types */
    QN_COLUMNS = 64,          /* columns of a strip: a cache line of 8-bit codes */
    QN_WIDEST_CODE = 1 << 18, /* the clamp before the conversion to int32: beyond any code */
};

/* 1/S - i for i = 1/S rounded to float32. The remainder 1 - i S is a float32, and exact here: i S has 48 bits. */
static inline float qn_low(float scale, float inverse) {
    return (float)(1.0 - (double)inverse * (double)scale) / scale;
}

/* How a span of reals is cast. */
typedef struct {
    uint64_t seed; /* of stochastic rounding: the random bits belong to (seed, index) */
    int64_t index; /* of the first element, in C order */
    bool saturate; /* numbers beyond the largest one, and infinities, become the largest one */
    bool stochastic;
    bool stream; /* bypass the caches */
} qn_cast;

/* Products of rows with Hadamard matrices, block by block. */
typedef struct {
    int64_t size;         /* of a row: whole blocks */
    int64_t block;        /* order 2^k */
    int64_t order;        /* 1, 12 or 20 */
    const float *factors; /* [size]: 1 / sqrt(block) with a sign */
    bool inverse;         /* the factors multiply the result, else x */
} qn_hadamard;

#define QN_GELU_END 5.65685f /* beyond it erf(x / sqrt(2)) rounds to 1 or -1 */

/* A row of LayerNormalization of x + residual. */
typedef struct {
    const float *x, *residual, *gamma, *beta; /* [n]; beta may be NULL */
    float epsilon;
    int64_t n;  /* at least 1 */
    float *sum; /* [n] x + residual; may be y */
    float *y;   /* [n] */
} qn_norm;

/* Running minimum, maximum and counts. Empty: +inf, -inf, 0, 0. */
typedef struct {
    double min, max;
    int64_t nan, infinite;
} qn_range;

/* Sums over x and its approximation y, in float64. All 0 when empty. */
typedef struct {
    double signal, energy, dot, noise, peak; /* x^2, y^2, x y, (x - y)^2; the largest |x - y| */
} qn_error;

/* Sums over elements with one parameter: g times (step - x / S) where the code lies inside [qmin, qmax], and g where it
 * lies below or above. All 0 when empty. */
typedef struct {
    double error, below, above;
} qn_gradient;

/* Where a float type ends: the smallest magnitude that overflows it, and its smallest normal number. */
typedef struct {
    double overflow;
    float overflow_f32; /* of float32 */
    float normal;
} qn_float_limits;

/* Counts of the numbers that a conversion to a float type changes, and its errors. Empty: least is infinity, the rest
 * 0. */
typedef struct {
    uint64_t nan, infinite, overflow, zero, subnormal, kept; /* zero: nonzero numbers that become 0; kept: the rest */
    uint64_t relative;                                       /* |x - y| / |x| of the kept, summed in units of 2^-30 */
    double worst, peak, least; /* the largest of these; the largest and the smallest nonzero finite |x| */
} qn_float_error;

/* Every granularity: a C-contiguous array seen as [outer][channels][inner].
 * group == 0  one parameter for each channel:                [channels]
 * group > 0   channels are cut into groups, the last may be short: [outer][ceil(channels / group)][inner]
 * Per tensor is (1, 1, n), group 0; per group on the last axis is (rows, columns, 1), group = group_size.
 */
typedef struct {
    int64_t outer, channels, inner, group;
} qn_grid;

/* Rows of planes of an image: to[p * plane + t * line + c] is code c of row `row` + t * gap of plane p less the zero
 * point, 0 in rows outside the image. */
typedef struct {
    const uint8_t *x;               /* code 0 of row 0 of plane 0: int8 or uint8 */
    int64_t x_plane, x_row, x_step; /* bytes from plane to plane, row to row, code to code */
    int64_t room;                   /* bytes that the kernel may read from x on; 0: only the codes */
    bool is_signed;
    int32_t zero_point;
    int64_t planes, height, row, gap, lines, n;
    int16_t *to; /* [planes][lines][n]; up to QN_REACH - 1 elements after each n may become 0 */
    int64_t plane, line;
} qn_wide_rows;

/* y[m][r][c] = start[m] + sum over t of x'[tap[t]] w[m][t][0] + x'[tap[t] + 1] w[m][t][1],
 *   x' = x + m / outputs * x_step + r * line + c * step.
 * With step 1 an odd c uses x'[tap[t] - 1] w[m][t][2] + x'[tap[t]] w[m][t][3] instead. An odd line makes the same c
 * even in one row and odd in the next: then both formulas must give the same sum. */
typedef struct {
    const int16_t *x; /* the kernel may read 2 * QN_RESULTS elements past the last tap */
    int64_t x_step, line;
    int step;           /* 1 or 2, and line a multiple */
    const int16_t *w;   /* [inputs][outputs][taps][4] */
    const int64_t *tap; /* [taps] */
    int64_t taps, inputs, outputs, rows, n;
    const int32_t *start; /* [inputs][outputs]; NULL: 0 */
    qn_type type;         /* QN_I32, or the codes saturate(rne((float)y[m] * scale[m]) + Z) to [qmin, qmax] */
    const float *scale;   /* [inputs][outputs] */
    int32_t zero_point, qmin, qmax;
    void *flat; /* [(rows - 1) * line / step + n + QN_RESULTS] of the type, scratch */
    void *y;    /* [inputs][outputs][rows][n], y_step from output to output */
    int64_t y_step;
} qn_dot_rows;

enum {
    QN_REACH = 16,   /* elements that a vector may reach past the end of a row */
    QN_RESULTS = 64, /* results that dot_rows sums at a time, at most */
};

/* A packed weight [k][n] in groups; packed_groups.h describes the bytes. */
typedef struct {
    int64_t k, n;
    int bits;       /* of a code: 8, 4 or 2 */
    int64_t group;  /* 16, 32, 64 or 128 neighbours along k share a scale */
    int64_t groups; /* ceil(k / group) */
    int64_t record; /* bytes of a group of 16 columns */
    bool half;      /* scales are float16, else float32 */
    bool zeros;     /* every group stores zero points; else all are qn_middle(bits) */
} qn_grouped;

static inline int qn_middle(int bits) { return 1 << (bits - 1); } /* of the codes 0..2^bits - 1: 0 of a signed type */

/* Rows of activations for a weight in groups: int8 codes, 0 past k. */
typedef struct {
    const int8_t *codes;        /* [rows][stride], stride = groups * group */
    const float *scales;        /* of row i and group g: scales[i * scale_row + g * scale_step] */
    const int32_t *minus_zeros; /* [rows][groups] like scales: negated zero points, -127..128; NULL: all are 0 */
    const int32_t *minus_sums;  /* [rows][groups] -sum (code - zero point) over the k of the group */
    int64_t rows, stride, groups, scale_row, scale_step;
} qn_grouped_rows;

/* How codes narrower than a byte lie in rows of bytes, the first code in the low bits; each row begins with a byte. */
typedef struct {
    int bits; /* of a code; 0: a code is an element */
    void (*pack)(const uint8_t *codes, uint8_t *bytes, int64_t n);
    void (*unpack)(const uint8_t *bytes, uint8_t *codes, int64_t n);
    void (*unpack_bits)(const uint8_t *bytes, uint8_t *codes, int64_t n); /* without signs, which kernels do not read */
} qn_width;

/* A packed weight of narrow floats or of codes with tables of levels, [k][n]; packed_float.h describes the bytes. */
typedef struct {
    int64_t k, n;
    int64_t group;   /* neighbours along k that share a scale; the last group may be short */
    int64_t groups;  /* ceil(k / group) */
    qn_type element; /* a float of 8, 6 or 4 bits; QN_U8 or QN_U4: codes of levels, scales are then float32 */
    int bits;        /* of a code */
    int32_t levels;  /* of a table; 0: floats */
    bool shared;     /* all columns have one table */
    qn_type scale;   /* QN_F32, QN_E8M0FNU, or QN_E4M3FN times tensor_scale */
    float tensor_scale;
    bool plain;     /* no code is infinite, and no scale too large for multiply_float_row */
    int64_t codes;  /* bytes of the codes of a panel */
    int64_t tables; /* bytes before the tables of a panel */
    int64_t width;  /* bytes of a panel */
} qn_float_weight;

enum { QN_UNIT = 8 }; /* neighbours along k whose codes lie together */

/* Rows of x times panels of float32. */
typedef struct {
    const float *x;                /* an output of float_rows for `rows` rows of k elements */
    int64_t k, first, depth, rows; /* elements [first, first + depth) of each row */
    const float *w;                /* [panels][w_step], of which [depth][16] */
    int64_t w_step, panels;
    float *y; /* [rows][y_step], of which [panels * 16] */
    int64_t y_step;
} qn_float_tile;

enum { QN_MAX_DIMS = 64 };

/* An input array of any strides, alignment and byte order. Elements are numbered in C order. */
typedef struct {
    const char *data;
    qn_type type;
    size_t itemsize;
    int ndim;
    int64_t shape[QN_MAX_DIMS], strides[QN_MAX_DIMS]; /* strides in bytes */
    bool direct;                                      /* C-contiguous, aligned, native byte order: read in place */
    bool swapped;                                     /* the other byte order */
    qn_width width; /* of packed codes: then shape counts codes, and a row along the last axis lies in bytes */
    bool no_gaps;   /* packed rows follow each other */
} qn_source;

/* ---- integer products; the head of matmul.c draws the packed matrices ---- */

enum {
    QN_PANEL = 16,   /* columns of a panel of the right matrix */
    QN_SLIVER = 4,   /* rows of a sliver of the left matrix */
    QN_QUARTET = 64, /* bytes of a quartet of every column of a panel: 4 bytes each, which are 4 codes or 2 words */
    QN_PANELS = 4,   /* panels side by side in a tile, at most */
    QN_QUADS = 3 * QN_QUARTET, /* bytes that multiply_quads reads in place of two quartets */
    QN_BAND = 32,              /* rows of the left matrix that lie side by side for add_excess */
};

/* The tiles and routes that the driver takes with an ISA row. */
typedef struct {
    bool pairs;          /* full-range 8-bit products use multiply_pairs, else multiply_u8 */
    bool parts;          /* products of one row use multiply_parts */
    bool quads;          /* products of many rows use multiply_quads if the weights allow it; a tile has one panel */
    int panels;          /* panels side by side in a tile */
    int64_t kblock;      /* quartets of a kblock: its panels stay in the L1 cache */
    int64_t band_rows;   /* rows of the left matrix packed at a time: they fill half of the L2 cache */
    int64_t finish_rows; /* rows multiplied before the output stage runs, if all of k is one kblock; 0: 48 */
    bool finishes;       /* multiply_pairs*, _u7 and _quads run the output stage qn_tile.finish */
    int64_t macs_a_byte; /* products in the time of a byte of memory traffic; decides how many threads pay */
    int64_t widen_rows;  /* from so many rows on each panel is widened once (multiply_pairs_wide) or made quads */
    int64_t sweep_rows;  /* up to so many rows, at most 16, use sweep: the right matrix is not packed */
    int64_t dots_rows;   /* the same of dots */
} qn_tiling;

/* Rows of the left matrix to be packed into slivers of four rows. Rows past the end repeat the last one. */
typedef struct {
    const void *a;       /* [rows][k] codes, or words of the 16-bit products */
    int64_t stride;      /* bytes from row to row */
    bool is_signed;      /* int8, else uint8 */
    const int32_t *zero; /* zero point of row i: zero[i * zero_step] */
    int64_t zero_step;
    uint8_t center;            /* left_quads: 128, or 64 where codes span 128 values */
    int64_t rows, k, quartets; /* k padded to quartets */
    void *packed;              /* [ceil(rows / 4)][quartets][4 rows][8 or 4 bytes], 64-byte aligned */
    int32_t *start;            /* [rows rounded up to 4] to be added to the kernel's sums: 0 unless packed as pairs */
    int32_t *sum;              /* [rows rounded up to 4] sum of a - zero */
} qn_left;

/* The output stage of rows x columns finished sums. */
typedef struct {
    const int32_t *acc;
    int64_t acc_step;
    int64_t rows, columns;
    void *out;
    int64_t out_step;                      /* elements */
    const float *row_scale, *column_scale; /* [rows], [columns] */
    int64_t row_scale_step;                /* 0: one for all */
    const float *bias;                     /* [columns] or NULL */
    float lo, hi;                          /* bounds of float32 results */
    int32_t zero_point, qmin, qmax;
} qn_finish;

/* A tile: rows x panels of 16 columns. */
typedef struct {
    const void *left;     /* packed slivers, one after the other; the kernel may read 8 bytes past them */
    const uint8_t *right; /* quartets of the first panel */
    int64_t right_step;   /* bytes from panel to panel */
    int64_t quartets;     /* even */
    int64_t rows;
    int panels;
    int32_t *c;
    int64_t c_step;                          /* elements from row to row */
    const int32_t *row_start, *column_start; /* [rows], [16 * panels] */
    const int32_t *more;                     /* multiply_quads: NULL, or [rows][16] to be added, 64-byte aligned */
    bool add;                                /* to c, else overwrite it */
    const qn_finish *finish; /* NULL: store the sums in c; else run this stage and store float32 in finish->out */
} qn_tile;

/* The excess of two codes of one column (excess.h); k counts from the first k of the kblock. */
typedef struct {
    uint16_t k[2];
    int8_t excess[2]; /* of one sign |sum| <= 128; the second may be 0 */
} qn_excess_pair;

/* Entries of the excess of one panel and kblock: magnitudes of at most 255 a column, so that its sums fit int16. */
typedef struct {
    uint32_t first; /* index of the first pair of column[0]; those of column[1], ... follow */
    uint8_t column[QN_PANEL], count[QN_PANEL]; /* columns sorted by count */
    int16_t sum[QN_PANEL];                     /* sum of the excess of each column */
} qn_excess_pass;

typedef struct {
    const uint8_t *turned; /* [k][step] transpose of an output of left_quads */
    int64_t step;
    int bands; /* 1, 2 or 3 */
    uint8_t center;
    bool add; /* to sums, else overwrite them */
    const qn_excess_pass *pass;
    const qn_excess_pair *pairs; /* of column[0] */
    int32_t *sums;               /* [32 * bands][16], 64-byte aligned */
} qn_excess_tile;

/* A few rows times a raw right matrix: c[rows][columns] += a b. */
typedef struct {
    const int16_t *a; /* [rows][k] codes less their zero points, k padded with zeros to a multiple of 16 */
    int64_t a_step;   /* elements from row to row */
    int rows;
    const uint8_t *b; /* [k][columns] in sweep, [columns][k] in dots */
    int64_t stride;   /* bytes from line to line of b */
    bool is_signed;   /* int8, else uint8 */
    int64_t k, columns;
    int32_t *c;
    int64_t c_step;
} qn_thin;

#endif
