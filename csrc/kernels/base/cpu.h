/* What the CPU has and the OS supports. */
#ifndef QN_CPU_H
#define QN_CPU_H

#include <stdbool.h>

typedef struct {
    bool avx2, fma, f16c, avx512; /* avx512 = F, BW, DQ and VL */
    bool avxvnni, avx512vnni;
    bool amx; /* only if QNUMPY_ISA names it */
    bool neon, dotprod, i8mm;
    bool avx512fp16, avx512bf16, neon_fp16, neon_bf16; /* arithmetic in these types; no ISA row uses it */
    long l3_bytes;                                     /* 0 when unknown */
} qn_cpu;

qn_cpu qn_cpu_detect(void);

#endif
