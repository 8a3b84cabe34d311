/* isa_avxvnni.c as AVX2 code: SIMDe's emulation of its one instruction. */
#ifndef QN_SIMDE_AVXVNNI_H
#define QN_SIMDE_AVXVNNI_H

#include <immintrin.h>

#include <simde/x86/avx512/dpbusd.h>

#undef QN_TARGET_avxvnni
#define QN_TARGET_avxvnni "avx2,fma,f16c"
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32

#endif
