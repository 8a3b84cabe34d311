/* Integer products of the NEON ISA row: the packers of the right matrix and the thin products, which higher ISA rows
 * inherit, and tiles of 4 x 8 without dot products. */
#define QN_OWN_TILES

enum { HEIGHT = 4 };
#include "matmul_neon.h"

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = 1,
                     .kblock = 128,
                     .band_rows = 256,
                     .macs_a_byte = 4,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 16,
                     .dots_rows = 16};
}

/* ---- packing ---- */

static void left_bytes(const qn_left *l) { v_left_bytes(l, false, 128); }

static void right_bytes(const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, int64_t panels,
                        uint8_t *packed, int64_t panel_step) {
    for (int64_t p = 0; p < panels; p++)
        for (int64_t g = 0; g < quartets; g++) {
            const uint8_t *from = b + g * 4 * stride + p * QN_PANEL;
            uint8x16x4_t lines;
            for (int k = 0; k < 4; k++) lines.val[k] = veorq_u8(vld1q_u8(from + k * stride), vdupq_n_u8(flip));
            vst4q_u8(packed + p * panel_step + g * QN_QUARTET, lines);
        }
}

static void right_turned(const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, uint8_t *panel) {
    int64_t g = 0;
    for (; g + 4 <= quartets; g += 4)
        for (int j = 0; j < QN_PANEL; j += 4) {
            int32x4_t r[4];
            for (int c = 0; c < 4; c++)
                r[c] = vreinterpretq_s32_u8(veorq_u8(vld1q_u8(b + (j + c) * stride + g * 4), vdupq_n_u8(flip)));
            v_transpose4(r);
            for (int k = 0; k < 4; k++) vst1q_u8(panel + (g + k) * QN_QUARTET + j * 4, vreinterpretq_u8_s32(r[k]));
        }
    for (; g < quartets; g++)
        for (int j = 0; j < QN_PANEL; j++)
            for (int k = 0; k < 4; k++) panel[g * QN_QUARTET + j * 4 + k] = b[j * stride + g * 4 + k] ^ flip;
}

static void right_sums(const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs) {
    for (int j = 0; j < QN_PANEL; j += 4) {
        uint32x4_t added = vreinterpretq_u32_s32(vld1q_s32(sum + j));
        int32x4_t paired = vdupq_n_s32(0);
        for (int64_t g = 0; g < quartets; g++) {
            const uint8x16_t u = vld1q_u8(panel + g * QN_QUARTET + 4 * j);
            const int8x16_t b = vreinterpretq_s8_u8(veorq_u8(u, vdupq_n_u8(0x80)));
            added = vpadalq_u16(added, vpaddlq_u8(u));
            paired = vpadalq_s16(paired, vmull_s8(vget_low_s8(vuzp1q_s8(b, b)), vget_low_s8(vuzp2q_s8(b, b))));
        }
        vst1q_s32(sum + j, vreinterpretq_s32_u32(added));
        vst1q_s32(pairs + j, vsubq_s32(vld1q_s32(pairs + j), paired));
    }
}

/* ---- tiles ---- */

/* A vector holds sums of two columns of bytes (four k each) or of words (two k each). A product of bytes is at most
 * 128 * 128 and fits int16. `rows` and `words` are constants. */
V_INLINE void v_tile(const qn_tile *t, int64_t row, int64_t column, const int rows, const bool words) {
    const int8_t *a = v_sliver(t, row);
    const uint8_t *b = v_half_panel(t, column);
    int32x4_t sum[HEIGHT][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) sum[r][c] = vdupq_n_s32(0);
    for (int64_t g = 0; g < t->quartets; g++, a += 16, b += QN_QUARTET) {
        const uint8x16_t u[2] = {vld1q_u8(b), vld1q_u8(b + 16)};
        __builtin_prefetch(b + 1024);
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < 2; h++) {
                const int32x4_t four = vld1q_dup_s32((const int32_t *)(const void *)(a + 4 * r));
                int32x4_t *s = sum[r] + 2 * h;
                if (words) {
                    const int16x8_t x = vreinterpretq_s16_s32(four), y = vreinterpretq_s16_u8(u[h]);
                    s[0] = vmlal_s16(s[0], vget_low_s16(y), vget_low_s16(x)), s[1] = vmlal_high_s16(s[1], y, x);
                } else {
                    const int8x16_t x = vreinterpretq_s8_s32(four);
                    const int8x16_t y = vreinterpretq_s8_u8(veorq_u8(u[h], vdupq_n_u8(0x80)));
                    s[0] = vpadalq_s16(s[0], vmull_s8(vget_low_s8(y), vget_low_s8(x)));
                    s[1] = vpadalq_s16(s[1], vmull_high_s8(y, x));
                }
            }
    }
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++) v_put(t, row + r, column + 4 * h, vpaddq_s32(sum[r][2 * h], sum[r][2 * h + 1]));
}
V_INLINE void v_bytes_tile(const qn_tile *t, int64_t row, int64_t column, const int rows) {
    v_tile(t, row, column, rows, false);
}
V_INLINE void v_words_tile(const qn_tile *t, int64_t row, int64_t column, const int rows) {
    v_tile(t, row, column, rows, true);
}
#define QN_OWN_U8
QN_WALK(multiply_u8, v_bytes_tile)
QN_WALK(multiply_words, v_words_tile)

static void multiply_u7(const qn_tile *t) { multiply_u8(t); }

/* Not called: the tiling has pairs = false. */
static void left_pairs(const qn_left *l) { left_bytes(l); }
static void multiply_pairs(const qn_tile *t) { multiply_u8(t); }
static void multiply_pairs_wide(const qn_tile *t) { multiply_u8(t); }
static void right_widen(const uint8_t *panel, int64_t quartets, uint16_t *wide) {
    for (int64_t i = 0; i < quartets * QN_QUARTET; i++) wide[i] = panel[i];
}

/* ---- thin products ---- */

#define QN_OWN_THIN

typedef struct {
    int16x8_t low, high;
} v_words;

V_INLINE v_words v_widen(uint8x16_t bytes, const bool is_signed) {
    const int8x16_t b = vreinterpretq_s8_u8(bytes);
    if (is_signed) return (v_words){vmovl_s8(vget_low_s8(b)), vmovl_high_s8(b)};
    return (v_words){vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), vreinterpretq_s16_u16(vmovl_high_u8(bytes))};
}

/* 8 rows of B (with fewer, A has zeros) times `rows` of A; the sums stay in the caches. */
V_INLINE void v_sweep_rows(const qn_thin *t, int64_t k, int row, const int rows, const bool is_signed) {
    const int16_t *a = t->a + row * t->a_step + k;
    const uint8_t *line[8];
    for (int i = 0; i < 8; i++) line[i] = t->b + (k + i < t->k ? k + i : t->k - 1) * t->stride;
    for (int64_t j = 0; j + 16 <= t->columns; j += 16) {
        int32_t *c = t->c + row * t->c_step + j;
        int32x4_t sum[QN_SLIVER][4];
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++) sum[r][i] = vld1q_s32(c + r * t->c_step + 4 * i);
        for (int i = 0; i < 8; i++) {
            const v_words b = v_widen(vld1q_u8(line[i] + j), is_signed);
            for (int r = 0; r < rows; r++) {
                const int16x8_t x = vdupq_n_s16(a[r * t->a_step + i]);
                sum[r][0] = vmlal_s16(sum[r][0], vget_low_s16(b.low), vget_low_s16(x));
                sum[r][1] = vmlal_high_s16(sum[r][1], b.low, x);
                sum[r][2] = vmlal_s16(sum[r][2], vget_low_s16(b.high), vget_low_s16(x));
                sum[r][3] = vmlal_high_s16(sum[r][3], b.high, x);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < 4; i++) vst1q_s32(c + r * t->c_step + 4 * i, sum[r][i]);
    }
}

V_INLINE void v_sweep_all(const qn_thin *t, const bool is_signed) {
    for (int64_t k = 0; k < t->k; k += 8)
        for (int r = 0; r < t->rows; r += QN_SLIVER) switch (t->rows - r) {
            case 1: v_sweep_rows(t, k, r, 1, is_signed); break;
            case 2: v_sweep_rows(t, k, r, 2, is_signed); break;
            case 3: v_sweep_rows(t, k, r, 3, is_signed); break;
            default: v_sweep_rows(t, k, r, 4, is_signed);
            }
}

/* Both return how many columns they multiplied. */
static int64_t v_sweep(const qn_thin *t) {
    if (t->is_signed) v_sweep_all(t, true);
    else v_sweep_all(t, false);
    return t->columns / 16 * 16;
}

/* 4 columns times 1 or 2 rows. */
V_INLINE void v_dots_of(const qn_thin *t, int64_t column, int row, const int rows, const bool is_signed) {
    int32x4_t sum[2][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) sum[r][c] = vdupq_n_s32(0);
    for (int64_t k = 0; k < t->k; k += 16)
        for (int c = 0; c < 4; c++) {
            const uint8_t *b = t->b + (column + c) * t->stride + k;
            uint8_t padded[16] = {0};
            if (k + 16 > t->k) b = memcpy(padded, b, (size_t)(t->k - k));
            const v_words w = v_widen(vld1q_u8(b), is_signed);
            for (int r = 0; r < rows; r++) {
                const int16_t *a = t->a + (row + r) * t->a_step + k;
                const int16x8_t x = vld1q_s16(a), y = vld1q_s16(a + 8);
                sum[r][c] = vmlal_s16(sum[r][c], vget_low_s16(w.low), vget_low_s16(x));
                sum[r][c] = vmlal_high_s16(sum[r][c], w.low, x);
                sum[r][c] = vmlal_s16(sum[r][c], vget_low_s16(w.high), vget_low_s16(y));
                sum[r][c] = vmlal_high_s16(sum[r][c], w.high, y);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) {
            int32_t *to = t->c + (row + r) * t->c_step + column + c;
            *to = (int32_t)((uint32_t)*to + (uint32_t)vaddvq_s32(sum[r][c]));
        }
}

V_INLINE void v_dots_all(const qn_thin *t, const bool is_signed) {
    for (int64_t j = 0; j + 4 <= t->columns; j += 4)
        for (int r = 0; r < t->rows; r += 2) {
            if (t->rows - r == 1) v_dots_of(t, j, r, 1, is_signed);
            else v_dots_of(t, j, r, 2, is_signed);
        }
}

static int64_t v_dots(const qn_thin *t) {
    if (t->is_signed) v_dots_all(t, true);
    else v_dots_all(t, false);
    return t->columns / 4 * 4;
}
