/* Sub-byte codes to and from bytes, in the order of ONNX: the first code in the low bits. */

#ifndef V_PACKS /* a row may process the first codes with its vectors; the loops here finish */
#define v_pack_4(codes, bytes, n) 0
#define v_unpack_4(bytes, codes, n) 0
#define v_pack_2(codes, bytes, n) 0
#define v_unpack_2(bytes, codes, n) 0
#define v_pack_1(codes, bytes, n) 0
#define v_unpack_1(bytes, codes, n) 0
#endif

static void pack_4(const uint8_t *restrict codes, uint8_t *restrict bytes, int64_t n) {
    for (int64_t i = v_pack_4(codes, bytes, n) / 2; i < n / 2; i++)
        bytes[i] = (uint8_t)((codes[2 * i] & 15) | codes[2 * i + 1] << 4);
    if (n & 1) bytes[n / 2] = codes[n - 1] & 15;
}

static void pack_2(const uint8_t *restrict codes, uint8_t *restrict bytes, int64_t n) {
    for (int64_t i = v_pack_2(codes, bytes, n) / 4; i < n / 4; i++) {
        const uint8_t *c = codes + 4 * i;
        bytes[i] = (uint8_t)((c[0] & 3) | (c[1] & 3) << 2 | (c[2] & 3) << 4 | c[3] << 6);
    }
    if (n & 3) bytes[n / 4] = 0;
    for (int64_t i = n & ~(int64_t)3; i < n; i++) bytes[i / 4] |= (uint8_t)((codes[i] & 3) << 2 * (i & 3));
}

/* Other widths: eight codes are a little-endian number of 8 * bits bits. The codes of a pair, of two pairs, and of both
 * halves are brought together, four, two and one place at a time; unpacking takes these steps back. */
#define V_PAIRS UINT64_C(0x0001000100010001)
#define V_QUADRUPLES UINT64_C(0x0000000100000001)

V_INLINE uint64_t v_together(const uint8_t *codes, size_t n, const int bits) {
    const int unused = 8 - bits;
    uint64_t x = 0;
    memcpy(&x, codes, n);
    x &= V_PAIRS * 0x0101 * ((1u << bits) - 1);
    x = (x & V_PAIRS * 0xFF) | (x & V_PAIRS * 0xFF00) >> unused;
    x = (x & V_QUADRUPLES * 0xFFFF) | (x & V_QUADRUPLES * 0xFFFF0000) >> 2 * unused;
    return (x & UINT32_MAX) | x >> 32 << 4 * bits;
}

V_INLINE uint64_t v_apart(uint64_t x, const int bits, const bool is_signed) {
    const int unused = 8 - bits;
    const uint64_t pair = ((UINT64_C(1) << 2 * bits) - 1) * V_QUADRUPLES, one = ((UINT64_C(1) << bits) - 1) * V_PAIRS;
    const uint64_t low = (UINT64_C(1) << 4 * bits) - 1;
    x = (x & low) | (x >> 4 * bits & low) << 32;
    x = (x & pair) | (x << 2 * unused & pair << 16);
    x = (x & one) | (x << unused & one << 8);
    if (is_signed)
        x |= (x >> (bits - 1) & V_PAIRS * 0x0101) * (0xFFu >> bits << bits); /* no byte carries into the next */
    return x;
}

V_INLINE void v_pack_bits(const uint8_t *restrict codes, uint8_t *restrict bytes, int64_t n, const int bits) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8, bytes += bits) {
        const uint64_t x = v_together(codes + i, 8, bits);
        memcpy(bytes, &x, (size_t)bits);
    }
    const uint64_t rest = v_together(codes + i, (size_t)(n - i), bits);
    memcpy(bytes, &rest, (size_t)(((n - i) * bits + 7) / 8));
}

V_INLINE void v_unpack_bits(const uint8_t *restrict bytes, uint8_t *restrict codes, int64_t n, const int bits,
                            const bool is_signed) {
    int64_t i = 0;
    for (; (n - i) * bits >= 64; i += 8, bytes += bits) { /* eight bytes in one load: parts of them would be slow */
        uint64_t x;
        memcpy(&x, bytes, sizeof x);
        x = v_apart(x, bits, is_signed);
        memcpy(codes + i, &x, sizeof x);
    }
    for (; i < n; i += 8, bytes += bits) {
        const int64_t count = n - i < 8 ? n - i : 8;
        uint64_t x = 0;
        memcpy(&x, bytes, (size_t)((count * bits + 7) / 8));
        x = v_apart(x, bits, is_signed);
        memcpy(codes + i, &x, (size_t)count);
    }
}

#define PACK_BITS(bits)                                                                                                \
    static void pack_##bits(const uint8_t *codes, uint8_t *bytes, int64_t n) { v_pack_bits(codes, bytes, n, bits); }   \
    V_INLINE void unpack_##bits(const uint8_t *bytes, uint8_t *codes, int64_t n, int sign) {                           \
        v_unpack_bits(bytes, codes, n, bits, sign != 0);                                                               \
    }
PACK_BITS(3)
PACK_BITS(5)
PACK_BITS(7)
#undef PACK_BITS

/* Codes of 6 bits, four to three bytes: loops that compilers vectorize. */
static void pack_6(const uint8_t *restrict codes, uint8_t *restrict bytes, int64_t n) {
    for (int64_t i = 0; i < n / 4; i++) {
        const uint8_t *c = codes + 4 * i;
        bytes[3 * i] = (uint8_t)((c[0] & 63) | c[1] << 6);
        bytes[3 * i + 1] = (uint8_t)((c[1] & 63) >> 2 | c[2] << 4);
        bytes[3 * i + 2] = (uint8_t)((c[2] & 63) >> 4 | c[3] << 2);
    }
    uint32_t rest = 0;
    for (int64_t i = n & ~(int64_t)3; i < n; i++) rest |= (uint32_t)(codes[i] & 63) << 6 * (i & 3);
    for (int64_t i = 0; i < (n & 3); i++) bytes[n / 4 * 3 + i] = (uint8_t)(rest >> 8 * i); /* k < 4 codes: k bytes */
}

V_INLINE void unpack_6(const uint8_t *restrict bytes, uint8_t *restrict codes, int64_t n, int sign) {
    if (sign) {
        v_unpack_bits(bytes, codes, n, 6, true);
        return;
    }
    for (int64_t i = 0; i < n / 4; i++) {
        const uint8_t *b = bytes + 3 * i;
        codes[4 * i] = b[0] & 63;
        codes[4 * i + 1] = (uint8_t)(b[0] >> 6 | (b[1] & 15) << 2);
        codes[4 * i + 2] = (uint8_t)(b[1] >> 4 | (b[2] & 3) << 4);
        codes[4 * i + 3] = b[2] >> 2;
    }
    uint32_t rest = 0;
    for (int64_t i = 0; i < (n & 3); i++) rest |= (uint32_t)bytes[n / 4 * 3 + i] << 8 * i;
    for (int64_t i = n & ~(int64_t)3; i < n; i++) codes[i] = rest >> 6 * (i & 3) & 63;
}

/* (x ^ sign) - sign extends the sign bit of a field; with sign 0 it does nothing. */
V_INLINE void unpack_4(const uint8_t *restrict bytes, uint8_t *restrict codes, int64_t n, int sign) {
    for (int64_t i = sign ? 0 : v_unpack_4(bytes, codes, n) / 2; i < n / 2; i++) {
        codes[2 * i] = (uint8_t)(((bytes[i] & 15) ^ sign) - sign);
        codes[2 * i + 1] = (uint8_t)(((bytes[i] >> 4) ^ sign) - sign);
    }
    if (n & 1) codes[n - 1] = (uint8_t)(((bytes[n / 2] & 15) ^ sign) - sign);
}

V_INLINE void unpack_2(const uint8_t *restrict bytes, uint8_t *restrict codes, int64_t n, int sign) {
    for (int64_t i = sign ? 0 : v_unpack_2(bytes, codes, n) / 4; i < n / 4; i++)
        for (int k = 0; k < 4; k++) codes[4 * i + k] = (uint8_t)(((bytes[i] >> 2 * k & 3) ^ sign) - sign);
    for (int64_t i = n & ~(int64_t)3; i < n; i++)
        codes[i] = (uint8_t)(((bytes[i / 4] >> 2 * (i & 3) & 3) ^ sign) - sign);
}

#define UNPACK(_, tag, NAME, name, type, bits, is_signed, storage)                                                     \
    static void unpack_##tag(const uint8_t *bytes, uint8_t *codes, int64_t n) {                                        \
        unpack_##bits(bytes, codes, n, is_signed ? 1 << (bits - 1) : 0);                                               \
    }
QN_SUB_BYTE_CODES(UNPACK, _)
#undef UNPACK

static void pack_1(const uint8_t *codes, uint8_t *bytes, int64_t n) {
    const int64_t done = v_pack_1(codes, bytes, n);
    v_pack_bits(codes + done, bytes + done / 8, n - done, 1);
}

static void unpack_u1(const uint8_t *bytes, uint8_t *codes, int64_t n) {
    const int64_t done = v_unpack_1(bytes, codes, n);
    v_unpack_bits(bytes + done / 8, codes + done, n - done, 1, false);
}
