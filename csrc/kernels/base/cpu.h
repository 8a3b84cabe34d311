/* What this CPU can do and the OS lets it do. */
#ifndef QN_CPU_H
#define QN_CPU_H

#include <stdbool.h>

typedef struct {
    bool avx2, fma, f16c, avx512; /* avx512 = F, BW, DQ and VL */
    bool avxvnni, avx512vnni;
    bool amx; /* where QNUMPY_ISA asks for it */
    bool neon, dotprod, i8mm;
    bool avx512fp16, avx512bf16, neon_fp16, neon_bf16; /* arithmetic in these types; no row uses it */
    long l3_bytes;                                     /* 0 when unknown */
} qn_cpu;

qn_cpu qn_cpu_detect(void);

#endif
