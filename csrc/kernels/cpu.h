/* What this CPU can do and the OS lets it do. */
#ifndef QN_CPU_H
#define QN_CPU_H

#include <stdbool.h>

typedef struct {
    bool avx2, fma, f16c, avx512; /* avx512 = F, BW, DQ and VL */
    bool avxvnni, avx512vnni;
    bool neon;
    long l3_bytes; /* 0 when unknown */
} qn_cpu;

qn_cpu qn_cpu_detect(void);

#endif
