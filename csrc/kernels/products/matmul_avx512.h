/* Tiles of 12 x 32 in AVX-512, in assembly because GCC 12 stores every sum in every turn of the loop. zmm0-23 hold the
 * tile, 24-27 the panels, 28-31 are temporary. */

enum { ROWS = 12, PANELS = 2 };

static const uint32_t v_constants[2] = {0x00FF00FF, 0x00010001};

#define ASM_LOAD_BYTES1 "vmovdqa64 (%[b]), %%zmm24\n\t"
#define ASM_LOAD_BYTES2 ASM_LOAD_BYTES1 "vmovdqa64 (%[b],%[panel]), %%zmm25\n\t"
#define ASM_AHEAD1 "prefetcht0 2048(%[b])\n\t"
#define ASM_AHEAD2 ASM_AHEAD1 "prefetcht0 2048(%[b],%[panel])\n\t"
#define ASM_CLEAR(at, s0, s1) "vpxord %%" s0 ", %%" s0 ", %%" s0 "\n\tvpxord %%" s1 ", %%" s1 ", %%" s1 "\n\t"
/* Adds the start values, and C in the lanes of k1; stores the sums. */
#define ASM_STORE1(at, s0, s1)                                                                                         \
    "vpbroadcastd (%[rows]), %%zmm26\n\tadd $4, %[rows]\n\t"                                                           \
    "vpaddd %%zmm26, %%" s0 ", %%" s0 "\n\tvpaddd %%zmm24, %%" s0 ", %%" s0 "\n\t"                                     \
    "vpaddd (%[c]), %%" s0 ", %%" s0 "%{%%k1%}\n\tvmovdqu32 %%" s0 ", (%[c])\n\tadd %[step], %[c]\n\t"
#define ASM_STORE2(at, s0, s1)                                                                                         \
    "vpaddd 64(%[c]), %%" s1 ", %%" s1 "%{%%k1%}\n\t"                                                                  \
    "vpbroadcastd (%[rows]), %%zmm26\n\tvpaddd %%zmm26, %%" s1 ", %%" s1 "\n\t"                                        \
    "vpaddd %%zmm25, %%" s1 ", %%" s1 "\n\tvmovdqu32 %%" s1 ", 64(%[c])\n\t" ASM_STORE1(at, s0, s1)
/* W: bytes of a quartet of one row, "4" or "8". */
#define ASM_ROWS1(F, W) F("0*" W "(%[a])", "zmm0", "zmm1")
#define ASM_ROWS2(F, W) ASM_ROWS1(F, W) F("1*" W "(%[a])", "zmm2", "zmm3")
#define ASM_ROWS3(F, W) ASM_ROWS2(F, W) F("2*" W "(%[a])", "zmm4", "zmm5")
#define ASM_ROWS4(F, W) ASM_ROWS3(F, W) F("3*" W "(%[a])", "zmm6", "zmm7")
#define ASM_ROWS5(F, W) ASM_ROWS4(F, W) F("0*" W "(%[a],%[sliver])", "zmm8", "zmm9")
#define ASM_ROWS6(F, W) ASM_ROWS5(F, W) F("1*" W "(%[a],%[sliver])", "zmm10", "zmm11")
#define ASM_ROWS7(F, W) ASM_ROWS6(F, W) F("2*" W "(%[a],%[sliver])", "zmm12", "zmm13")
#define ASM_ROWS8(F, W) ASM_ROWS7(F, W) F("3*" W "(%[a],%[sliver])", "zmm14", "zmm15")
#define ASM_ROWS9(F, W) ASM_ROWS8(F, W) F("0*" W "(%[a],%[sliver],2)", "zmm16", "zmm17")
#define ASM_ROWS10(F, W) ASM_ROWS9(F, W) F("1*" W "(%[a],%[sliver],2)", "zmm18", "zmm19")
#define ASM_ROWS11(F, W) ASM_ROWS10(F, W) F("2*" W "(%[a],%[sliver],2)", "zmm20", "zmm21")
#define ASM_ROWS12(F, W) ASM_ROWS11(F, W) F("3*" W "(%[a],%[sliver],2)", "zmm22", "zmm23")

typedef struct {
    const void *a, *b;
    int64_t sliver, panel, quartets; /* bytes from sliver to sliver, from panel to panel */
    int32_t *c;
    int64_t step; /* bytes */
    const int32_t *row_start, *column_start;
    uint32_t add; /* mask of lanes */
} asm_tile;
typedef void (*asm_function)(const asm_tile *t);

/* LOAD1, LOAD2 load a quartet of one or two panels. ROW1, ROW2(codes, sum of the first panel, of the second) multiply
 * one row by it. */
#define ASM_TILE(name, R, P, W, LOAD, ROW, before, ahead)                                                              \
    static void name##P##_##R(const asm_tile *t) {                                                                     \
        const void *a = t->a, *b = t->b;                                                                               \
        int64_t n = t->quartets;                                                                                       \
        int32_t *c = t->c;                                                                                             \
        const int32_t *rows = t->row_start;                                                                            \
        __asm__ volatile(                                                                                              \
            before ASM_ROWS##R(ASM_CLEAR, W) ".p2align 6\n1:\n\t" ahead LOAD##P ASM_ROWS##R(                           \
                ROW##P, W) "add $4*" W ", %[a]\n\tadd $64, %[b]\n\tdec %[n]\n\tjnz 1b\n\t"                             \
                           "kmovw %[add], %%k1\n\tvmovdqu32 (%[columns]), %%zmm24\n\t"                                 \
                           "vmovdqu32 " ASM_SECOND##P "(%[columns]), %%zmm25\n\t" ASM_ROWS##R(ASM_STORE##P, W)         \
            : [a] "+r"(a), [b] "+r"(b), [n] "+r"(n), [c] "+r"(c), [rows] "+r"(rows)                                    \
            : [sliver] "r"(t->sliver), [panel] "r"(t->panel), [step] "r"(t->step), [add] "r"(t->add),                  \
              [columns] "r"(t->column_start), [constants] "m"(v_constants)                                             \
            : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11",        \
              "zmm12", "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22",       \
              "zmm23", "zmm24", "zmm25", "zmm26", "zmm27", "zmm28", "zmm29", "zmm30", "zmm31", "k1", "memory", "cc");  \
    }
#define ASM_SECOND1 "0" /* one panel: the start values of a second one are not read */
#define ASM_SECOND2 "64"
#define ASM_HEIGHTS(name, P, ...)                                                                                      \
    ASM_TILE(name, 1, P, __VA_ARGS__, ASM_AHEAD##P)                                                                    \
    ASM_TILE(name, 2, P, __VA_ARGS__, ASM_AHEAD##P)                                                                    \
    ASM_TILE(name, 3, P, __VA_ARGS__, ASM_AHEAD##P)                                                                    \
    ASM_TILE(name, 4, P, __VA_ARGS__, ASM_AHEAD##P)                                                                    \
    ASM_TILE(name, 5, P, __VA_ARGS__, "")                                                                              \
    ASM_TILE(name, 6, P, __VA_ARGS__, "")                                                                              \
    ASM_TILE(name, 7, P, __VA_ARGS__, "")                                                                              \
    ASM_TILE(name, 8, P, __VA_ARGS__, "")                                                                              \
    ASM_TILE(name, 9, P, __VA_ARGS__, "")                                                                              \
    ASM_TILE(name, 10, P, __VA_ARGS__, "")                                                                             \
    ASM_TILE(name, 11, P, __VA_ARGS__, "")                                                                             \
    ASM_TILE(name, 12, P, __VA_ARGS__, "")
#define ASM_NAMES(name)                                                                                                \
    {name##1, name##2, name##3, name##4, name##5, name##6, name##7, name##8, name##9, name##10, name##11, name##12}
/* name[panels - 1][rows - 1] */
#define ASM_TILES(name, W, LOAD, ROW, before)                                                                          \
    ASM_HEIGHTS(name, 1, W, LOAD, ROW, before)                                                                         \
    ASM_HEIGHTS(name, 2, W, LOAD, ROW, before)                                                                         \
    static const asm_function name[PANELS][ROWS] = {ASM_NAMES(name##1_), ASM_NAMES(name##2_)};

static void by_tiles(const qn_tile *t, const asm_function functions[PANELS][ROWS], int64_t left_bytes) {
    asm_tile a = {.panel = t->right_step, .quartets = t->quartets, .sliver = t->quartets * QN_SLIVER * left_bytes};
    a.step = t->c_step * 4, a.add = t->add ? 0xFFFF : 0;
    for (int p = 0; p < t->panels; p += PANELS) {
        const asm_function *of_height = functions[t->panels - p > 1];
        a.b = t->right + p * t->right_step, a.column_start = t->column_start + p * QN_PANEL;
        for (int64_t r = 0; r < t->rows; r += ROWS) {
            int64_t rows = t->rows - r < ROWS ? t->rows - r : ROWS;
            a.a = (const char *)t->left + r / QN_SLIVER * a.sliver, a.c = t->c + r * t->c_step + p * QN_PANEL;
            a.row_start = t->row_start + r;
            for (int64_t i = 0; i < rows; i++) __builtin_prefetch(a.c + i * t->c_step, 1);
            of_height[rows - 1](&a);
        }
    }
    __asm__ volatile("vzeroupper"); /* the compiler does not track the upper halves that the assembly used */
}
