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

/* Four codes to three bytes: a little-endian number of 24 bits. */
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

static void unpack_6(const uint8_t *restrict bytes, uint8_t *restrict codes, int64_t n) {
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
