/* NEON with dot products (sdot): four bytes times four, added to an int32. Tiles of 12 x 8; the NEON ISA row has all
 * the rest.
 */
#include "qn_kernels.h"

#if defined(__aarch64__)
QN_TARGET_BEGIN(QN_TARGET_dotprod)
#include <arm_neon.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline))
#define UNROLL QN_PRAGMA(GCC unroll 12)

enum { HEIGHT = 12 };
#include "matmul_neon.h"

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = 1,
                     .kblock = 192,
                     .band_rows = 384,
                     .macs_a_byte = 8,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 16,
                     .dots_rows = 16};
}

static void left_bytes(const qn_left *l) { v_left_bytes(l, false, 128); }

/* `lane` is a constant. */
V_INLINE int32x4_t v_dot(int32x4_t sum, int8x16_t b, int8x16_t a, const int lane) {
    switch (lane) {
    case 0: return vdotq_laneq_s32(sum, b, a, 0);
    case 1: return vdotq_laneq_s32(sum, b, a, 1);
    case 2: return vdotq_laneq_s32(sum, b, a, 2);
    default: return vdotq_laneq_s32(sum, b, a, 3);
    }
}

V_INLINE void v_tile(const qn_tile *t, int64_t row, int64_t column, const int rows) {
    const int64_t sliver = t->quartets * 16;
    const int8_t *a = v_sliver(t, row);
    const uint8_t *b = v_half_panel(t, column);
    const uint8x16_t offset = vdupq_n_u8(0x80);
    int32x4_t sum[HEIGHT][2];
    UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = vdupq_n_s32(0);
    for (int64_t g = 0; g < t->quartets; g++, a += 16, b += QN_QUARTET) {
        int8x16_t right[2], left[HEIGHT / 4];
        if (rows <= QN_SLIVER) __builtin_prefetch(b + 2048);
        for (int h = 0; h < 2; h++) right[h] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(b + 16 * h), offset));
        UNROLL for (int s = 0; s < (rows + 3) / 4; s++) left[s] = vld1q_s8(a + s * sliver);
        UNROLL for (int r = 0; r < rows; r++) for (int h = 0; h < 2; h++) {
            sum[r][h] = v_dot(sum[r][h], right[h], left[r / 4], r % 4);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) for (int h = 0; h < 2; h++) v_put(t, row + r, column + 4 * h, sum[r][h]);
}
QN_WALK(multiply_u8, v_tile)

#define VP_DOT
#include "panel_neon.h"

#include "panel_body.h"

#include "packed_groups_body.h"

const qn_table qn_row_dotprod = {
    .grouped_panels = grouped_panels,
    .multiply_u4 = multiply_u4,
    .multiply_u2 = multiply_u2,
    .right_unpack = right_unpack,
    .matmul_tiling = matmul_tiling,
    .left_bytes = left_bytes,
    .multiply_u8 = multiply_u8,
    .multiply_u7 = multiply_u8,
};
QN_TARGET_END
#endif
