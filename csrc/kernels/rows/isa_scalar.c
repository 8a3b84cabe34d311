/* The scalar ISA row, which is normative. Vectors of one lane, true division, plain C. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "qn_kernels.h"

#define QN_ROW qn_row_scalar
#define V_LANES 1
#define V_FUSED_INVERSE 0 /* without an FMA instruction a division is simpler and faster */
#define V_LOST_SHOWS 0
#define V_HALF 0
#define V_INLINE static inline __attribute__((always_inline))

typedef float vf;
typedef int32_t vi;
typedef bool vm;
typedef struct {
    int32_t z, lo, hi;
} v_narrow;

V_INLINE vf vf_set1(float x) { return x; }
V_INLINE vf vf_load(const float *p) { return *p; }
V_INLINE void vf_store(float *p, vf v) { *p = v; }
V_INLINE void vf_stream(float *p, vf v) { *p = v; }
V_INLINE void v_fence(void) {}
V_INLINE vf vf_min(vf a, vf b) { return a < b ? a : b; }
V_INLINE vf vf_max(vf a, vf b) { return a > b ? a : b; }
V_INLINE vm vm_none(void) { return false; }
V_INLINE vm vm_or_unordered(vm m, vf a, vf b) { return m || a != a || b != b; }
V_INLINE bool vm_any(vm m) { return m; }
V_INLINE vf vf_add(vf a, vf b) { return a + b; }
V_INLINE vf vf_sub(vf a, vf b) { return a - b; }
V_INLINE vf vf_sum_difference(vf v, int distance) { return (void)distance, v; } /* not called: one lane */
V_INLINE vf vf_mul(vf a, vf b) { return a * b; }
V_INLINE vf vf_div(vf a, vf b) { return a / b; }
V_INLINE vf vf_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }
V_INLINE vf vf_clamp_abs(vf x, vf bound) { return x < bound ? x > -bound ? x : -bound : bound; } /* NaN: the bound */
V_INLINE vf vf_hold_abs(vf x, vf bound) { return fabsf(x) < bound ? fabsf(x) : bound; }
V_INLINE vf vf_copysign(vf magnitude, vf sign) { return copysignf(magnitude, sign); }
V_INLINE vi vi_round(vf x) { return (int32_t)lrintf(x); }
V_INLINE vi vi_zero_nan(vi code, vf x) { return x == x ? code : 0; }
V_INLINE vi vi_truncate(vf x) { return (int32_t)x; }
V_INLINE vf vf_from_vi(vi x) { return (float)x; }
V_INLINE vi vi_set1(int32_t x) { return x; }
V_INLINE vi vi_load(const int32_t *p) { return *p; }
V_INLINE void vi_store(int32_t *p, vi v) { *p = v; }
V_INLINE vi vi_add(vi a, vi b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
V_INLINE vi vi_sub(vi a, vi b) { return (int32_t)((uint32_t)a - (uint32_t)b); }
V_INLINE vi vi_dot2(vi sum, vi a, vi b) { /* sum plus the products of both int16 halves */
    return (int32_t)((uint32_t)sum + (uint32_t)((int16_t)a * (int16_t)b) + (uint32_t)((a >> 16) * (b >> 16)));
}
V_INLINE void vi_zip(vi *even, vi *odd) { (void)even, (void)odd; } /* one lane each: in order */
V_INLINE vi vi_min(vi a, vi b) { return a < b ? a : b; }
V_INLINE vi vi_max(vi a, vi b) { return a > b ? a : b; }
V_INLINE vi vi_max_unsigned(vi a, vi b) { return (uint32_t)a > (uint32_t)b ? a : b; }
V_INLINE vi vi_min_unsigned(vi a, vi b) { return (uint32_t)a < (uint32_t)b ? a : b; }
V_INLINE bool vi_any_lost(vi a, vi b, vi c, vi d) { return (void)a, (void)b, (void)c, (void)d, true; } /* NaN gives 0 */
V_INLINE vi vi_from_bits(vf x) {
    vi bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
V_INLINE vf vf_from_bits(vi bits) {
    vf x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
V_INLINE vi vi_and(vi a, vi b) { return a & b; }
V_INLINE vi vi_or(vi a, vi b) { return a | b; }
V_INLINE vi vi_xor(vi a, vi b) { return a ^ b; }
V_INLINE vi vi_shl(vi a, int bits) { return (int32_t)((uint32_t)a << bits); }
V_INLINE vi vi_shr(vi a, int bits) { return (int32_t)((uint32_t)a >> bits); }
V_INLINE void v_multiply(vi a, uint32_t by, vi *high, vi *low) { /* all 64 bits of an unsigned product */
    uint64_t product = (uint64_t)(uint32_t)a * by;
    *high = (int32_t)(product >> 32), *low = (int32_t)product;
}
V_INLINE vi vi_sra(vi a, int bits) { return a >> bits; }
V_INLINE vi vi_if_less(vi a, vi b, vi yes, vi no) { return a < b ? yes : no; }
V_INLINE vi vi_load_i8(const int8_t *p) { return *p; }
V_INLINE vi vi_load_u8(const uint8_t *p) { return *p; }
V_INLINE vi vi_load_i16(const int16_t *p) { return *p; }
V_INLINE vi vi_load_u16(const uint16_t *p) { return *p; }
/* QN_REACH codes less Z, ANDed with `keep`. */
V_INLINE void v_wide_codes(int16_t *to, const uint8_t *x, int32_t zero_point, const int16_t *keep, bool is_signed) {
    for (int k = 0; k < QN_REACH; k++) to[k] = (int16_t)(((is_signed ? (int8_t)x[k] : x[k]) - zero_point) & keep[k]);
}
V_INLINE vi vi_low_signed(vi a, int bits) { return (int32_t)((uint32_t)a << (32 - bits)) >> (32 - bits); }
V_INLINE vi vi_low_unsigned(vi a, int bits) { return a & (int32_t)((1u << bits) - 1); }
V_INLINE void vi_store_i8(int8_t *p, vi v) { *p = (int8_t)v; }
V_INLINE void vi_store_u8(uint8_t *p, vi v) { *p = (uint8_t)v; }
V_INLINE void vi_store_i16(int16_t *p, vi v) { *p = (int16_t)v; }
V_INLINE void vi_store_u16(uint16_t *p, vi v) { *p = (uint16_t)v; }
#define PUT4(bits)                                                                                                     \
    V_INLINE void vi_put4_u##bits(uint##bits##_t *p, vi a, vi b, vi c, vi d, bool stream) {                            \
        (void)stream;                                                                                                  \
        vi_store_u##bits(p, a), vi_store_u##bits(p + 1, b), vi_store_u##bits(p + 2, c), vi_store_u##bits(p + 3, d);    \
    }
PUT4(8)
PUT4(16)
/* Stores c, which are bytes, with the sign bits of x shifted right by `down`. */
V_INLINE void vi_put4_signed(uint8_t *p, const vi c[4], const vi x[4], int down, bool no_minus_zero, bool stream) {
    (void)stream;
    for (int k = 0; k < 4; k++) {
        int32_t code = c[k] & 0xFFFF;
        p[k] = (uint8_t)(code | (x[k] < 0 && !(no_minus_zero && code == 0) ? 0x80 >> down : 0));
    }
}
V_INLINE void vi_put4_high(uint16_t *p, const vi c[4], bool stream) {
    (void)stream;
    for (int k = 0; k < 4; k++) p[k] = (uint16_t)((uint32_t)c[k] >> 16);
}
V_INLINE vi vi_half(vf x) { return vi_from_bits(x); } /* not called: V_HALF */
V_INLINE vf vf_half(vi code) { return vf_from_bits(code); }
V_INLINE vf vf_lookup(const float *table, vi code) { return table[code & 15]; }
V_INLINE vf vf_gather(const float *tables, vi code, int step) {
    (void)step;
    return tables[code];
}

V_INLINE v_narrow v_narrow_set(int32_t z, int32_t lo, int32_t hi) { return (v_narrow){z, lo, hi}; }
V_INLINE int32_t narrow1(vi c, const v_narrow *n) {
    c += n->z;
    return c < n->lo ? n->lo : c > n->hi ? n->hi : c;
}
#define STORE4(_, tag, NAME, name, type, bits, is_signed, storage)                                                     \
    V_INLINE void vi_store4_##tag(type *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {                   \
        (void)stream;                                                                                                  \
        p[0] = (type)narrow1(a, n), p[1] = (type)narrow1(b, n), p[2] = (type)narrow1(c, n),                            \
        p[3] = (type)narrow1(d, n);                                                                                    \
    }
QN_WHOLE_CODES(STORE4, _)

/* 16 words, one for each column of a panel. */
typedef struct {
    uint16_t lane[QN_PANEL];
} vw;
#define EACH_WORD(v, value)                                                                                            \
    for (int k = 0; k < QN_PANEL; k++) (v).lane[k] = (uint16_t)(value)
V_INLINE vw vw_load(const uint8_t *p) {
    vw v;
    memcpy(v.lane, p, sizeof v.lane);
    return v;
}
V_INLINE vw vw_shl(vw v, int bits) {
    EACH_WORD(v, v.lane[k] << bits);
    return v;
}
V_INLINE vw vw_sra(vw v, int bits) {
    EACH_WORD(v, (int16_t)v.lane[k] >> bits);
    return v;
}
V_INLINE vw vw_and(vw v, int mask) {
    EACH_WORD(v, v.lane[k] & mask);
    return v;
}
V_INLINE vw vw_or(vw a, vw b) {
    EACH_WORD(a, a.lane[k] | b.lane[k]);
    return a;
}
/* The float16 of every word; what a NaN becomes is not specified. */
V_INLINE void vw_halves(vw v, vf *x) {
    for (int k = 0; k < QN_PANEL; k++) {
        int32_t body = v.lane[k] & 0x7FFF;
        float magnitude = body < 0x7C00 ? vf_from_bits(body << 13) * 0x1p112f : INFINITY;
        x[k] = v.lane[k] & 0x8000 ? -magnitude : magnitude;
    }
}

#include "panel_plain.h"

#include "bodies.h"
