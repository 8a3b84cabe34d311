/* Multiply-add with one rounding to a narrow accumulator, which is kept as float32.
 *
 * The product of two float32 is exact in double. The sum is rounded to odd: where bits are lost, the last bit kept is
 * set, so that a later rounding to fewer bits, half to even, gives the same number as one rounding of the exact sum
 * (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). Plain loops: the compiler vectorizes
 * them.
 */

/* a + b rounded to odd. Knuth's two-sum gives the exact rounding error of s; where it is not zero and the last bit of s
 * is 0, s moves one step toward the exact sum. The error of an infinite or NaN s is NaN, and the comparison false. */
V_INLINE double sum_to_odd(double a, double b) {
    double s = a + b, part = s - a, lost = (a - (s - part)) + (b - part);
    int64_t bits, lost_bits;
    memcpy(&bits, &s, sizeof bits);
    memcpy(&lost_bits, &lost, sizeof lost_bits);
    int64_t away = (bits ^ lost_bits) < 0 ? -1 : 1, even = ~bits & 1;
    bits += fabs(lost) > 0 ? away * even : 0;
    memcpy(&s, &bits, sizeof s);
    return s;
}

/* s rounded to odd in float32. Overflow gives the largest float32, unless s is infinite. */
V_INLINE float narrow_to_odd(double s) {
    float f = (float)s;
    double lost = s - (double)f;
    int32_t bits, sign = lost < 0 ? INT32_MIN : 0;
    memcpy(&bits, &f, sizeof bits);
    bits += fabs(lost) > 0 ? ((bits ^ sign) < 0 ? -1 : 1) * (~bits & 1) : 0;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Every NaN becomes the same one: which NaN an addition returns depends on the CPU. */
V_INLINE float from_body(uint32_t body, uint32_t sign) {
    uint32_t bits = body > 0x7F800000 ? 0x7FC00000 : body | sign;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The nearest float16, as float32: normal ones end at bit 13, subnormal ones are multiples of 2^-24, the ulp of 0.5. */
V_INLINE float nearest_f16(double s) {
    float f = narrow_to_odd(s), small;
    uint32_t bits, small_bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t body = bits & 0x7FFFFFFF, even = (body + 0xFFF + (body >> 13 & 1)) & ~0x1FFFu;
    small = (fabsf(f) + 0.5f) - 0.5f;
    memcpy(&small_bits, &small, sizeof small_bits);
    even = even >= 0x47800000 ? 0x7F800000 : even; /* 2^16 */
    even = body < 0x38800000 ? small_bits : even;  /* 2^-14 */
    return from_body(body > 0x7F800000 ? body : even, bits & 0x80000000);
}

V_INLINE float nearest_bf16(double s) { /* ends at bit 16; overflow carries to infinity */
    float f = narrow_to_odd(s);
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t body = bits & 0x7FFFFFFF, even = (body + 0x7FFF + (body >> 16 & 1)) & ~0xFFFFu;
    return from_body(body > 0x7F800000 ? body : even, bits & 0x80000000);
}

V_INLINE float nearest_f32(double s) {
    float f = (float)s;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return from_body(bits & 0x7FFFFFFF, bits & 0x80000000);
}

#define MULTIPLY_ADD(tag)                                                                                              \
    static void multiply_add_##tag(float a, const float *restrict w, float *restrict y, int64_t n) {                   \
        for (int64_t i = 0; i < n; i++) y[i] = nearest_##tag(sum_to_odd(y[i], (double)a * w[i]));                      \
    }
MULTIPLY_ADD(f16)
MULTIPLY_ADD(bf16)
MULTIPLY_ADD(f32)
#undef MULTIPLY_ADD
