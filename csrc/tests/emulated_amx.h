/* The tile instructions that isa_amx.c uses, after their pseudo-code in Intel's manual; a fault of the CPU ends
 * the test here. Every tile is a thread's own, as the registers are. */
#ifndef QN_EMULATED_AMX_H
#define QN_EMULATED_AMX_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#undef QN_TARGET_amx
#define QN_TARGET_amx "avx2"

typedef struct {
    int rows, bytes; /* as configured */
    uint8_t line[16][64];
} qn_tmm;
static _Thread_local qn_tmm qn_tiles[8];
static _Thread_local bool qn_configured;

static inline void qn_fault_unless(bool good) {
    if (!good) abort();
}
/* The bytes past the end of a line, and the lines below the last, become 0. */
static inline void qn_zero_rest(qn_tmm *t) {
    for (int r = 0; r < 16; r++)
        for (int i = r < t->rows ? t->bytes : 0; i < 64; i++) t->line[r][i] = 0;
}
static inline qn_tmm *qn_tile_of(int i) {
    qn_fault_unless(qn_configured && qn_tiles[i].rows && qn_tiles[i].bytes);
    return &qn_tiles[i];
}

static inline void _tile_loadconfig(const void *memory) {
    const uint8_t *byte = memory;
    qn_fault_unless(byte[0] == 1 && byte[1] == 0); /* palette 1, from the first row on */
    for (int i = 2; i < 16; i++) qn_fault_unless(byte[i] == 0);
    memset(qn_tiles, 0, sizeof qn_tiles);
    for (int i = 0; i < 16; i++) {
        int bytes = byte[16 + 2 * i] | byte[17 + 2 * i] << 8, rows = byte[48 + i];
        qn_fault_unless(i < 8 ? bytes <= 64 && rows <= 16 && !bytes == !rows : !bytes && !rows);
        if (i < 8) qn_tiles[i].bytes = bytes, qn_tiles[i].rows = rows;
    }
    qn_configured = true;
}
static inline void _tile_release(void) {
    memset(qn_tiles, 0, sizeof qn_tiles);
    qn_configured = false;
}
static inline void _tile_zero(int to) { memset(qn_tile_of(to)->line, 0, sizeof qn_tiles[0].line); }
static inline void _tile_loadd(int to, const void *base, int64_t stride) {
    qn_tmm *t = qn_tile_of(to);
    for (int r = 0; r < t->rows; r++) memcpy(t->line[r], (const uint8_t *)base + r * stride, (size_t)t->bytes);
    qn_zero_rest(t);
}
static inline void _tile_stored(int from, void *base, int64_t stride) {
    const qn_tmm *t = qn_tile_of(from);
    for (int r = 0; r < t->rows; r++) memcpy((uint8_t *)base + r * stride, t->line[r], (size_t)t->bytes);
}
static inline void _tile_dpbsud(int to, int first, int second) {
    qn_tmm *c = qn_tile_of(to);
    const qn_tmm *a = qn_tile_of(first), *b = qn_tile_of(second);
    qn_fault_unless(to != first && to != second && first != second);
    qn_fault_unless(a->bytes % 4 == 0 && b->bytes % 4 == 0 && c->bytes % 4 == 0);
    qn_fault_unless(a->rows == c->rows && a->bytes == b->rows * 4 && b->bytes == c->bytes);
    for (int m = 0; m < c->rows; m++)
        for (int k = 0; k < a->bytes / 4; k++)
            for (int n = 0; n < c->bytes / 4; n++) {
                uint32_t sum;
                memcpy(&sum, c->line[m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) sum += (uint32_t)((int8_t)a->line[m][4 * k + i] * b->line[k][4 * n + i]);
                memcpy(c->line[m] + 4 * n, &sum, 4);
            }
    qn_zero_rest(c);
}

#endif
