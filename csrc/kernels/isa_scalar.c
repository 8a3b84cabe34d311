/* The scalar row: normative. Vectors of one lane, true division, plain C. */
#include <math.h>
#include <string.h>

#include "qn_kernels.h"

#define QN_ROW qn_row_scalar
#define V_LANES 1
#define V_FUSED_INVERSE 0 /* without an FMA instruction the division is both simpler and faster */
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
V_INLINE float vf_min_lanes(vf v) { return v; }
V_INLINE float vf_max_lanes(vf v) { return v; }
V_INLINE vm vm_none(void) { return false; }
V_INLINE vm vm_or_unordered(vm m, vf a, vf b) { return m || a != a || b != b; }
V_INLINE bool vm_any(vm m) { return m; }
V_INLINE vf vf_add(vf a, vf b) { return a + b; }
V_INLINE vf vf_mul(vf a, vf b) { return a * b; }
V_INLINE vf vf_div(vf a, vf b) { return a / b; }
V_INLINE vf vf_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }
V_INLINE vf vf_clamp_abs(vf x, vf bound) { return x < bound ? x > -bound ? x : -bound : bound; } /* NaN: the bound */
V_INLINE vf vf_copysign(vf magnitude, vf sign) { return copysignf(magnitude, sign); }
V_INLINE vi vi_round(vf x) { return (int32_t)lrintf(x); }
V_INLINE vi vi_zero_nan(vi code, vf x) { return x == x ? code : 0; }
V_INLINE vi vi_truncate(vf x) { return (int32_t)x; }
V_INLINE vf vf_from_vi(vi x) { return (float)x; }
V_INLINE vi vi_set1(int32_t x) { return x; }
V_INLINE vi vi_load(const int32_t *p) { return *p; }
V_INLINE void vi_store(int32_t *p, vi v) { *p = v; }
V_INLINE vi vi_add(vi a, vi b) { return a + b; }
V_INLINE vi vi_sub(vi a, vi b) { return (int32_t)((uint32_t)a - (uint32_t)b); }
V_INLINE vi vi_min(vi a, vi b) { return a < b ? a : b; }
V_INLINE vi vi_max(vi a, vi b) { return a > b ? a : b; }
V_INLINE vi vi_load_i8(const int8_t *p) { return *p; }
V_INLINE vi vi_load_u8(const uint8_t *p) { return *p; }
V_INLINE vi vi_load_i16(const int16_t *p) { return *p; }
V_INLINE vi vi_load_u16(const uint16_t *p) { return *p; }
V_INLINE vi vi_low_signed(vi a, int bits) { return (int32_t)((uint32_t)a << (32 - bits)) >> (32 - bits); }
V_INLINE vi vi_low_unsigned(vi a, int bits) { return a & ((1 << bits) - 1); }
V_INLINE void vi_store_i8(int8_t *p, vi v) { *p = (int8_t)v; }
V_INLINE void vi_store_u8(uint8_t *p, vi v) { *p = (uint8_t)v; }
V_INLINE void vi_store_i16(int16_t *p, vi v) { *p = (int16_t)v; }
V_INLINE void vi_store_u16(uint16_t *p, vi v) { *p = (uint16_t)v; }

V_INLINE v_narrow v_narrow_set(int32_t z, int32_t lo, int32_t hi) { return (v_narrow){z, lo, hi}; }
V_INLINE int32_t narrow1(vi c, const v_narrow *n) {
    c += n->z;
    return c < n->lo ? n->lo : c > n->hi ? n->hi : c;
}
#define STORE4(tag, type)                                                                                              \
    V_INLINE void vi_store4_##tag(type *p, vi a, vi b, vi c, vi d, const v_narrow *n, bool stream) {                   \
        (void)stream;                                                                                                  \
        p[0] = (type)narrow1(a, n), p[1] = (type)narrow1(b, n), p[2] = (type)narrow1(c, n),                            \
        p[3] = (type)narrow1(d, n);                                                                                    \
    }
QN_CODES(STORE4)

/* float16 by integers. Widening: a subnormal is its integer times 2^-24. */
V_INLINE vf vf_load_f16(const uint16_t *p) {
    uint32_t sign = (uint32_t)(*p & 0x8000) << 16, body = *p & 0x7FFF, bits;
    float x;
    if (body >= 0x7C00) {
        bits = sign | 0x7F800000 | (body & 0x3FF) << 13 | (body > 0x7C00 ? 0x400000 : 0); /* infinity, quiet NaN */
    } else if (body >= 0x400) {
        bits = sign | ((body << 13) + ((127 - 15) << 23));
    } else {
        x = (float)body * 0x1p-24f;
        memcpy(&bits, &x, 4);
        bits |= sign;
    }
    memcpy(&x, &bits, 4);
    return x;
}

V_INLINE void vf_store_f16(uint16_t *p, vf x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, body = bits & 0x7FFFFFFF;
    if (body > 0x7F800000) { /* NaN: quiet, top payload bits kept */
        *p = (uint16_t)(sign | 0x7E00 | (body >> 13 & 0x1FF));
    } else if (body >= 0x477FF000) { /* 65520 and above round to infinity */
        *p = (uint16_t)(sign | 0x7C00);
    } else if (body < 0x38800000) { /* below 2^-14: the result is a multiple of 2^-24; adding 0.5 rounds it there */
        float magnitude;
        memcpy(&magnitude, &body, 4);
        magnitude += 0.5f;
        memcpy(&body, &magnitude, 4);
        *p = (uint16_t)(sign | (body - 0x3F000000));
    } else {
        body += 0xFFF + (body >> 13 & 1); /* half to even at bit 13 */
        *p = (uint16_t)(sign | (body - ((127 - 15) << 23)) >> 13);
    }
}

#include "matmul4_plain.h"

#include "bodies.h"
