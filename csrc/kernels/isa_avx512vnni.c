/* AVX-512 VNNI: vpdpbusd multiplies the stored bytes of B by the signed bytes of A and adds in int32, without saturation
 * (vpdpbusds, its saturating sister, is not used). Tiles of 12 x 32. Everything else is the AVX-512 row's. */
#include "qn_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

QN_TARGET_BEGIN(QN_TARGET_avx512vnni)

#include "matmul_avx512.h"

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){
        .pairs = false, .panels = PANELS, .block = 192, .block_rows = 384, .macs_a_byte = 16, .widen_rows = INT64_MAX};
}

#define ASM_CODES1(at, s0, s1) "vpbroadcastd " at ", %%zmm28\n\tvpdpbusd %%zmm28, %%zmm24, %%" s0 "\n\t"
#define ASM_CODES2(at, s0, s1) ASM_CODES1(at, s0, s1) "vpdpbusd %%zmm28, %%zmm25, %%" s1 "\n\t"
#define ASM_WORDS1(at, s0, s1) "vpbroadcastd " at ", %%zmm28\n\tvpdpwssd %%zmm28, %%zmm24, %%" s0 "\n\t"
#define ASM_WORDS2(at, s0, s1) ASM_WORDS1(at, s0, s1) "vpdpwssd %%zmm28, %%zmm25, %%" s1 "\n\t"
ASM_TILES(v_codes, "4", ASM_LOAD_BYTES, ASM_CODES, "")
ASM_TILES(v_words, "4", ASM_LOAD_BYTES, ASM_WORDS, "")

static void multiply_u8(const qn_tile *t) { by_tiles(t, v_codes, 4); }
static void multiply_words(const qn_tile *t) { by_tiles(t, v_words, 4); }

#define V_INLINE static inline __attribute__((always_inline))
#define V4_VNNI 1
#include "matmul4_avx512.h"

#include "matmul4_body.h"

const qn_table qn_row_avx512vnni = {
    .matmul4_panel = matmul4_panel,
    .matmul_tiling = matmul_tiling,
    .multiply_u8 = multiply_u8,
    .multiply_u7 = multiply_u8,
    .multiply_words = multiply_words,
};
QN_TARGET_END
#endif
