/* The primitives of panel_body.h in NEON: 16 columns are four vectors. With dot products sdot adds four
 * products to an int32 at once; without them int16 holds those of 32 neighbours in k, 8 * 15 * 128 = 15360. */

typedef struct {
    int8x16_t quarter[4]; /* 4 columns each, 4 neighbours in k of a column in 32 bits */
} vp_codes;
typedef struct {
    int32x4_t quarter[4];
} vp_i32;
typedef struct {
    float32x4_t quarter[4];
} vp_f32;

#define VP_QUARTERS(i) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)

V_INLINE vp_codes vp_field(const uint8_t *p, const int bits, const int f) {
    vp_codes u;
    VP_QUARTERS(i) {
        const uint8x16_t down = vshlq_u8(vld1q_u8(p + 16 * i), vdupq_n_s8((int8_t)(-f * bits)));
        u.quarter[i] = vreinterpretq_s8_u8(vandq_u8(down, vdupq_n_u8((uint8_t)((1 << bits) - 1))));
    }
    return u;
}
V_INLINE vp_codes vp_plus(vp_codes a, vp_codes b) {
    VP_QUARTERS(i) a.quarter[i] = vaddq_s8(a.quarter[i], b.quarter[i]);
    return a;
}
V_INLINE int8x16_t vp_quartet(const int8_t *a) {
    int32_t quartet;
    memcpy(&quartet, a, sizeof quartet);
    return vreinterpretq_s8_s32(vdupq_n_s32(quartet));
}
enum { VP_WHOLE = false };
#ifdef VP_DOT
typedef vp_i32 vp_sums;
enum { VP_ROWS = 4 };
V_INLINE vp_sums vp_begin(vp_i32 sum) { return sum; }
V_INLINE vp_sums vp_dot(vp_sums s, vp_codes u, const int8_t *a) {
    const int8x16_t x = vp_quartet(a);
    VP_QUARTERS(i) s.quarter[i] = vdotq_s32(s.quarter[i], u.quarter[i], x);
    return s;
}
V_INLINE vp_i32 vp_end(vp_i32 sum, vp_sums s) { return (void)sum, s; }
#else
typedef struct {
    int16x8_t eighth[8]; /* 2 columns each */
} vp_sums;
enum { VP_ROWS = 2 };
V_INLINE vp_sums vp_begin(vp_i32 sum) {
    vp_sums s;
    (void)sum;
    for (int i = 0; i < 8; i++) s.eighth[i] = vdupq_n_s16(0);
    return s;
}
V_INLINE vp_sums vp_dot(vp_sums s, vp_codes u, const int8_t *a) {
    const int8x16_t x = vp_quartet(a);
    VP_QUARTERS(i) {
        s.eighth[2 * i] = vmlal_s8(s.eighth[2 * i], vget_low_s8(u.quarter[i]), vget_low_s8(x));
        s.eighth[2 * i + 1] = vmlal_high_s8(s.eighth[2 * i + 1], u.quarter[i], x);
    }
    return s;
}
V_INLINE vp_i32 vp_end(vp_i32 sum, vp_sums s) {
    VP_QUARTERS(i) {
        int32x4_t four = vpaddq_s32(vpaddlq_s16(s.eighth[2 * i]), vpaddlq_s16(s.eighth[2 * i + 1]));
        sum.quarter[i] = vaddq_s32(sum.quarter[i], four);
    }
    return sum;
}
#endif
V_INLINE vp_i32 vp_plus_16(vp_i32 sum, vp_i32 n) {
    VP_QUARTERS(i) sum.quarter[i] = vmlaq_n_s32(sum.quarter[i], n.quarter[i], 16);
    return sum;
}
V_INLINE vp_i32 vp_middle(const int32_t *minus_sum, const int bits) {
    vp_i32 v;
    VP_QUARTERS(i) v.quarter[i] = vdupq_n_s32(*minus_sum * (1 << (bits - 1)));
    return v;
}
V_INLINE vp_i32 vp_zeros(const int32_t *minus_sum, const uint8_t *zero) {
    const uint8x16_t z = vld1q_u8(zero);
    const uint16x8_t half[2] = {vmovl_u8(vget_low_u8(z)), vmovl_high_u8(z)};
    vp_i32 v;
    VP_QUARTERS(i) {
        uint32x4_t four = i % 2 ? vmovl_high_u16(half[i / 2]) : vmovl_u16(vget_low_u16(half[i / 2]));
        v.quarter[i] = vmulq_n_s32(vreinterpretq_s32_u32(four), *minus_sum);
    }
    return v;
}
V_INLINE vp_i32 vp_times(vp_i32 sum, vp_i32 n, const int32_t *by) {
    VP_QUARTERS(i) sum.quarter[i] = vmlaq_n_s32(sum.quarter[i], n.quarter[i], *by);
    return sum;
}
V_INLINE vp_f32 vp_load(const float *y) {
    vp_f32 v;
    VP_QUARTERS(i) v.quarter[i] = vld1q_f32(y + 4 * i);
    return v;
}
V_INLINE void vp_store(float *y, vp_f32 v) { VP_QUARTERS(i) vst1q_f32(y + 4 * i, v.quarter[i]); }
V_INLINE vp_f32 vp_scales(const uint8_t *p, bool half) {
    vp_f32 v;
    if (!half) return vp_load((const float *)(const void *)p);
    VP_QUARTERS(i) v.quarter[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i)));
    return v;
}
V_INLINE vp_f32 vp_add(vp_f32 y, vp_i32 sum, vp_f32 scale, float x_scale) {
    VP_QUARTERS(i) {
        float32x4_t step = vmulq_n_f32(scale.quarter[i], x_scale);
        y.quarter[i] = vaddq_f32(y.quarter[i], vmulq_f32(vcvtq_f32_s32(sum.quarter[i]), step));
    }
    return y;
}
