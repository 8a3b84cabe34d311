/* AVX-512 VNNI: vpdpbusd multiplies the stored bytes of B by the signed bytes of A and adds in int32, without
 * saturation (vpdpbusds would saturate). Tiles of 12 x 32. The AVX-512 ISA row has all the rest.
 */
#include "qn_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

QN_TARGET_BEGIN(QN_TARGET_avx512vnni)

#include "matmul_avx512.h"

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = PANELS,
                     .kblock = 192,
                     .band_rows = 384,
                     .finish_rows = ROWS,
                     .macs_a_byte = 16,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 4,
                     .dots_rows = 16};
}

#define ASM_CODES1(at, s0, s1) "vpbroadcastd " at ", %%zmm28\n\tvpdpbusd %%zmm28, %%zmm24, %%" s0 "\n\t"
#define ASM_CODES2(at, s0, s1) ASM_CODES1(at, s0, s1) "vpdpbusd %%zmm28, %%zmm25, %%" s1 "\n\t"
#define ASM_WORDS1(at, s0, s1) "vpbroadcastd " at ", %%zmm28\n\tvpdpwssd %%zmm28, %%zmm24, %%" s0 "\n\t"
#define ASM_WORDS2(at, s0, s1) ASM_WORDS1(at, s0, s1) "vpdpwssd %%zmm28, %%zmm25, %%" s1 "\n\t"
ASM_TILES(v_codes, "4", ASM_LOAD_BYTES, ASM_CODES, "")
ASM_TILES(v_words, "4", ASM_LOAD_BYTES, ASM_WORDS, "")

#define V_INLINE static inline __attribute__((always_inline))
#define V_UNROLL QN_PRAGMA(GCC unroll 8)

/* A few rows times four panels: the hardware prefetcher follows so many streams well, without hints. */
V_INLINE void v_few_rows(const qn_tile *t, const int rows) {
    const char *a = t->left;
    const uint8_t *b = t->right;
    __m512i sum[QN_SLIVER][QN_PANELS];
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int p = 0; p < QN_PANELS; p++) sum[r][p] =
        _mm512_setzero_si512();
    for (int64_t g = 0; g < t->quartets; g++, a += 16, b += QN_QUARTET) {
        int32_t codes[QN_SLIVER];
        memcpy(codes, a, sizeof codes);
        V_UNROLL for (int p = 0; p < QN_PANELS; p++) {
            const __m512i u = _mm512_load_si512(b + p * t->right_step);
            V_UNROLL for (int r = 0; r < rows; r++) sum[r][p] =
                _mm512_dpbusd_epi32(sum[r][p], u, _mm512_set1_epi32(codes[r]));
        }
    }
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int p = 0; p < QN_PANELS; p++) {
        int32_t *c = t->c + r * t->c_step + p * QN_PANEL;
        __m512i start = _mm512_loadu_si512(t->column_start + p * QN_PANEL);
        start = _mm512_add_epi32(start, _mm512_set1_epi32(t->row_start[r]));
        if (t->add) start = _mm512_add_epi32(start, _mm512_loadu_si512(c));
        _mm512_storeu_si512(c, _mm512_add_epi32(sum[r][p], start));
    }
}

static void multiply_u8(const qn_tile *t) {
    if (t->panels == QN_PANELS) switch (t->rows) {
        case 1: v_few_rows(t, 1); return;
        case 2: v_few_rows(t, 2); return;
        case 3: v_few_rows(t, 3); return;
        case 4: v_few_rows(t, 4); return;
        }
    by_tiles(t, v_codes, 4);
}
static void multiply_words(const qn_tile *t) { by_tiles(t, v_words, 4); }

#define VP_VNNI 1
#include "panel_avx512.h"

#include "panel_body.h"

#include "packed_groups_body.h"

#include "matmul_thin_vnni.h"

const qn_table qn_row_avx512vnni = {
    .grouped_panels = grouped_panels,
    .multiply_u4 = multiply_u4,
    .multiply_u2 = multiply_u2,
    .right_unpack = right_unpack,
    .matmul_tiling = matmul_tiling,
    .multiply_u8 = multiply_u8,
    .multiply_u7 = multiply_u8,
    .multiply_words = multiply_words,
    .sweep = sweep,
    .dots = dots,
};
QN_TARGET_END
#endif
