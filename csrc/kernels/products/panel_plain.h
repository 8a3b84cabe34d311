/* The primitives of panel_body.h in plain C: 16 columns are 16 elements of an array. */

typedef struct {
    uint8_t lane[64]; /* [16 columns][4 neighbours in k] */
} vp_codes;
typedef struct {
    int32_t lane[16];
} vp_sums, vp_i32;
typedef struct {
    float lane[16];
} vp_f32;

enum { VP_ROWS = 4, VP_WHOLE = true };
#define VP_COMPACT 1

V_INLINE vp_codes vp_field(const uint8_t *p, const int bits, const int f) {
    vp_codes u;
    for (int i = 0; i < 64; i++) u.lane[i] = (uint8_t)(p[i] >> (f * bits) & ((1 << bits) - 1));
    return u;
}
V_INLINE vp_codes vp_plus(vp_codes a, vp_codes b) {
    for (int i = 0; i < 64; i++) a.lane[i] = (uint8_t)(a.lane[i] + b.lane[i]);
    return a;
}
V_INLINE vp_sums vp_begin(vp_i32 sum) { return sum; }
V_INLINE vp_i32 vp_end(vp_i32 sum, vp_sums s) { return (void)sum, s; }
V_INLINE vp_sums vp_dot(vp_sums s, vp_codes u, const int8_t *a) {
    for (int c = 0; c < 16; c++)
        for (int k = 0; k < 4; k++) s.lane[c] += u.lane[4 * c + k] * a[k];
    return s;
}
V_INLINE vp_i32 vp_plus_16(vp_i32 sum, vp_i32 n) {
    for (int c = 0; c < 16; c++) sum.lane[c] += 16 * n.lane[c];
    return sum;
}
V_INLINE vp_i32 vp_middle(const int32_t *minus_sum, const int bits) {
    vp_i32 v;
    for (int c = 0; c < 16; c++) v.lane[c] = *minus_sum * (1 << (bits - 1));
    return v;
}
V_INLINE vp_i32 vp_zeros(const int32_t *minus_sum, const uint8_t *zero) {
    vp_i32 v;
    for (int c = 0; c < 16; c++) v.lane[c] = *minus_sum * zero[c];
    return v;
}
V_INLINE vp_i32 vp_times(vp_i32 sum, vp_i32 n, const int32_t *by) {
    for (int c = 0; c < 16; c++) sum.lane[c] += n.lane[c] * *by;
    return sum;
}
V_INLINE vp_f32 vp_load(const float *y) {
    vp_f32 v;
    memcpy(v.lane, y, sizeof v.lane);
    return v;
}
V_INLINE void vp_store(float *y, vp_f32 v) { memcpy(y, v.lane, sizeof v.lane); }
/* float16 scales are positive and normal, or 0 past the last column. */
V_INLINE vp_f32 vp_scales(const uint8_t *p, bool half) {
    vp_f32 v;
    uint16_t halves[16];
    uint32_t bits[16];
    if (!half) {
        memcpy(v.lane, p, sizeof v.lane);
        return v;
    }
    memcpy(halves, p, sizeof halves);
    for (int c = 0; c < 16; c++) bits[c] = halves[c] ? ((uint32_t)halves[c] << 13) + ((127 - 15) << 23) : 0;
    memcpy(v.lane, bits, sizeof bits);
    return v;
}
V_INLINE vp_f32 vp_add(vp_f32 y, vp_i32 sum, vp_f32 scale, float x_scale) {
    for (int c = 0; c < 16; c++) {
        float step = x_scale * scale.lane[c], term = (float)sum.lane[c] * step;
        y.lane[c] += term;
    }
    return y;
}
