/* NEON, part of every aarch64: four float32 lanes. */
#include "qn_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <float.h>
#include <math.h>
#include <string.h>

#define QN_ROW qn_row_neon
#define V_LANES 4
#define V_FUSED_INVERSE 1
#define V_LOST_SHOWS 0
#define V_HALF 1
#define V_INLINE static inline __attribute__((always_inline))

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32x4_t vm;
typedef struct {
    int32x4_t z, lo, hi;
} v_narrow;

V_INLINE vf vf_set1(float x) { return vdupq_n_f32(x); }
V_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
V_INLINE void vf_store(float *p, vf v) { vst1q_f32(p, v); }
V_INLINE void vf_stream(float *p, vf v) { vst1q_f32(p, v); }
V_INLINE void v_fence(void) {}
V_INLINE vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
V_INLINE vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
V_INLINE vm vm_none(void) { return vdupq_n_u32(0); }
V_INLINE vm vm_or_unordered(vm m, vf a, vf b) {
    return vorrq_u32(m, vmvnq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b))));
}
V_INLINE bool vm_any(vm m) { return vmaxvq_u32(m) != 0; }
V_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
V_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
V_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
V_INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
V_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
/* Lanes i and i + distance become their sum and their difference; at most 2 apart. */
V_INLINE vf vf_sum_difference(vf v, const int distance) {
    vf other = distance == 2 ? vextq_f32(v, v, 2) : vrev64q_f32(v), sum = vaddq_f32(other, v);
    const uint32x4_t second = distance == 2 ? (uint32x4_t){0, 0, ~0u, ~0u} : (uint32x4_t){0, ~0u, 0, ~0u};
    return vbslq_f32(second, vsubq_f32(other, v), sum);
}
V_INLINE vf vf_clamp_abs(vf x, vf bound) { return vmaxq_f32(vminq_f32(x, bound), vnegq_f32(bound)); }
V_INLINE vf vf_hold_abs(vf x, vf bound) { return vminq_f32(vabsq_f32(x), bound); }
V_INLINE vf vf_copysign(vf magnitude, vf sign) { return vbslq_f32(vdupq_n_u32(0x80000000), sign, magnitude); }
V_INLINE vi vi_round(vf x) { return vcvtnq_s32_f32(x); }
V_INLINE vi vi_zero_nan(vi code, vf x) { return vandq_s32(code, vreinterpretq_s32_u32(vceqq_f32(x, x))); }
V_INLINE vi vi_truncate(vf x) { return vcvtq_s32_f32(x); }
V_INLINE vf vf_from_vi(vi x) { return vcvtq_f32_s32(x); }
V_INLINE vi vi_set1(int32_t x) { return vdupq_n_s32(x); }
V_INLINE vi vi_load(const int32_t *p) { return vld1q_s32(p); }
V_INLINE void vi_store(int32_t *p, vi v) { vst1q_s32(p, v); }
V_INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
V_INLINE vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
V_INLINE vi vi_dot2(vi sum, vi a, vi b) {
    int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
V_INLINE void vi_zip(vi *even, vi *odd) { /* interleaves the lanes: the first halves, the last halves */
    vi low = vzip1q_s32(*even, *odd);
    *odd = vzip2q_s32(*even, *odd), *even = low;
}
V_INLINE vi vi_min(vi a, vi b) { return vminq_s32(a, b); }
V_INLINE vi vi_max(vi a, vi b) { return vmaxq_s32(a, b); }
V_INLINE vi vi_max_unsigned(vi a, vi b) {
    return vreinterpretq_s32_u32(vmaxq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}
V_INLINE vi vi_min_unsigned(vi a, vi b) {
    return vreinterpretq_s32_u32(vminq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}
V_INLINE vi vi_from_bits(vf x) { return vreinterpretq_s32_f32(x); }
V_INLINE vf vf_from_bits(vi bits) { return vreinterpretq_f32_s32(bits); }
V_INLINE vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
V_INLINE vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
V_INLINE vi vi_xor(vi a, vi b) { return veorq_s32(a, b); }
V_INLINE vi vi_shl(vi a, int bits) { return vshlq_s32(a, vdupq_n_s32(bits)); }
V_INLINE vi vi_shr(vi a, int bits) {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-bits)));
}
V_INLINE vi vi_sra(vi a, int bits) { return vshlq_s32(a, vdupq_n_s32(-bits)); }
V_INLINE vi vi_if_less(vi a, vi b, vi yes, vi no) { return vbslq_s32(vcltq_s32(a, b), yes, no); }
V_INLINE void v_multiply(vi a, uint32_t by, vi *high, vi *low) { /* all 64 bits of an unsigned product */
    uint32x4_t u = vreinterpretq_u32_s32(a), m = vdupq_n_u32(by);
    uint32x4_t first = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(u), vget_low_u32(m)));
    uint32x4_t second = vreinterpretq_u32_u64(vmull_high_u32(u, m));
    *high = vreinterpretq_s32_u32(vuzp2q_u32(first, second)), *low = vreinterpretq_s32_u32(vuzp1q_u32(first, second));
}
V_INLINE uint8x8_t four_bytes(const void *p) {
    uint32_t bits;
    memcpy(&bits, p, 4);
    return vcreate_u8(bits);
}
V_INLINE bool vi_any_lost(vi a, vi b, vi c, vi d) { return (void)a, (void)b, (void)c, (void)d, true; } /* NaN gives 0 */
V_INLINE vi vi_load_i8(const int8_t *p) { return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p))))); }
V_INLINE vi vi_load_u8(const uint8_t *p) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))));
}
V_INLINE vi vi_load_i16(const int16_t *p) { return vmovl_s16(vld1_s16(p)); }
V_INLINE vi vi_load_u16(const uint16_t *p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))); }
/* QN_REACH codes less Z, ANDed with `keep`. */
V_INLINE void v_wide_codes(int16_t *to, const uint8_t *x, int32_t zero_point, const int16_t *keep, bool is_signed) {
    int16x8_t zero = vdupq_n_s16((int16_t)zero_point);
    for (int k = 0; k < QN_REACH; k += 8) {
        uint8x8_t codes = vld1_u8(x + k);
        int16x8_t words = is_signed ? vmovl_s8(vreinterpret_s8_u8(codes)) : vreinterpretq_s16_u16(vmovl_u8(codes));
        vst1q_s16(to + k, vandq_s16(vsubq_s16(words, zero), vld1q_s16(keep + k)));
    }
}
V_INLINE vi vi_low_signed(vi a, int bits) {
    return vshlq_s32(vshlq_s32(a, vdupq_n_s32(32 - bits)), vdupq_n_s32(bits - 32));
}
V_INLINE vi vi_low_unsigned(vi a, int bits) { return vandq_s32(a, vdupq_n_s32((int32_t)((1u << bits) - 1))); }
V_INLINE int16x4_t low16(vi v) { return vmovn_s32(v); }
V_INLINE void four_out(void *p, int16x4_t v) {
    uint32_t bits = vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(v, v))), 0);
    memcpy(p, &bits, 4);
}
V_INLINE void vi_store_i8(int8_t *p, vi v) { four_out(p, low16(v)); }
V_INLINE void vi_store_u8(uint8_t *p, vi v) { four_out(p, low16(v)); }
V_INLINE void vi_store_i16(int16_t *p, vi v) { vst1_s16(p, low16(v)); }
V_INLINE void vi_store_u16(uint16_t *p, vi v) { vst1_u16(p, vreinterpret_u16_s16(low16(v))); }
V_INLINE void vi_put4_u8(uint8_t *p, vi a, vi b, vi c, vi d, bool stream) {
    (void)stream;
    int16x8_t ab = vcombine_s16(low16(a), low16(b)), cd = vcombine_s16(low16(c), low16(d));
    vst1q_u8(p, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(ab), vmovn_s16(cd))));
}
V_INLINE void vi_put4_u16(uint16_t *p, vi a, vi b, vi c, vi d, bool stream) {
    (void)stream;
    vi_store_u16(p, a), vi_store_u16(p + 4, b), vi_store_u16(p + 8, c), vi_store_u16(p + 12, d);
}
/* The low bytes of four vectors shifted right by `shift`. */
V_INLINE uint8x16_t bytes_of(const vi v[4], int shift) {
    int32x4_t by = vdupq_n_s32(-shift);
    int16x8_t ab = vcombine_s16(low16(vshlq_s32(v[0], by)), low16(vshlq_s32(v[1], by)));
    int16x8_t cd = vcombine_s16(low16(vshlq_s32(v[2], by)), low16(vshlq_s32(v[3], by)));
    return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(ab), vmovn_s16(cd)));
}
/* Stores c, which are bytes, with the sign bits of x shifted right by `down`. */
V_INLINE void vi_put4_signed(uint8_t *p, const vi c[4], const vi x[4], int down, bool no_minus_zero, bool stream) {
    (void)stream;
    uint8x16_t codes = bytes_of(c, 0), signs = vandq_u8(bytes_of(x, 24 + down), vdupq_n_u8((uint8_t)(0x80 >> down)));
    if (no_minus_zero) signs = vandq_u8(signs, vtstq_u8(codes, codes));
    vst1q_u8(p, vorrq_u8(codes, signs));
}
V_INLINE void vi_put4_high(uint16_t *p, const vi c[4], bool stream) {
    vi_put4_u16(p, vi_shr(c[0], 16), vi_shr(c[1], 16), vi_shr(c[2], 16), vi_shr(c[3], 16), stream);
}

V_INLINE v_narrow v_narrow_set(int32_t z, int32_t lo, int32_t hi) {
    return (v_narrow){vdupq_n_s32(z), vdupq_n_s32(lo), vdupq_n_s32(hi)};
}
V_INLINE int16x8_t pair16(vi a, vi b, const v_narrow *n) {
    vi c = vi_min(vi_max(vi_add(a, n->z), n->lo), n->hi), d = vi_min(vi_max(vi_add(b, n->z), n->lo), n->hi);
    return vcombine_s16(low16(c), low16(d));
}
V_INLINE void vi_store4_i8(int8_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    (void)stream;
    vst1q_s8(p, vcombine_s8(vmovn_s16(pair16(a, b, n)), vmovn_s16(pair16(c, d, n))));
}
V_INLINE void vi_store4_i16(int16_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    (void)stream;
    vst1q_s16(p, pair16(a, b, n)), vst1q_s16(p + 8, pair16(c, d, n));
}
V_INLINE void vi_store4_u8(uint8_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    vi_store4_i8((int8_t *)p, a, b, c, d, n, stream);
}
V_INLINE void vi_store4_u16(uint16_t *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {
    vi_store4_i16((int16_t *)p, a, b, c, d, n, stream);
}

V_INLINE vi vi_half(vf x) { return vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(x)))); }
V_INLINE vf vf_half(vi code) { return vcvt_f32_f16(vreinterpret_f16_s16(low16(code))); }
V_INLINE vf vf_lookup(const float *table, vi code) { /* bytes 4 c to 4 c + 3 of the table */
    const uint8_t *bytes = (const uint8_t *)table;
    const uint8x16x4_t levels = {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
    const uint32x4_t low = vandq_u32(vreinterpretq_u32_s32(code), vdupq_n_u32(15));
    const uint32x4_t at = vaddq_u32(vmulq_n_u32(low, 0x04040404), vdupq_n_u32(0x03020100));
    return vreinterpretq_f32_u8(vqtbl4q_u8(levels, vreinterpretq_u8_u32(at)));
}
V_INLINE vf vf_gather(const float *tables, vi code, int step) { /* lane i of table i */
    vf x = vdupq_n_f32(tables[vgetq_lane_s32(code, 0)]);
    x = vld1q_lane_f32(tables + step + vgetq_lane_s32(code, 1), x, 1);
    x = vld1q_lane_f32(tables + 2 * step + vgetq_lane_s32(code, 2), x, 2);
    return vld1q_lane_f32(tables + 3 * step + vgetq_lane_s32(code, 3), x, 3);
}

typedef struct {
    int16x8_t half[2];
} vw; /* 16 words, one for each column of a panel */
V_INLINE vw vw_load(const uint8_t *p) {
    return (vw){{vreinterpretq_s16_u8(vld1q_u8(p)), vreinterpretq_s16_u8(vld1q_u8(p + 16))}};
}
V_INLINE vw vw_shl(vw v, int bits) {
    const int16x8_t by = vdupq_n_s16((int16_t)bits);
    return (vw){{vshlq_s16(v.half[0], by), vshlq_s16(v.half[1], by)}};
}
V_INLINE vw vw_sra(vw v, int bits) { return vw_shl(v, -bits); }
V_INLINE vw vw_and(vw v, int mask) {
    const int16x8_t m = vdupq_n_s16((int16_t)mask);
    return (vw){{vandq_s16(v.half[0], m), vandq_s16(v.half[1], m)}};
}
V_INLINE vw vw_or(vw a, vw b) { return (vw){{vorrq_s16(a.half[0], b.half[0]), vorrq_s16(a.half[1], b.half[1])}}; }
V_INLINE void vw_halves(vw v, vf *x) { /* the float16 of every word */
    for (int h = 0; h < 2; h++) {
        const float16x8_t halves = vreinterpretq_f16_s16(v.half[h]);
        x[2 * h] = vcvt_f32_f16(vget_low_f16(halves)), x[2 * h + 1] = vcvt_high_f32_f16(halves);
    }
}

#include "panel_neon.h"

#include "matmul_neon_base.h"

#include "bodies.h"
#endif
