/* The limit of a memory-bound kernel: loops that read and write as many bytes and compute nothing. harness.py compiles
 * them with `cc -O3`; the fastest row that the CPU has is the limit. */
#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define KEEP(v) __asm__ volatile("" : : "x"(v)) /* keeps the load, whose value nothing uses */
#define NOTHING (void)0
#else
typedef unsigned char v16 __attribute__((vector_size(16), aligned(16)));
#define KEEP(v) __asm__ volatile("" : : "w"(v))
#endif

typedef void (*loop)(const char *in, char *out, size_t steps);

/* A step reads `reads` vectors and writes `writes` of them. */
#define LOOP(name, target, vector, load, store, end, reads, writes)                                                    \
    target static void name##_##reads##_##writes(const char *in, char *out, size_t steps) {                            \
        for (size_t s = 0; s < steps; s++) {                                                                           \
            vector v[reads];                                                                                           \
            _Pragma("GCC unroll 8") for (int i = 0; i < reads; i++) {                                                  \
                v[i] = load((const void *)(in + i * sizeof(vector)));                                                  \
                KEEP(v[i]);                                                                                            \
            }                                                                                                          \
            _Pragma("GCC unroll 8") for (int i = 0; i < writes; i++)                                                   \
                store((void *)(out + i * sizeof(vector)), v[i % reads]);                                               \
            in += reads * sizeof(vector);                                                                              \
            out += writes * sizeof(vector);                                                                            \
        }                                                                                                              \
        end;                                                                                                           \
    }

#define LOOPS(name, target, vector, load, store, end)                                                                  \
    LOOP(name, target, vector, load, store, end, 4, 1)                                                                 \
    LOOP(name, target, vector, load, store, end, 1, 4)                                                                 \
    LOOP(name, target, vector, load, store, end, 4, 4)                                                                 \
    LOOP(name, target, vector, load, store, end, 8, 0)                                                                 \
    LOOP(name, target, vector, load, store, end, 4, 2)                                                                 \
    LOOP(name, target, vector, load, store, end, 2, 4)

#define ROW(name, vector)                                                                                              \
    {#name, sizeof(vector), {name##_4_1, name##_1_4, name##_4_4, name##_8_0, name##_4_2, name##_2_4}}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f")))
LOOPS(avx2_plain, AVX2, __m256i, _mm256_load_si256, _mm256_store_si256, NOTHING)
LOOPS(avx2_streaming, AVX2, __m256i, _mm256_load_si256, _mm256_stream_si256, _mm_sfence())
LOOPS(avx512_plain, AVX512, __m512i, _mm512_load_si512, _mm512_store_si512, NOTHING)
LOOPS(avx512_streaming, AVX512, __m512i, _mm512_load_si512, _mm512_stream_si512, _mm_sfence())
#else
#define LOAD(p) (*(const v16 *)(p))
#define STORE(p, v) (*(v16 *)(p) = (v))
LOOPS(vector_plain, , v16, LOAD, STORE, (void)0)
#endif

static const struct {
    const char *name;
    size_t vector;
    loop loops[6];
} rows[] = {
#if defined(__x86_64__)
    ROW(avx2_plain, __m256i),
    ROW(avx2_streaming, __m256i),
    ROW(avx512_plain, __m512i),
    ROW(avx512_streaming, __m512i),
#else
    ROW(vector_plain, v16),
#endif
};

const char *traffic_name(int row) { return row < (int)(sizeof rows / sizeof *rows) ? rows[row].name : NULL; }

size_t traffic_vector(int row) { return rows[row].vector; }

int traffic_supported(int row) {
#if defined(__x86_64__)
    return rows[row].vector == 64 ? __builtin_cpu_supports("avx512f") : __builtin_cpu_supports("avx2");
#else
    return row >= 0;
#endif
}

/* shape: 0 reads 4 and writes 1, 1 reads 1 and writes 4, 2 reads 4 and writes 4, 3 reads 8, 4 reads 4 and writes 2,
 * 5 reads 2 and writes 4. */
void traffic_run(int row, int shape, const char *in, char *out, size_t steps) { rows[row].loops[shape](in, out, steps); }
