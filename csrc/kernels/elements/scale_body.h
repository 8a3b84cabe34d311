/* For float codes: quotients and products by a scale, and the largest magnitude of each block. Plain loops, which the
 * compiler vectorizes. */

#define SCALE(name, type, operator)                                                                                    \
    static void name(const type *restrict x, type *restrict y, int64_t n, const qn_affine *p) {                        \
        if (p->run == 0)                                                                                               \
            for (int64_t i = 0; i < n; i++) y[i] = x[i] operator p->scale[i];                                          \
        for (int64_t at = 0; p->run && at < n;) {                                                                      \
            int64_t pos = p->phase + at, count = p->run - pos % p->run;                                                \
            const float s = p->scale[pos / p->run];                                                                    \
            if (count > n - at) count = n - at;                                                                        \
            for (int64_t i = at; i < at + count; i++) y[i] = x[i] operator s;                                          \
            at += count;                                                                                               \
        }                                                                                                              \
    }
SCALE(divide_f32, float, /)
SCALE(divide_f64, double, /)
SCALE(multiply_f32, float, *)
#undef SCALE

/* The bits of magnitudes have the order of the magnitudes, and NaN comes last. */
static void block_max_f32(const float *restrict x, float *restrict most, int64_t n, int64_t block) {
    for (int64_t b = 0; b * block < n; b++) {
        int64_t end = (b + 1) * block < n ? (b + 1) * block : n;
        uint32_t highest = 0;
        for (int64_t i = b * block; i < end; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, sizeof bits);
            bits &= 0x7FFFFFFF;
            /* A mask: the compiler does not vectorize a maximum of a conditional. */
            bits &= 0 - (uint32_t)(bits != 0x7F800000);
            highest = bits > highest ? bits : highest;
        }
        highest = highest > 0x7F800000 ? 0x7FC00000 : highest; /* every NaN becomes the same one */
        memcpy(most + b, &highest, sizeof highest);
    }
}
