/* What the CPU detection concludes from the answers of sysctl.c. */
#include <stdio.h>

#include "cpu.h"

int main(void) {
    const qn_cpu cpu = qn_cpu_detect();
    const bool right = cpu.neon && cpu.dotprod && !cpu.i8mm && !cpu.neon_fp16 && cpu.neon_bf16 && !cpu.avx2;
    printf("CPU detection without Linux: %s\n", right ? "right" : "wrong");
    return !right;
}
