/* Proves that the quotient of the 8-bit kernels rounds as the division does:
 *
 *     q = fma(x, i, x * j),  i = 1/S,  j = qn_low(S, i) = 1/S - i        rounds like        x / S
 *
 * in every convention, because q and x / S lie on the same side of every half-integer h, where two codes meet, or both
 * on it. Tried are every mantissa of S (2^23) and, for each h = 0.5 .. 255.5 (an 8-bit code less its zero point is at
 * most 255), every x within 4 ulps of h * S.
 *
 * Why these are enough: j carries a relative error of 2^-24 and is at most 2^-24 i, and so does x * j, hence q lies
 * within 0.5 + 2^-20 ulps of the true quotient, and x / S within 0.5. They differ in rounding only if an h lies between
 * them; then x is less than 2 ulps from h * S. Negative x mirror positive ones. Another exponent of S scales x, i and j
 * by powers of two, exactly, as long as nothing leaves the normal numbers: 2^-90 <= S <= 2^90 is safe by far.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qn_types.h"

enum { MANTISSAS = 1 << 23, BATCH = 1024, BOUNDARIES = 256, ULPS = 4, PROCESSES = 2 };

typedef struct {
    uint64_t tried, differ,
        reciprocal; /* the last: how often x * i alone is wrong, to show that the test detects errors */
} result;

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
/* One boundary, one distance from it, a batch of scales: the loop that the compiler turns into vectors. */
#if defined(__x86_64__)
__attribute__((noinline, target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif
static void try_batch(const float *s, const float *inverse, const float *low, float h, uint32_t ulps, result *r) {
    uint32_t differ = 0, reciprocal = 0;
    for (int k = 0; k < BATCH; k++) {
        float x = float_of(bits_of(h * s[k]) + ulps), i = inverse[k];
        float q0 = x * i, q = fmaf(x, i, x * low[k]), exact = x / s[k];
        differ += ((q < h) != (exact < h)) | ((q > h) != (exact > h));
        reciprocal += ((q0 < h) != (exact < h)) | ((q0 > h) != (exact > h));
    }
    r->tried += BATCH, r->differ += differ, r->reciprocal += reciprocal;
}

static void try_scales(uint32_t first, result *r) {
    float s[BATCH], inverse[BATCH], low[BATCH];
    for (uint32_t k = 0; k < BATCH; k++) {
        s[k] = float_of(0x3F800000 | (first + k));
        inverse[k] = 1.0f / s[k];
        low[k] = qn_low(s[k], inverse[k]);
    }
    for (int code = 0; code < BOUNDARIES; code++)
        for (int ulps = -ULPS; ulps <= ULPS; ulps++) try_batch(s, inverse, low, (float)code + 0.5f, (uint32_t)ulps, r);
}

int main(void) {
    int ends[2];
    if (pipe(ends)) return perror("pipe"), 2;
    for (int process = 0; process < PROCESSES; process++) {
        pid_t child = fork();
        if (child < 0) return perror("fork"), 2;
        if (child == 0) {
            result r = {0};
            for (int batch = process; batch < MANTISSAS / BATCH; batch += PROCESSES)
                try_scales((uint32_t)batch * BATCH, &r);
            _exit(write(ends[1], &r, sizeof r) == sizeof r ? 0 : 2);
        }
    }
    result total = {0}, r;
    for (int process = 0; process < PROCESSES; process++) {
        int status;
        wait(&status);
        if (status || read(ends[0], &r, sizeof r) != sizeof r) return fprintf(stderr, "a process failed\n"), 2;
        total.tried += r.tried, total.differ += r.differ, total.reciprocal += r.reciprocal;
    }
    printf("%llu quotients tried, %llu round otherwise than the division (by the reciprocal alone: %llu)\n",
           (unsigned long long)total.tried, (unsigned long long)total.differ, (unsigned long long)total.reciprocal);
    return total.differ != 0 || total.reciprocal == 0 ||
           total.tried != (uint64_t)MANTISSAS * BOUNDARIES * (2 * ULPS + 1);
}
