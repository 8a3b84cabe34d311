/* NEON with products of matrices of bytes (usmmla): 2 columns x 8 unsigned bytes times 8 signed bytes x 2 rows, added
 * to 2 x 2 int32. Tiles of 8 x 8; the dotprod ISA row has all the rest. */
#include "qn_kernels.h"

#if defined(__aarch64__)
QN_TARGET_BEGIN(QN_TARGET_i8mm)
#include <arm_neon.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline))
#define UNROLL QN_PRAGMA(GCC unroll 4)

enum { HEIGHT = 8 };
#include "matmul_neon.h"

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = 1,
                     .kblock = 192,
                     .band_rows = 384,
                     .macs_a_byte = 16,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 16,
                     .dots_rows = 16};
}

static void left_bytes(const qn_left *l) { v_left_bytes(l, true, 0); }

/* Two quartets at a time: the zip brings four k of a column and the next four together. */
V_INLINE void v_tile(const qn_tile *t, int64_t row, int64_t column, const int rows) {
    const int64_t sliver = t->quartets * 16;
    const int8_t *a = v_sliver(t, row);
    const uint8_t *b = v_half_panel(t, column);
    int32x4_t sum[HEIGHT / 2][4]; /* [rows / 2][columns / 2], in each (column 0, row 0), (0, 1), (1, 0), (1, 1) */
    UNROLL for (int r = 0; r < rows / 2; r++) for (int c = 0; c < 4; c++) sum[r][c] = vdupq_n_s32(0);
    for (int64_t g = 0; g < t->quartets; g += 2, a += 32, b += 2 * QN_QUARTET) {
        uint8x16_t right[4];
        if (rows <= QN_SLIVER) __builtin_prefetch(b + 2048), __builtin_prefetch(b + 2048 + QN_QUARTET);
        for (int h = 0; h < 2; h++) {
            const uint32x4_t first = vreinterpretq_u32_u8(vld1q_u8(b + 16 * h));
            const uint32x4_t next = vreinterpretq_u32_u8(vld1q_u8(b + QN_QUARTET + 16 * h));
            right[2 * h] = vreinterpretq_u8_u32(vzip1q_u32(first, next));
            right[2 * h + 1] = vreinterpretq_u8_u32(vzip2q_u32(first, next));
        }
        UNROLL for (int r = 0; r < rows / 2; r++) {
            const int8x16_t left = vld1q_s8(a + r / 2 * sliver + r % 2 * 16);
            for (int c = 0; c < 4; c++) sum[r][c] = vusmmlaq_s32(sum[r][c], right[c], left);
        }
    }
    UNROLL for (int r = 0; r < rows / 2; r++) for (int h = 0; h < 2; h++) {
        v_put(t, row + 2 * r, column + 4 * h, vuzp1q_s32(sum[r][2 * h], sum[r][2 * h + 1]));
        v_put(t, row + 2 * r + 1, column + 4 * h, vuzp2q_s32(sum[r][2 * h], sum[r][2 * h + 1]));
    }
}
QN_WALK(multiply_u8, v_tile)

const qn_table qn_row_i8mm = {
    .matmul_tiling = matmul_tiling, .left_bytes = left_bytes, .multiply_u8 = multiply_u8, .multiply_u7 = multiply_u8};
QN_TARGET_END
#endif
