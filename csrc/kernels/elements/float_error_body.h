/* Counts and errors of x after conversion to a narrower float type; y is the converted value. All sums are integers,
 * relative errors in units of 2^-30 and magnitudes as their bits: the result does not depend on the order of summation,
 * and the compiler vectorizes the loop. */

enum { ERROR_ELEMENTS = 1 << 12 }; /* counted at a time: the counts fit 32 bits */

#define FLOAT_ERROR(tag, type, limit, bits_type, infinite_bits)                                                        \
    static void float_error_##tag(const type *restrict x, const float *restrict y, int64_t n,                          \
                                  const qn_float_limits *limits, qn_float_error *e) {                                  \
        const type beyond = limits->limit;                                                                             \
        const float normal = limits->normal;                                                                           \
        bits_type peak = 0, least = (bits_type) - 1;                                                                   \
        uint32_t worst = 0;                                                                                            \
        for (int64_t start = 0; start < n; start += ERROR_ELEMENTS) {                                                  \
            int64_t end = n - start < ERROR_ELEMENTS ? n : start + ERROR_ELEMENTS, relative = 0;                       \
            bits_type nan = 0, infinite = 0, overflow = 0, zero = 0, subnormal = 0, kept = 0;                          \
            for (int64_t i = start; i < end; i++) {                                                                    \
                bits_type bits, finite_bits;                                                                           \
                type size, error;                                                                                      \
                float result = fabsf(y[i]), share;                                                                     \
                uint32_t share_bits;                                                                                   \
                memcpy(&bits, x + i, sizeof bits);                                                                     \
                bits &= (bits_type) - 1 >> 1;                                                                          \
                memcpy(&size, &bits, sizeof size);                                                                     \
                bits_type finite = bits < infinite_bits, over = finite & (size >= beyond), some = result > 0;          \
                bits_type keep = finite & (over ^ 1) & some, gone = finite & (over ^ 1) & (some ^ 1);                  \
                error = size - (type)result;                                                                           \
                error = (error < 0 ? -error : error) / (keep ? size : 1);                                              \
                share = (float)error;                                                                                  \
                memcpy(&share_bits, &share, sizeof share_bits);                                                        \
                share_bits &= 0 - (uint32_t)keep;                                                                      \
                memcpy(&share, &share_bits, sizeof share);                                                             \
                nan += bits > infinite_bits, infinite += bits == infinite_bits, overflow += over, kept += keep;        \
                zero += gone & (bits != 0), subnormal += some & (result < normal);                                     \
                relative += (int32_t)(share * 0x1p30f + 0.5f);                                                         \
                worst = share_bits > worst ? share_bits : worst;                                                       \
                finite_bits = bits & (0 - finite);                                                                     \
                peak = finite_bits > peak ? finite_bits : peak;                                                        \
                finite_bits -= 1; /* zero, infinity and NaN become the largest */                                      \
                least = finite_bits < least ? finite_bits : least;                                                     \
            }                                                                                                          \
            e->nan += nan, e->infinite += infinite, e->overflow += overflow, e->zero += zero;                          \
            e->subnormal += subnormal, e->kept += kept, e->relative += (uint64_t)relative;                             \
        }                                                                                                              \
        type peak_size, least_size;                                                                                    \
        float worst_share;                                                                                             \
        least = least == (bits_type) - 1 ? infinite_bits : least + 1;                                                  \
        memcpy(&peak_size, &peak, sizeof peak), memcpy(&least_size, &least, sizeof least);                             \
        memcpy(&worst_share, &worst, sizeof worst);                                                                    \
        if (peak_size > e->peak) e->peak = (double)peak_size;                                                          \
        if (least_size < e->least) e->least = (double)least_size;                                                      \
        if (worst_share > e->worst) e->worst = worst_share;                                                            \
    }
FLOAT_ERROR(f32, float, overflow_f32, uint32_t, 0x7F800000)
FLOAT_ERROR(f64, double, overflow, uint64_t, 0x7FF0000000000000)
#undef FLOAT_ERROR
