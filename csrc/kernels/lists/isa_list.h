/* The list of ISA rows, low to high. One line here and one isa_<name>.c make an ISA.
 *
 * QN_ISA(name, target string, detector)
 *   target    instructions of the code between QN_TARGET_BEGIN(QN_TARGET_<name>) and QN_TARGET_END in isa_<name>.c
 *   detector  an expression over `const qn_cpu *cpu`; true only when the OS saves the registers too
 * An ISA row inherits every kernel that is NULL in it from the ISA row above it in this list.
 */
/* Compile the code between the two for a target. */
#define QN_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define QN_TARGET_BEGIN(isa) QN_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define QN_TARGET_END QN_PRAGMA(clang attribute pop)
#else
#define QN_TARGET_BEGIN(isa) QN_PRAGMA(GCC push_options) QN_PRAGMA(GCC target(isa))
#define QN_TARGET_END QN_PRAGMA(GCC pop_options)
#endif

#define QN_TARGET_avx2 "avx2,fma,f16c"
#define QN_TARGET_avxvnni "avxvnni,avx2,fma,f16c"
#define QN_TARGET_avx512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#define QN_TARGET_avx512vnni "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#define QN_TARGET_amx "amx-tile,amx-int8," QN_TARGET_avx512vnni
#define QN_TARGET_dotprod "arch=armv8.2-a+dotprod"
#define QN_TARGET_i8mm "arch=armv8.2-a+dotprod+i8mm"

#if defined(__x86_64__)
#define QN_ISA_LIST(QN_ISA)                                                                                            \
    QN_ISA(scalar, "", 1)                                                                                              \
    QN_ISA(avx2, QN_TARGET_avx2, cpu->avx2 && cpu->fma && cpu->f16c)                                                   \
    QN_ISA(avxvnni, QN_TARGET_avxvnni, cpu->avx2 && cpu->fma && cpu->f16c && cpu->avxvnni)                             \
    QN_ISA(avx512, QN_TARGET_avx512, cpu->avx2 && cpu->fma && cpu->f16c && cpu->avx512)                                \
    QN_ISA(avx512vnni, QN_TARGET_avx512vnni, cpu->avx2 && cpu->fma && cpu->f16c && cpu->avx512 && cpu->avx512vnni)     \
    QN_ISA(amx, QN_TARGET_amx, cpu->avx2 && cpu->fma && cpu->f16c && cpu->avx512 && cpu->avx512vnni && cpu->amx)
#elif defined(__aarch64__)
#define QN_ISA_LIST(QN_ISA)                                                                                            \
    QN_ISA(scalar, "", 1)                                                                                              \
    QN_ISA(neon, "", cpu->neon)                                                                                        \
    QN_ISA(dotprod, QN_TARGET_dotprod, cpu->neon && cpu->dotprod)                                                      \
    QN_ISA(i8mm, QN_TARGET_i8mm, cpu->neon && cpu->dotprod && cpu->i8mm)
#else
#define QN_ISA_LIST(QN_ISA) QN_ISA(scalar, "", 1)
#endif
