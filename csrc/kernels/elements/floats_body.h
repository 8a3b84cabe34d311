/* Float formats to and from float32, each made from its line of float_list.h.
 *
 * The numbers of a format are constants of the inlined functions below, so that no loop branches on them. A code
 * occupies an int32 lane. The bits of a positive float, as an integer, count the floats of its format from 0 upward: a
 * carry out of the mantissa gives the next power of two, and beyond the largest number the code of infinity or NaN.
 */

/* Of functions that are called rarely: not inlined, so that the loops keep their registers. */
#define V_APART static __attribute__((noinline))

typedef struct {
    int exponent, mantissa, bias;
    qn_float_kind kind;
} v_format;

enum { V_INFINITY = 0x7F800000 };

V_INLINE int v_drop(v_format f) { return 23 - f.mantissa; }          /* bits that a mantissa loses */
V_INLINE int v_width(v_format f) { return f.exponent + f.mantissa; } /* bits of a code without its sign */
/* The difference of the exponent fields, as bits of a float32. */
V_INLINE int32_t v_rebias(v_format f) { return (127 - f.bias) * 0x800000; }
V_INLINE bool v_same_range(v_format f) { return f.exponent == 8 && f.bias == 127; } /* subnormals are those of f32 */
V_INLINE bool v_is_half(v_format f) { return f.exponent == 5 && f.mantissa == 10; } /* CPUs convert it */

/* The code of the largest number; the next one is infinity, NaN, or a sign bit. */
V_INLINE int32_t v_largest(v_format f) {
    if (f.kind == QN_IEEE) return (((1 << f.exponent) - 1) << f.mantissa) - 1;
    return (1 << v_width(f)) - (f.kind == QN_FN || f.kind == QN_SCALE ? 2 : 1);
}
/* The bits of a code as a float32, if its exponent field is neither 0 nor the highest. */
V_INLINE int32_t v_bits(v_format f, int32_t code) { return code * (1 << v_drop(f)) + v_rebias(f); }
/* The bound of magnitudes, as the bits of a float32: it rounds to the code of an overflow. */
V_INLINE int32_t v_limit(v_format f, bool saturate) {
    return v_bits(f, v_largest(f) + (f.kind != QN_FINITE && !saturate));
}

/* ---- float32 to a format ---- */

/* The addend below the kept bits: half, less one if the code is even, so that a tie stays at an even code. */
V_INLINE vi v_half(vi body, v_format f) {
    return vi_add(vi_set1((1 << (v_drop(f) - 1)) - 1), vi_low_unsigned(vi_shr(body, v_drop(f)), 1));
}

/* The code of a magnitude, in the lower half. Adding a power of two whose last bit is one quantum of x rounds x to
 * quanta, subnormals included, and leaves their number in the low bits; the exponent of the power counts the octaves
 * below. Both counts have a constant surplus, which the addend subtracts modulo 2^16. The surplus is even, so ties stay
 * ties to even. */
V_INLINE vi v_low_code(vf held, v_format f) {
    const int32_t least = (128 - f.bias) * 0x800000, drop = v_drop(f) * 0x800000,
                  surplus = (128 - f.bias) << f.mantissa;
    vi power = vi_max(vi_and(vi_from_bits(held), vi_set1(V_INFINITY)), vi_set1(least));
    vf addend = vf_from_bits(vi_add(power, vi_set1(drop + (-surplus & 0xFFFF))));
    return vi_add(vi_from_bits(vf_add(held, addend)), vi_shr(power, v_drop(f)));
}

/* Stochastic rounding below the smallest normal number: up with the probability of the fraction, to `places` bits. */
V_INLINE vi v_subnormal_random(vi body, vi random, v_format f) {
    const int places = 30 - f.mantissa;
    const int32_t scale = (127 + places - 1 + f.bias + f.mantissa) * 0x800000; /* 2^places quanta a unit */
    vi least = vi_set1(v_bits(f, 1 << f.mantissa));
    vf fixed = vf_mul(vf_from_bits(vi_min(body, least)), vf_from_bits(vi_set1(scale)));
    return vi_shr(vi_add(vi_truncate(fixed), vi_shr(random, 32 - places)), places);
}

V_INLINE vi v_round_code(vi held, v_format f) {
    if (v_same_range(f)) return vi_shr(vi_add(held, v_half(held, f)), v_drop(f));
    return vi_low_unsigned(v_low_code(vf_from_bits(held), f), 16);
}
/* Stochastic rounding: up with the probability of the fraction. Beyond the largest number it is to nearest, so that
 * overflow does not depend on chance. */
V_INLINE vi v_random_code(vi body, vi random, v_format f) {
    vi up = vi_if_less(vi_set1(v_bits(f, v_largest(f))), body, v_half(body, f), vi_shr(random, 32 - v_drop(f)));
    vi code = vi_shr(vi_add(body, vi_sub(up, vi_set1(v_rebias(f)))), v_drop(f));
    if (v_same_range(f)) return code;
    vi least = vi_set1(v_bits(f, 1 << f.mantissa));
    return vi_if_less(body, least, v_subnormal_random(body, random, f), code);
}

/* QN_SCALE, from the bits as they are: a sign makes them negative. The implicit bit is the last of the significand and
 * odd, so a tie goes up. A subnormal float32 has none: numbers above 2^-127 round to 2^-126, as in ml_dtypes. */
V_INLINE vi v_scale_code(vi bits, bool saturate, bool stochastic, vi random, v_format f) {
    const vi nan = vi_set1(v_largest(f) + 1), one = vi_set1(1), normal = vi_set1(0x800000);
    vi body = vi_low_unsigned(bits, 31), held = vi_min(bits, vi_set1(v_limit(f, saturate)));
    vi code = vi_shr(vi_add(held, vi_add(vi_set1(0x3FFFFF), vi_min(vi_shr(held, 23), one))), 23);
    if (stochastic) { /* between 2^-127 and 2^-126 the fraction has 22 bits */
        vi below = vi_shl(vi_max(vi_sub(held, vi_set1(0x400000)), vi_set1(0)), 1);
        vi lower = vi_if_less(held, normal, below, held);
        code = vi_if_less(vi_set1(0x7F000000), held, code, vi_shr(vi_add(lower, vi_shr(random, 9)), 23));
    }
    code = vi_if_less(bits, one, nan, code);
    if (saturate) code = vi_if_less(body, one, vi_set1(0), code);
    return vi_if_less(vi_set1(V_INFINITY), bits, nan, code);
}

/* A code with its sign. NaN becomes quiet and keeps the top of its payload if the format has one. */
V_INLINE vi v_to_code(vf x, vi random, v_format f, bool saturate, bool stochastic) {
    vi bits = vi_from_bits(x), body = vi_low_unsigned(bits, 31), infinity = vi_set1(V_INFINITY);
    if (f.kind == QN_SCALE) return v_scale_code(bits, saturate, stochastic, random, f);
    if (V_HALF && v_is_half(f) && !saturate && !stochastic) return vi_half(x);
    vi held = vi_min(body, vi_set1(v_limit(f, saturate)));
    vi code = stochastic ? v_random_code(held, random, f) : v_round_code(held, f);
    if (f.kind == QN_IEEE) {
        int32_t quiet = v_largest(f) + 1 + (1 << (f.mantissa - 1));
        vi nan = vi_or(vi_low_unsigned(vi_shr(body, v_drop(f)), f.mantissa), vi_set1(quiet));
        code = vi_if_less(infinity, body, nan, code);
    } else if (f.kind == QN_FINITE) { /* no NaN: a zero of the other sign, as ml_dtypes has it */
        code = vi_if_less(infinity, body, vi_set1(1 << v_width(f)), code);
    } else if (saturate) { /* without saturation the bound is NaN already */
        code = vi_if_less(infinity, body, vi_set1(v_largest(f) + 1), code);
    }
    vi sign = vi_and(vi_shr(bits, 31 - v_width(f)), vi_set1(1 << v_width(f)));
    if (f.kind == QN_FNUZ) sign = vi_if_less(vi_low_unsigned(code, v_width(f)), vi_set1(1), vi_set1(0), sign);
    return vi_xor(code, sign);
}

/* ---- fast path: four vectors without a NaN, the same codes ---- */

V_INLINE bool v_has_short_way(v_format f, bool saturate) {
    const bool upper_half = v_same_range(f) && f.mantissa == 7 && f.kind == QN_IEEE; /* of a float32: bfloat16 */
    return f.kind != QN_SCALE && (v_width(f) < 8 || (upper_half && !saturate));
}

V_INLINE void v_narrow4_8(uint8_t *h, const vf x[4], v_format f, bool saturate, bool stream) {
    vf limit = vf_from_bits(vi_set1(v_limit(f, saturate)));
    vi c[4], bits[4];
    for (int k = 0; k < 4; k++) c[k] = v_low_code(vf_hold_abs(x[k], limit), f), bits[k] = vi_from_bits(x[k]);
    vi_put4_signed(h, c, bits, 7 - v_width(f), f.kind == QN_FNUZ, stream);
}
V_INLINE void v_narrow4_16(uint16_t *h, const vf x[4], v_format f, bool saturate, bool stream) { /* bfloat16 */
    vi c[4];
    (void)saturate;
    for (int k = 0; k < 4; k++) c[k] = vi_add(vi_from_bits(x[k]), v_half(vi_from_bits(x[k]), f));
    vi_put4_high(h, c, stream);
}

/* ---- a format to float32, exact ---- */

V_INLINE vf v_from_code(vi code, v_format f) {
    if (f.kind == QN_SCALE) {
        vi bits = vi_if_less(code, vi_set1(1), vi_set1(0x400000), vi_shl(code, 23));
        return vf_from_bits(vi_if_less(vi_set1(v_largest(f)), code, vi_set1(V_INFINITY | 0x400000), bits));
    }
    if (v_same_range(f)) {
        vi bits = vi_shl(code, v_drop(f)), nan = vi_or(bits, vi_set1(0x400000));
        return vf_from_bits(vi_if_less(vi_set1(V_INFINITY), vi_low_unsigned(bits, 31), nan, bits));
    }
    if (V_HALF && v_is_half(f)) return vf_half(code);
    vf quantum = vf_from_bits(vi_set1((127 + 1 - f.bias - f.mantissa) * 0x800000));
    vi body = vi_low_unsigned(code, v_width(f)), shifted = vi_shl(body, v_drop(f));
    vi bits = vi_add(shifted, vi_set1(v_rebias(f)));
    bits = vi_if_less(body, vi_set1(1 << f.mantissa), vi_from_bits(vf_mul(vf_from_vi(body), quantum)), bits);
    vi last = vi_set1(v_largest(f)), quiet = vi_set1(V_INFINITY | 0x400000);
    if (f.kind == QN_IEEE) {
        vi nan = vi_if_less(vi_set1(v_largest(f) + 1), body, vi_or(shifted, quiet), vi_set1(V_INFINITY));
        bits = vi_if_less(last, body, nan, bits);
    }
    if (f.kind == QN_FN) bits = vi_if_less(last, body, quiet, bits);
    if (f.kind == QN_FNUZ) { /* the code of -0 is the one NaN */
        vi alone = vi_xor(code, vi_set1(1 << v_width(f)));
        bits = vi_if_less(alone, vi_set1(1), quiet, bits);
    }
    vi sign = vi_shl(vi_shr(code, v_width(f)), 31);
    return vf_from_bits(vi_xor(bits, sign));
}

/* ---- random bits ----
 *
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) under the key `seed`. Of each 64 elements in C order, number j has
 * word j / 16 of counter j % 16 of the 16 that belong to them; `stream` is another one for
 * each use.
 */
enum { V_DRAW = 64, V_COUNTERS = V_DRAW / 4 };

V_APART void v_random(uint64_t seed, int64_t draw, int32_t stream, int32_t random[V_DRAW]) {
    const uint64_t first = (uint64_t)draw * V_COUNTERS; /* no carry into the upper half: 16 divides 2^32 */
    int32_t low[V_COUNTERS];
    for (int k = 0; k < V_COUNTERS; k++) low[k] = (int32_t)((uint32_t)first + (uint32_t)k);
    for (int k = 0; k < V_COUNTERS; k += V_LANES) {
        vi c[4] = {vi_load(low + k), vi_set1((int32_t)(first >> 32)), vi_set1(stream), vi_set1(0)};
        uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
        for (int round = 0; round < 10; round++, key[0] += 0x9E3779B9, key[1] += 0xBB67AE85) {
            vi high[2], rest[2];
            v_multiply(c[0], 0xD2511F53, &high[0], &rest[0]), v_multiply(c[2], 0xCD9E8D57, &high[1], &rest[1]);
            c[0] = vi_xor(vi_xor(high[1], c[1]), vi_set1((int32_t)key[0])), c[1] = rest[1];
            c[2] = vi_xor(vi_xor(high[0], c[3]), vi_set1((int32_t)key[1])), c[3] = rest[0];
        }
        for (int word = 0; word < 4; word++) vi_store(random + word * V_COUNTERS + k, c[word]);
    }
}

/* ---- loops ---- */

V_INLINE bool v_any_nan(const vf v[4]) {
    return vm_any(vm_or_unordered(vm_or_unordered(vm_none(), v[0], v[1]), v[2], v[3]));
}

#define FLOAT_LOOPS(_, tag, NAME, name, bits, exponent_, mantissa_, bias_, kind_)                                      \
    V_INLINE vi narrow_one_##tag(vf x, vi random, bool saturate, bool stochastic) {                                    \
        const v_format f = {exponent_, mantissa_, bias_, kind_};                                                       \
        return v_to_code(x, random, f, saturate, stochastic);                                                          \
    }                                                                                                                  \
    V_APART void narrow_some_##tag(const float *x, uint##bits##_t *h, int64_t n, bool saturate) {                      \
        float in[V_LANES] = {0};                                                                                       \
        uint##bits##_t out[V_LANES];                                                                                   \
        memcpy(in, x, (size_t)n * sizeof *in);                                                                         \
        vi_store_u##bits(out, narrow_one_##tag(vf_load(in), vi_set1(0), saturate, false));                             \
        memcpy(h, out, (size_t)n * sizeof *out);                                                                       \
    }                                                                                                                  \
    V_INLINE void narrow_four_##tag(const float *x, uint##bits##_t *h, bool saturate, bool stream) {                   \
        vi c[4];                                                                                                       \
        for (int k = 0; k < 4; k++) c[k] = narrow_one_##tag(vf_load(x + k * V_LANES), vi_set1(0), saturate, false);    \
        vi_put4_u##bits(h, c[0], c[1], c[2], c[3], stream);                                                            \
    }                                                                                                                  \
    V_INLINE void narrow_nearest_##tag(const float *x, uint##bits##_t *h, int64_t n, const qn_cast *p,                 \
                                       bool saturate) {                                                                \
        const v_format f = {exponent_, mantissa_, bias_, kind_};                                                       \
        const int64_t head = p->stream ? v_misaligned(h, sizeof *h, n) : 0;                                            \
        const bool stream = p->stream;                                                                                 \
        int64_t i = 0;                                                                                                 \
        for (int64_t count; i < head; i += count) {                                                                    \
            count = head - i < V_LANES ? head - i : V_LANES;                                                           \
            narrow_some_##tag(x + i, h + i, count, saturate);                                                          \
        }                                                                                                              \
        for (; i + 4 * V_LANES <= n; i += 4 * V_LANES) {                                                               \
            for (; v_has_short_way(f, saturate) && i + 4 * V_LANES <= n; i += 4 * V_LANES) {                           \
                vf v[4];                                                                                               \
                for (int k = 0; k < 4; k++) v[k] = vf_load(x + i + k * V_LANES);                                       \
                if (v_any_nan(v)) break;                                                                               \
                v_narrow4_##bits(h + i, v, f, saturate, stream);                                                       \
            }                                                                                                          \
            if (i + 4 * V_LANES > n) break;                                                                            \
            narrow_four_##tag(x + i, h + i, saturate, stream);                                                         \
        }                                                                                                              \
        for (int64_t count; i < n; i += count) {                                                                       \
            count = n - i < V_LANES ? n - i : V_LANES;                                                                 \
            narrow_some_##tag(x + i, h + i, count, saturate);                                                          \
        }                                                                                                              \
        if (stream) v_fence();                                                                                         \
    }                                                                                                                  \
    V_INLINE void narrow_random_##tag(const float *x, uint##bits##_t *h, int64_t n, const qn_cast *p) {                \
        float in[V_DRAW] = {0};                                                                                        \
        uint##bits##_t out[V_DRAW];                                                                                    \
        int32_t random[V_DRAW];                                                                                        \
        for (int64_t i = 0, count; i < n; i += count) {                                                                \
            int64_t skip = (p->index + i) % V_DRAW;                                                                    \
            count = V_DRAW - skip < n - i ? V_DRAW - skip : n - i;                                                     \
            v_random(p->seed, (p->index + i) / V_DRAW, 0, random);                                                     \
            memcpy(in + skip, x + i, (size_t)count * sizeof *in);                                                      \
            for (int k = 0; k < V_DRAW; k += V_LANES)                                                                  \
                vi_store_u##bits(out + k, narrow_one_##tag(vf_load(in + k), vi_load(random + k), p->saturate, true));  \
            memcpy(h + i, out + skip, (size_t)count * sizeof *out);                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    static void narrow_f32_##tag(const float *x, uint##bits##_t *h, int64_t n, const qn_cast *p) {                     \
        if (p->stochastic) narrow_random_##tag(x, h, n, p);                                                            \
        else if (p->saturate) narrow_nearest_##tag(x, h, n, p, true);                                                  \
        else narrow_nearest_##tag(x, h, n, p, false);                                                                  \
    }                                                                                                                  \
    V_INLINE vf widen_one_##tag(vi code) {                                                                             \
        const v_format f = {exponent_, mantissa_, bias_, kind_};                                                       \
        return v_from_code(code, f);                                                                                   \
    }                                                                                                                  \
    V_APART void widen_some_##tag(const uint##bits##_t *h, float *x, int64_t n) {                                      \
        uint##bits##_t in[V_LANES] = {0};                                                                              \
        float out[V_LANES];                                                                                            \
        memcpy(in, h, (size_t)n * sizeof *in);                                                                         \
        vf_store(out, widen_one_##tag(vi_load_u##bits(in)));                                                           \
        memcpy(x, out, (size_t)n * sizeof *out);                                                                       \
    }                                                                                                                  \
    static void widen_##tag##_f32(const uint##bits##_t *h, float *x, int64_t n, const qn_cast *p) {                    \
        const int64_t head = p->stream ? v_misaligned(x, sizeof *x, n) : 0;                                            \
        const bool stream = p->stream;                                                                                 \
        int64_t i = 0;                                                                                                 \
        for (int64_t count; i < head; i += count) {                                                                    \
            count = head - i < V_LANES ? head - i : V_LANES;                                                           \
            widen_some_##tag(h + i, x + i, count);                                                                     \
        }                                                                                                              \
        for (; i + 4 * V_LANES <= n; i += 4 * V_LANES) {                                                               \
            vf v[4];                                                                                                   \
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) v[k] =                                                 \
                widen_one_##tag(vi_load_u##bits(h + i + k * V_LANES));                                                 \
            put4_f32(x + i, v, stream);                                                                                \
        }                                                                                                              \
        for (int64_t count; i < n; i += count) {                                                                       \
            count = n - i < V_LANES ? n - i : V_LANES;                                                                 \
            widen_some_##tag(h + i, x + i, count);                                                                     \
        }                                                                                                              \
        if (stream) v_fence();                                                                                         \
    }
QN_NARROW_FLOATS(FLOAT_LOOPS, _)

/* ---- float64 ---- */

V_INLINE float finite_f32(float x) { return fabsf(x) > FLT_MAX ? copysignf(FLT_MAX, x) : x; }
V_INLINE double finite_f64(double x) { return fabs(x) > DBL_MAX ? copysign(DBL_MAX, x) : x; }

/* The CPU's own conversion, with p->saturate clamped to finite numbers; NaN stays NaN. */
#define COPY(name, from, to, tag)                                                                                      \
    static void name(const from *restrict x, to *restrict y, int64_t n, const qn_cast *p) {                            \
        if (p->saturate)                                                                                               \
            for (int64_t i = 0; i < n; i++) y[i] = finite_##tag((to)x[i]);                                             \
        else                                                                                                           \
            for (int64_t i = 0; i < n; i++) y[i] = (to)x[i];                                                           \
    }
COPY(copy_f32_f32, float, float, f32)
COPY(copy_f64_f64, double, double, f64)
COPY(widen_f32_f64, float, double, f64)
COPY(nearest_f64_f32, double, float, f32)

/* Stochastic rounding of a float64, with 32 bits of the fraction; `exponent` is that of a float32's last bit. */
V_INLINE float random_one_f64(double x, uint32_t random, bool saturate) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t field = (int64_t)(bits >> 52 & 0x7FF), exponent = (field < 1023 - 126 ? 1023 - 126 : field) - 23;
    uint64_t quantum_bits = (uint64_t)exponent << 52, inverse_bits = (uint64_t)(2046 - exponent) << 52;
    double quantum, inverse;
    memcpy(&quantum, &quantum_bits, sizeof quantum), memcpy(&inverse, &inverse_bits, sizeof inverse);
    if (!(fabs(x) <= (double)FLT_MAX))
        return saturate ? finite_f32((float)x) : (float)x; /* overflow does not depend on chance */
    double quanta = fabs(x) * inverse, down = (double)(int64_t)quanta;
    double up = down + (random * 0x1p-32 < quanta - down);
    return (float)copysign(up * quantum, x);
}

static void narrow_f64_f32(const double *x, float *y, int64_t n, const qn_cast *p) {
    int32_t random[V_DRAW];
    if (!p->stochastic) nearest_f64_f32(x, y, n, p);
    else
        for (int64_t i = 0; i < n; i++) {
            int64_t at = p->index + i;
            if (i == 0 || at % V_DRAW == 0) v_random(p->seed, at / V_DRAW, 1, random);
            y[i] = random_one_f64(x[i], (uint32_t)random[at % V_DRAW], p->saturate);
        }
}

/* Rounding to odd: an inexact x becomes the neighbouring float32 whose last bit is 1. Rounding that to a narrower
 * format gives the same number as rounding x itself. float32 has at least two more bits than the format, among
 * subnormals too, so the last bit of every number and every tie of the format is 0 in float32. Rounding to odd gives
 * such a number only for an equal x, and moves no x across one. */
static void odd_f64_f32(const double *restrict x, float *restrict y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float nearest = (float)x[i];
        double back = fabs((double)nearest), from = fabs(x[i]);
        int32_t bits;
        memcpy(&bits, &nearest, sizeof bits);
        int32_t step = (back < from) - (back > from); /* of the magnitude, toward x */
        bits += bits & 1 ? 0 : step;
        memcpy(y + i, &bits, sizeof bits);
    }
}
