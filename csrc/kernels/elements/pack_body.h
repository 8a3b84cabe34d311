/* Sub-byte codes to and from bytes, in the order of ONNX: the first code in the low bits. */

#ifndef V_PACKS /* a row may process the first codes with its vectors; the loops here finish */
#define v_pack_4(codes, bytes, n) 0
#define v_unpack_4(bytes, codes, n) 0
#define v_pack_2(codes, bytes, n) 0
#define v_unpack_2(bytes, codes, n) 0
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

V_INLINE uint64_t v_apart(const uint8_t *bytes, size_t n, const int bits, const bool is_signed) {
    const int unused = 8 - bits;
    const uint64_t pair = ((UINT64_C(1) << 2 * bits) - 1) * V_QUADRUPLES, one = ((UINT64_C(1) << bits) - 1) * V_PAIRS;
    uint64_t x = 0;
    memcpy(&x, bytes, n);
    x = (x & ((UINT64_C(1) << 4 * bits) - 1)) | x >> 4 * bits << 32;
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
    for (; i + 8 <= n; i += 8, bytes += bits) {
        const uint64_t x = v_apart(bytes, (size_t)bits, bits, is_signed);
        memcpy(codes + i, &x, 8);
    }
    const uint64_t rest = v_apart(bytes, (size_t)(((n - i) * bits + 7) / 8), bits, is_signed);
    memcpy(codes + i, &rest, (size_t)(n - i));
}

#define PACK_BITS(bits)                                                                                                \
    static void pack_##bits(const uint8_t *codes, uint8_t *bytes, int64_t n) { v_pack_bits(codes, bytes, n, bits); }   \
    V_INLINE void unpack_##bits(const uint8_t *bytes, uint8_t *codes, int64_t n, int sign) {                           \
        v_unpack_bits(bytes, codes, n, bits, sign != 0);                                                               \
    }
PACK_BITS(3)
PACK_BITS(5)
PACK_BITS(6)
PACK_BITS(7)
#undef PACK_BITS

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
