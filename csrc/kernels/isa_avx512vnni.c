/* AVX-512 VNNI: vpdpbusd multiplies the stored bytes of B by the signed bytes of A and adds in int32, without saturation
 * (vpdpbusds, its saturating sister, is not used). Tiles of 12 x 32. Everything else is the AVX-512 row's. */
#include "qn_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define QN_PRAGMA(text) _Pragma(#text)
#define QN_TARGET_PRAGMA(isa) QN_PRAGMA(GCC target(isa))
#pragma GCC push_options
QN_TARGET_PRAGMA(QN_TARGET_avx512vnni)

enum { ROWS = 12, PANELS = 2 };

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = PANELS,
                     .block = 192,
                     .block_rows = 384,
                     .macs_a_byte = 16,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 4,
                     .dots_rows = 16};
}

/* In assembly, because GCC 12 stores every sum in every turn of the loop: zmm0-23 hold the tile, 24 and 25 the panels, 26
 * the codes of a row. */
#define ASM_ROW1(OP, at, s0, s1) "vpbroadcastd " at ", %%zmm26\n\t" OP " %%zmm26, %%zmm24, %%" s0 "\n\t"
#define ASM_ROW2(OP, at, s0, s1) ASM_ROW1(OP, at, s0, s1) OP " %%zmm26, %%zmm25, %%" s1 "\n\t"
#define ASM_LOAD1 "vmovdqa64 (%[b]), %%zmm24\n\t"
#define ASM_LOAD2 ASM_LOAD1 "vmovdqa64 (%[b],%[panel]), %%zmm25\n\t"
#define ASM_AHEAD1 "prefetcht0 2048(%[b])\n\t"
#define ASM_AHEAD2 ASM_AHEAD1 "prefetcht0 2048(%[b],%[panel])\n\t"
#define ASM_CLEAR(OP, at, s0, s1) "vpxord %%" s0 ", %%" s0 ", %%" s0 "\n\tvpxord %%" s1 ", %%" s1 ", %%" s1 "\n\t"
/* The start values, what is in C where k1 says so, and the store. */
#define ASM_STORE1(OP, at, s0, s1)                                                                                     \
    "vpbroadcastd (%[rows]), %%zmm26\n\tadd $4, %[rows]\n\t"                                                           \
    "vpaddd %%zmm26, %%" s0 ", %%" s0 "\n\tvpaddd %%zmm24, %%" s0 ", %%" s0 "\n\t"                                     \
    "vpaddd (%[c]), %%" s0 ", %%" s0 "%{%%k1%}\n\tvmovdqu32 %%" s0 ", (%[c])\n\t" ASM_NEXT1
#define ASM_NEXT1 "add %[step], %[c]\n\t"
#define ASM_STORE2(OP, at, s0, s1)                                                                                     \
    "vpaddd 64(%[c]), %%" s1 ", %%" s1 "%{%%k1%}\n\t"                                                                  \
    "vpbroadcastd (%[rows]), %%zmm26\n\tvpaddd %%zmm26, %%" s1 ", %%" s1 "\n\t"                                        \
    "vpaddd %%zmm25, %%" s1 ", %%" s1 "\n\tvmovdqu32 %%" s1 ", 64(%[c])\n\t" ASM_STORE1(OP, at, s0, s1)
#define ASM_ROWS1(F, OP) F(OP, "(%[a])", "zmm0", "zmm1")
#define ASM_ROWS2(F, OP) ASM_ROWS1(F, OP) F(OP, "4(%[a])", "zmm2", "zmm3")
#define ASM_ROWS3(F, OP) ASM_ROWS2(F, OP) F(OP, "8(%[a])", "zmm4", "zmm5")
#define ASM_ROWS4(F, OP) ASM_ROWS3(F, OP) F(OP, "12(%[a])", "zmm6", "zmm7")
#define ASM_ROWS5(F, OP) ASM_ROWS4(F, OP) F(OP, "(%[a],%[sliver])", "zmm8", "zmm9")
#define ASM_ROWS6(F, OP) ASM_ROWS5(F, OP) F(OP, "4(%[a],%[sliver])", "zmm10", "zmm11")
#define ASM_ROWS7(F, OP) ASM_ROWS6(F, OP) F(OP, "8(%[a],%[sliver])", "zmm12", "zmm13")
#define ASM_ROWS8(F, OP) ASM_ROWS7(F, OP) F(OP, "12(%[a],%[sliver])", "zmm14", "zmm15")
#define ASM_ROWS9(F, OP) ASM_ROWS8(F, OP) F(OP, "(%[a],%[sliver],2)", "zmm16", "zmm17")
#define ASM_ROWS10(F, OP) ASM_ROWS9(F, OP) F(OP, "4(%[a],%[sliver],2)", "zmm18", "zmm19")
#define ASM_ROWS11(F, OP) ASM_ROWS10(F, OP) F(OP, "8(%[a],%[sliver],2)", "zmm20", "zmm21")
#define ASM_ROWS12(F, OP) ASM_ROWS11(F, OP) F(OP, "12(%[a],%[sliver],2)", "zmm22", "zmm23")

typedef struct {
    const void *a, *b;
    int64_t sliver, panel, groups; /* bytes from sliver to sliver, from panel to panel */
    int32_t *c;
    int64_t step; /* bytes */
    const int32_t *row_start, *column_start;
    uint32_t add; /* mask of lanes */
} asm_tile;
typedef void (*asm_function)(const asm_tile *t);

#define ASM_TILE(name, R, P, OP, AHEAD)                                                                                \
    static void name##R(const asm_tile *t) {                                                                           \
        const void *a = t->a, *b = t->b;                                                                               \
        int64_t n = t->groups;                                                                                         \
        int32_t *c = t->c;                                                                                             \
        const int32_t *rows = t->row_start;                                                                            \
        __asm__ volatile(ASM_ROWS##R(ASM_CLEAR, OP) ".p2align 6\n1:\n\t" AHEAD ASM_LOAD##P ASM_ROWS##R(                \
                             ASM_ROW##P, OP) "add $16, %[a]\n\tadd $64, %[b]\n\tdec %[n]\n\tjnz 1b\n\t"                \
                                             "kmovw %[add], %%k1\n\tvmovdqu32 (%[columns]), %%zmm24\n\t"               \
                                             "vmovdqu32 " ASM_SECOND##P                                                \
                         "(%[columns]), %%zmm25\n\t" ASM_ROWS##R(ASM_STORE##P, OP)                                     \
                         : [a] "+r"(a), [b] "+r"(b), [n] "+r"(n), [c] "+r"(c), [rows] "+r"(rows)                       \
                         : [sliver] "r"(t->sliver), [panel] "r"(t->panel), [step] "r"(t->step), [add] "r"(t->add),     \
                           [columns] "r"(t->column_start)                                                              \
                         : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10",    \
                           "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20",   \
                           "zmm21", "zmm22", "zmm23", "zmm24", "zmm25", "zmm26", "k1", "memory", "cc");                \
    }
#define ASM_SECOND1 "0" /* one panel: there is no second, and its start values are not read */
#define ASM_SECOND2 "64"
#define ASM_TILES(name, P, OP)                                                                                         \
    ASM_TILE(name, 1, P, OP, ASM_AHEAD##P)                                                                             \
    ASM_TILE(name, 2, P, OP, ASM_AHEAD##P)                                                                             \
    ASM_TILE(name, 3, P, OP, ASM_AHEAD##P)                                                                             \
    ASM_TILE(name, 4, P, OP, ASM_AHEAD##P)                                                                             \
    ASM_TILE(name, 5, P, OP, "")                                                                                       \
    ASM_TILE(name, 6, P, OP, "")                                                                                       \
    ASM_TILE(name, 7, P, OP, "")                                                                                       \
    ASM_TILE(name, 8, P, OP, "")                                                                                       \
    ASM_TILE(name, 9, P, OP, "")                                                                                       \
    ASM_TILE(name, 10, P, OP, "")                                                                                      \
    ASM_TILE(name, 11, P, OP, "")                                                                                      \
    ASM_TILE(name, 12, P, OP, "")                                                                                      \
    static const asm_function name[ROWS] = {name##1, name##2, name##3, name##4,  name##5,  name##6,                    \
                                            name##7, name##8, name##9, name##10, name##11, name##12};
ASM_TILES(codes1_, 1, "vpdpbusd")
ASM_TILES(codes2_, 2, "vpdpbusd")
ASM_TILES(words1_, 1, "vpdpwssd")
ASM_TILES(words2_, 2, "vpdpwssd")

static void by_tiles(const qn_tile *t, const asm_function *one, const asm_function *two, int panel) {
    const asm_function *functions = t->panels - panel == 1 ? one : two;
    asm_tile a = {.b = t->right + panel * t->right_step, .panel = t->right_step, .groups = t->groups};
    a.column_start = t->column_start + panel * QN_PANEL, a.step = t->c_step * 4, a.add = t->add ? 0xFFFF : 0;
    a.sliver = t->groups * 16;
    for (int64_t r = 0; r < t->rows; r += ROWS) {
        int64_t rows = t->rows - r < ROWS ? t->rows - r : ROWS;
        a.a = (const char *)t->left + r / QN_SLIVER * a.sliver, a.c = t->c + r * t->c_step + panel * QN_PANEL;
        a.row_start = t->row_start + r;
        for (int64_t i = 0; i < rows; i++) __builtin_prefetch(a.c + i * t->c_step, 1);
        functions[rows - 1](&a);
    }
    __asm__ volatile("vzeroupper"); /* the compiler does not see what the tiles leave in the upper halves */
}

#define V_INLINE static inline __attribute__((always_inline))
#define V_UNROLL QN_PRAGMA(GCC unroll 8)

/* A few rows times four panels: as many streams as the hardware likes to fetch ahead, without a hint. */
V_INLINE void v_few_rows(const qn_tile *t, const int rows) {
    const char *a = t->left;
    const uint8_t *b = t->right;
    __m512i sum[QN_SLIVER][QN_PANELS];
    V_UNROLL for (int r = 0; r < rows; r++) V_UNROLL for (int p = 0; p < QN_PANELS; p++) sum[r][p] =
        _mm512_setzero_si512();
    for (int64_t g = 0; g < t->groups; g++, a += 16, b += QN_GROUP) {
        int32_t quad[QN_SLIVER];
        memcpy(quad, a, sizeof quad);
        V_UNROLL for (int p = 0; p < QN_PANELS; p++) {
            const __m512i u = _mm512_load_si512(b + p * t->right_step);
            V_UNROLL for (int r = 0; r < rows; r++) sum[r][p] =
                _mm512_dpbusd_epi32(sum[r][p], u, _mm512_set1_epi32(quad[r]));
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
    for (int p = 0; p < t->panels; p += PANELS) by_tiles(t, codes1_, codes2_, p);
}
static void multiply_words(const qn_tile *t) {
    for (int p = 0; p < t->panels; p += PANELS) by_tiles(t, words1_, words2_, p);
}

#define V4_VNNI 1
#include "matmul4_avx512.h"

#include "matmul4_body.h"

#include "matmul_thin_vnni.h"

const qn_table qn_row_avx512vnni = {
    .matmul4_panel = matmul4_panel,
    .matmul_tiling = matmul_tiling,
    .multiply_u8 = multiply_u8,
    .multiply_u7 = multiply_u8,
    .multiply_words = multiply_words,
    .sweep = sweep,
    .dots = dots,
};
#pragma GCC pop_options
#endif
