/* Minimum and maximum of the finite elements.
 *
 * A float's bits, with the lower 31 flipped when the sign is set, order as integers do: -inf < ... < -0 < +0 < ... < +inf,
 * NaN outside both infinities. So a block is reduced with integer min and max, which every ISA has and the compiler vectorises,
 * and only a block whose extremes reach an infinity is read again to count and leave out what is not finite. A result of -0
 * becomes +0 (x + 0.0), because comparing doubles would let the order of the blocks choose the sign.
 */

enum { REDUCE_BLOCK = 1024, REDUCE_ROWS = 64 };

#define REDUCE(tag, type, key_type, unsigned_type, INFINITE_BITS)                                                      \
    V_INLINE key_type key_##tag(type x) {                                                                              \
        unsigned_type bits;                                                                                            \
        memcpy(&bits, &x, sizeof bits);                                                                                \
        unsigned_type sign = (unsigned_type)((key_type)bits >> (8 * sizeof bits - 1)); /* all ones when negative */    \
        return (key_type)(bits ^ sign >> 1);                                                                           \
    }                                                                                                                  \
    V_INLINE type value_##tag(key_type key) { /* its own inverse, but for the type */                                  \
        unsigned_type bits = (unsigned_type)key ^ (unsigned_type)(key >> (8 * sizeof key - 1)) >> 1;                   \
        type x;                                                                                                        \
        memcpy(&x, &bits, sizeof x);                                                                                   \
        return x;                                                                                                      \
    }                                                                                                                  \
    V_INLINE bool finite_##tag(key_type lo, key_type hi) {                                                             \
        return lo > (key_type) ~(unsigned_type)INFINITE_BITS && hi < (key_type)INFINITE_BITS;                          \
    }                                                                                                                  \
    V_INLINE void extend_##tag(qn_range *r, key_type lo, key_type hi) {                                                \
        double min = (double)value_##tag(lo) + 0.0, max = (double)value_##tag(hi) + 0.0;                               \
        if (min < r->min) r->min = min;                                                                                \
        if (max > r->max) r->max = max;                                                                                \
    }                                                                                                                  \
    static void careful_##tag(type x, qn_range *r) {                                                                   \
        key_type key = key_##tag(x);                                                                                   \
        if (finite_##tag(key, key)) extend_##tag(r, key, key);                                                         \
        else if (x == x) r->infinite++;                                                                                \
        else r->nan++;                                                                                                 \
    }                                                                                                                  \
    static void min_max_##tag(const type *x, int64_t n, qn_range *r) {                                                 \
        for (int64_t at = 0; at < n; at += REDUCE_BLOCK) {                                                             \
            const type *b = x + at;                                                                                    \
            int64_t count = n - at < REDUCE_BLOCK ? n - at : REDUCE_BLOCK;                                             \
            v_prefetch(b + REDUCE_BLOCK, REDUCE_BLOCK * sizeof(type));                                                 \
            key_type lo = key_##tag(b[0]), hi = lo;                                                                    \
            for (int64_t i = 0; i < count; i++) {                                                                      \
                key_type key = key_##tag(b[i]);                                                                        \
                lo = key < lo ? key : lo, hi = key > hi ? key : hi;                                                    \
            }                                                                                                          \
            if (finite_##tag(lo, hi)) extend_##tag(r, lo, hi);                                                         \
            else                                                                                                       \
                for (int64_t i = 0; i < count; i++) careful_##tag(b[i], r);                                            \
        }                                                                                                              \
    }                                                                                                                  \
    static void min_max_columns_##tag(const type *x, int64_t rows, int64_t stride, int64_t n, qn_range *r) {           \
        for (int64_t column = 0; column < n; column += REDUCE_BLOCK) {                                                 \
            int64_t count = n - column < REDUCE_BLOCK ? n - column : REDUCE_BLOCK;                                     \
            for (int64_t row = 0; row < rows; row += REDUCE_ROWS) {                                                    \
                int64_t high = rows - row < REDUCE_ROWS ? rows - row : REDUCE_ROWS;                                    \
                const type *b = x + row * stride + column;                                                             \
                key_type lo[REDUCE_BLOCK], hi[REDUCE_BLOCK];                                                           \
                for (int64_t i = 0; i < count; i++) lo[i] = hi[i] = key_##tag(b[i]);                                   \
                for (int64_t k = 1; k < high; k++) {                                                                   \
                    const type *line = b + k * stride;                                                                 \
                    if (k + 1 < high) v_prefetch(line + stride, count * (int64_t)sizeof(type));                        \
                    for (int64_t i = 0; i < count; i++) {                                                              \
                        key_type key = key_##tag(line[i]);                                                             \
                        lo[i] = key < lo[i] ? key : lo[i], hi[i] = key > hi[i] ? key : hi[i];                          \
                    }                                                                                                  \
                }                                                                                                      \
                for (int64_t i = 0; i < count; i++) {                                                                  \
                    if (finite_##tag(lo[i], hi[i])) extend_##tag(r + column + i, lo[i], hi[i]);                        \
                    else                                                                                               \
                        for (int64_t k = 0; k < high; k++) careful_##tag(b[k * stride + i], r + column + i);           \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

REDUCE(f32, float, int32_t, uint32_t, 0x7F800000)
REDUCE(f64, double, int64_t, uint64_t, 0x7FF0000000000000)
