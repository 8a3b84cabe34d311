/* AMX-INT8: tdpbsud multiplies 16 rows x 64 k by 64 k x 16 columns, signed by unsigned bytes, into 16 x 16 int32.
 * Sixteen quartets of a panel are such a tile without packing. Tiles of 32 x 32; the AVX-512 VNNI ISA row has all the
 * rest.
 *
 * It has run only under csrc/tests/emulated_amx.h, never on a CPU; so cpu.c reports it only if QNUMPY_ISA names it.
 */
#include "qn_kernels.h"

#if defined(__x86_64__)
#ifdef QN_AMX_HEADER /* the tests compile this file against an emulation */
#include QN_AMX_HEADER
#else
#include <immintrin.h>
#endif
#include <string.h>

QN_TARGET_BEGIN(QN_TARGET_amx)

enum { HIGH = 16, DEEP = 16, LINE = 64, PANELS = 2 }; /* rows and quartets of a tile, bytes of its rows */

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = PANELS,
                     .kblock = 192,
                     .band_rows = 384,
                     .macs_a_byte = 64,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 4,
                     .dots_rows = 16};
}

/* Packs int8, row after row and not in slivers; zeros past the end. */
static void left_bytes(const qn_left *l) {
    const int64_t line = l->quartets * 4;
    const int32_t offset = l->is_signed ? 0 : 128;
    for (int64_t i = 0; i < l->rows; i++) {
        const uint8_t *a = (const uint8_t *)l->a + i * l->stride;
        int8_t *to = (int8_t *)l->packed + i * line;
        int32_t sum = 0;
        for (int64_t k = 0; k < l->k; k++) to[k] = (int8_t)(a[k] ^ offset), sum += to[k];
        memset(to + l->k, 0, (size_t)(line - l->k));
        l->start[i] = 0;
        l->sum[i] = sum - (int32_t)l->k * (l->zero[i * l->zero_step] - offset);
    }
}

/* A barrier: GCC 12 does not model the memory that the intrinsics read. */
static inline void settle(void) { __asm__ volatile("" ::: "memory"); }

/* tmm0 and 1 hold the sums of the upper rows, 2 and 3 those of the lower ones, 4 and 5 these rows of A, 6 and 7 the
 * panels. All have rows of 64 bytes; the last k use padded copies. */
static void configure(int64_t upper, int64_t lower) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++)
        config.bytes[i] = LINE, config.rows[i] = (uint8_t)(i < 2 || i == 4 ? upper : i < 6 ? lower : DEEP);
    settle();
    _tile_loadconfig(&config);
}

/* Multiplies 16 quartets. */
static void multiply_quartets(const void *left, int64_t line, bool two, const uint8_t *right, int64_t panel,
                              int panels) {
    _tile_loadd(4, left, line);
    _tile_loadd(6, right, LINE);
    _tile_dpbsud(0, 4, 6);
    if (panels > 1) {
        _tile_loadd(7, right + panel, LINE);
        _tile_dpbsud(1, 4, 7);
    }
    if (!two) return;
    _tile_loadd(5, (const int8_t *)left + HIGH * line, line);
    _tile_dpbsud(2, 5, 6);
    if (panels > 1) _tile_dpbsud(3, 5, 7);
}

static void multiply_panels(const qn_tile *t) {
    const int64_t line = t->quartets * 4, whole = t->quartets / DEEP * DEEP, rest = (t->quartets - whole) * 4;
    _Alignas(LINE) uint8_t right[PANELS][DEEP * LINE] = {{0}};
    _Alignas(LINE) int8_t left[2 * HIGH][LINE] = {{0}};
    _Alignas(LINE) int32_t sums[2 * HIGH][PANELS * QN_PANEL];
    for (int p = 0; p < t->panels; p++)
        memcpy(right[p], t->right + p * t->right_step + whole * QN_QUARTET, (size_t)(rest * QN_PANEL));
    for (int64_t row = 0, rows; row < t->rows; row += rows) {
        rows = t->rows - row < 2 * HIGH ? t->rows - row : 2 * HIGH;
        const int8_t *a = (const int8_t *)t->left + row * line;
        const bool two = rows > HIGH;
        if (row == 0 || rows < 2 * HIGH) configure(two ? HIGH : rows, two ? rows - HIGH : HIGH);
        for (int64_t r = 0; r < rows; r++) memcpy(left[r], a + r * line + whole * 4, (size_t)rest);
        settle();
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t g = 0; g < whole; g += DEEP)
            multiply_quartets(a + g * 4, line, two, t->right + g * QN_QUARTET, t->right_step, t->panels);
        if (rest) multiply_quartets(left, LINE, two, right[0], DEEP * LINE, t->panels);
        _tile_stored(0, sums[0], sizeof sums[0]);
        _tile_stored(1, sums[0] + QN_PANEL, sizeof sums[0]);
        if (two) {
            _tile_stored(2, sums[HIGH], sizeof sums[0]);
            _tile_stored(3, sums[HIGH] + QN_PANEL, sizeof sums[0]);
        }
        for (int64_t r = 0; r < rows; r++) {
            int32_t *c = t->c + (row + r) * t->c_step;
            const uint32_t start = (uint32_t)t->row_start[row + r];
            for (int j = 0; j < t->panels * QN_PANEL; j++)
                c[j] = (int32_t)((uint32_t)sums[r][j] + start + (uint32_t)t->column_start[j] +
                                 (t->add ? (uint32_t)c[j] : 0u));
        }
    }
    _tile_release();
}

static void multiply_u8(const qn_tile *t) {
    for (int p = 0; p < t->panels; p += PANELS) {
        qn_tile tile = *t;
        tile.panels = t->panels - p < PANELS ? t->panels - p : PANELS;
        tile.right += p * t->right_step, tile.c += p * QN_PANEL, tile.column_start += p * QN_PANEL;
        multiply_panels(&tile);
    }
}

const qn_table qn_row_amx = {
    .matmul_tiling = matmul_tiling, .left_bytes = left_bytes, .multiply_u8 = multiply_u8, .multiply_u7 = multiply_u8};
QN_TARGET_END
#endif
