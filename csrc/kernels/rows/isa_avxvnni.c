/* AVX-VNNI: vpdpbusd on 32 bytes, for CPUs that have it without AVX-512. Tiles of 6 x 16; the AVX2 ISA row has all
 * the rest.
 */
#include "qn_kernels.h"

#if defined(__x86_64__)
#ifdef QN_AVXVNNI_HEADER /* the tests compile this file against an emulation */
#include QN_AVXVNNI_HEADER
#else
#include <immintrin.h>
#endif
#include <string.h>

QN_TARGET_BEGIN(QN_TARGET_avxvnni)

#define V_INLINE static inline __attribute__((always_inline))
#define UNROLL QN_PRAGMA(GCC unroll 6)

enum { ROWS = 6 };

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = 1,
                     .kblock = 192,
                     .band_rows = 384,
                     .macs_a_byte = 16,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 4,
                     .dots_rows = 8};
}

/* Rows [row, row + rows). `first` is row % 12, so that the offsets of slivers are constants, as all arguments but t,
 * row and column are. */
V_INLINE void v_tile(const qn_tile *t, int64_t row, int64_t column, const int first, const int rows) {
    const int64_t sliver = t->quartets * 16;
    const char *a = (const char *)t->left + (row - first) / QN_SLIVER * sliver;
    const uint8_t *b = t->right + column / QN_PANEL * t->right_step;
    int32_t *c = t->c + row * t->c_step + column;
    __m256i sum[ROWS][2];
    UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (int64_t g = 0; g < t->quartets; g++, a += 16, b += QN_QUARTET) {
        const __m256i low = _mm256_load_si256((const __m256i *)b), high = _mm256_load_si256((const __m256i *)(b + 32));
        if (rows <= QN_SLIVER) _mm_prefetch((const char *)b + 4096, _MM_HINT_T0);
        UNROLL for (int r = 0; r < rows; r++) {
            int32_t codes;
            memcpy(&codes, a + (first + r) / QN_SLIVER * sliver + (first + r) % QN_SLIVER * 4, sizeof codes);
            const __m256i left = _mm256_set1_epi32(codes);
            sum[r][0] = _mm256_dpbusd_avx_epi32(sum[r][0], low, left);
            sum[r][1] = _mm256_dpbusd_avx_epi32(sum[r][1], high, left);
        }
    }
    UNROLL for (int r = 0; r < rows; r++, c += t->c_step) for (int h = 0; h < 2; h++) {
        const __m256i start = _mm256_loadu_si256((const __m256i *)(t->column_start + column + 8 * h));
        __m256i s = _mm256_add_epi32(sum[r][h], _mm256_add_epi32(start, _mm256_set1_epi32(t->row_start[row + r])));
        if (t->add) s = _mm256_add_epi32(s, _mm256_loadu_si256((const __m256i *)(c + 8 * h)));
        _mm256_storeu_si256((__m256i *)(c + 8 * h), s);
    }
}

V_INLINE void v_rows(const qn_tile *t, int64_t row, int64_t column, const int first) {
    switch (t->rows - row) {
    case 1: v_tile(t, row, column, first, 1); break;
    case 2: v_tile(t, row, column, first, 2); break;
    case 3: v_tile(t, row, column, first, 3); break;
    case 4: v_tile(t, row, column, first, 4); break;
    case 5: v_tile(t, row, column, first, 5); break;
    default: v_tile(t, row, column, first, 6);
    }
}

static void multiply_u8(const qn_tile *t) {
    for (int64_t column = 0; column < t->panels * QN_PANEL; column += QN_PANEL)
        for (int64_t row = 0; row < t->rows; row += ROWS) {
            if (row % (2 * ROWS) == 0) v_rows(t, row, column, 0);
            else v_rows(t, row, column, ROWS);
        }
}

const qn_table qn_row_avxvnni = {
    .matmul_tiling = matmul_tiling, .multiply_u8 = multiply_u8, .multiply_u7 = multiply_u8};
QN_TARGET_END
#endif
