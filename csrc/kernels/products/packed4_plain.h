/* The primitives of packed4_body.h in plain C: 16 columns are 16 elements of an array. */

typedef struct {
    uint8_t lane[64]; /* [16 columns][4 neighbours in k] */
} v4_codes;
typedef struct {
    int32_t lane[16];
} v4_sums, v4_i32;
typedef struct {
    float lane[16];
} v4_f32;

enum { V4_ROWS = 4 };

V_INLINE v4_codes v4_low(const uint8_t *p) {
    v4_codes u;
    for (int i = 0; i < 64; i++) u.lane[i] = p[i] & 15;
    return u;
}
V_INLINE v4_codes v4_high(const uint8_t *p) {
    v4_codes u;
    for (int i = 0; i < 64; i++) u.lane[i] = p[i] >> 4;
    return u;
}
V_INLINE v4_codes v4_plus(v4_codes a, v4_codes b) {
    for (int i = 0; i < 64; i++) a.lane[i] = (uint8_t)(a.lane[i] + b.lane[i]);
    return a;
}
V_INLINE v4_sums v4_begin(v4_i32 sum) { return sum; }
V_INLINE v4_i32 v4_end(v4_i32 sum, v4_sums s) { return (void)sum, s; }
V_INLINE v4_sums v4_dot(v4_sums s, v4_codes u, const int8_t *a) {
    for (int c = 0; c < 16; c++)
        for (int k = 0; k < 4; k++) s.lane[c] += u.lane[4 * c + k] * a[k];
    return s;
}
V_INLINE v4_i32 v4_eights(const int32_t *minus_sum) {
    v4_i32 v;
    for (int c = 0; c < 16; c++) v.lane[c] = QN_ZERO_4 * *minus_sum;
    return v;
}
V_INLINE v4_i32 v4_zeros(const int32_t *minus_sum, const uint8_t *zero) {
    v4_i32 v;
    for (int c = 0; c < 16; c++) v.lane[c] = *minus_sum * zero[c];
    return v;
}
V_INLINE v4_i32 v4_times(v4_i32 sum, v4_i32 n, const int32_t *by) {
    for (int c = 0; c < 16; c++) sum.lane[c] += n.lane[c] * *by;
    return sum;
}
V_INLINE v4_f32 v4_load(const float *y) {
    v4_f32 v;
    memcpy(v.lane, y, sizeof v.lane);
    return v;
}
V_INLINE void v4_store(float *y, v4_f32 v) { memcpy(y, v.lane, sizeof v.lane); }
/* float16 scales are positive and normal, or 0 past the last column. */
V_INLINE v4_f32 v4_scales(const uint8_t *p, bool half) {
    v4_f32 v;
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
V_INLINE v4_f32 v4_add(v4_f32 y, v4_i32 sum, v4_f32 scale, float x_scale) {
    for (int c = 0; c < 16; c++) {
        float step = x_scale * scale.lane[c], term = (float)sum.lane[c] * step;
        y.lane[c] += term;
    }
    return y;
}
