#define _GNU_SOURCE /* syscall */
#include "cpu.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

/* XCR0 lists the registers that the OS saves on a context switch. An ISA is usable only if the OS saves its registers.
 */
static unsigned long saved_registers(void) {
    unsigned eax, edx;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

/* Linux saves the 8 KiB of AMX tiles only for a process that requested it, and the request enlarges signal stacks. So
 * we request it only if QNUMPY_ISA names the ISA. */
static bool tiles_granted(void) {
    const char *isa = getenv("QNUMPY_ISA");
    if (!isa || strcmp(isa, "amx") != 0) return false;
#ifdef __linux__
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
    return false;
#endif
}

static void detect_isa(qn_cpu *cpu) {
    enum { OSXSAVE = 1 << 27, FMA = 1 << 12, F16C = 1 << 29, AVX = 1 << 28 };          /* leaf 1, ECX */
    enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 }; /* leaf 7, EBX */
    enum { AVX512_FP16 = 1 << 23, AVX512_BF16 = 1 << 5 };                              /* leaf 7, EDX; leaf 7.1, EAX */
    enum { AVX512VNNI = 1 << 11 };                                                     /* leaf 7, ECX */
    enum { AVXVNNI = 1 << 4 };                                                         /* leaf 7.1, EAX */
    enum { AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 };                                   /* leaf 7, EDX */
    const unsigned avx512vl = 1u << 31, ymm_state = 0x6, zmm_state = 0xE6, tile_state = 0x60000;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE) || !(c & AVX)) return;
    unsigned long saved = saved_registers();
    if ((saved & ymm_state) != ymm_state) return;
    cpu->fma = c & FMA;
    cpu->f16c = c & F16C;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    cpu->avx2 = b & AVX2;
    cpu->avx512 =
        (saved & zmm_state) == zmm_state && (b & AVX512F) && (b & AVX512DQ) && (b & AVX512BW) && (b & avx512vl);
    cpu->avx512fp16 = cpu->avx512 && (d & AVX512_FP16);
    cpu->avx512vnni = cpu->avx512 && (c & AVX512VNNI);
    cpu->amx = (saved & tile_state) == tile_state && (d & AMX_TILE) && (d & AMX_INT8) && tiles_granted();
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        cpu->avx512bf16 = cpu->avx512 && (a & AVX512_BF16);
        cpu->avxvnni = a & AVXVNNI;
    }
}
#else
#if defined(__aarch64__) && defined(__APPLE__)
static bool has_feature(const char *name) {
    int value = 0;
    size_t bytes = sizeof value;
    return sysctlbyname(name, &value, &bytes, NULL, 0) == 0 && value != 0;
}
#endif

static void detect_isa(qn_cpu *cpu) {
#if defined(__aarch64__)
    cpu->neon = true; /* part of the base architecture */
#if defined(__linux__)
    cpu->dotprod = getauxval(AT_HWCAP) & 1ul << 20;    /* HWCAP_ASIMDDP */
    cpu->i8mm = getauxval(AT_HWCAP2) & 1ul << 13;      /* HWCAP2_I8MM */
    cpu->neon_fp16 = getauxval(AT_HWCAP) & 1ul << 10;  /* HWCAP_ASIMDHP */
    cpu->neon_bf16 = getauxval(AT_HWCAP2) & 1ul << 14; /* HWCAP2_BF16 */
#elif defined(__APPLE__)
    cpu->dotprod = has_feature("hw.optional.arm.FEAT_DotProd");
    cpu->i8mm = has_feature("hw.optional.arm.FEAT_I8MM");
    cpu->neon_fp16 = has_feature("hw.optional.arm.FEAT_FP16");
    cpu->neon_bf16 = has_feature("hw.optional.arm.FEAT_BF16");
#endif
#else
    (void)cpu;
#endif
}
#endif

qn_cpu qn_cpu_detect(void) {
    qn_cpu cpu = {0};
    detect_isa(&cpu);
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    cpu.l3_bytes = bytes > 0 ? bytes : 0;
#elif defined(__APPLE__)
    int64_t bytes = 0;
    size_t size = sizeof bytes;
    if (sysctlbyname("hw.l3cachesize", &bytes, &size, NULL, 0) == 0) cpu.l3_bytes = bytes;
#endif
    return cpu;
}
