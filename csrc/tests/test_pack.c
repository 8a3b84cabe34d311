/* pack_<bits>, unpack_<T>, unpack_u1. */
#include "support.h"

typedef void (*copier)(const uint8_t *from, uint8_t *to, int64_t n);

static void test_copier(const char *row_name, const char *name, copier copy, const uint8_t *from, int64_t n,
                        const uint8_t *want, int64_t bytes, int size) {
    if (!copy) return;
    guarded g = guarded_make((size_t)bytes, (size_t)size % 64);
    copy(from, g.data, n);
    check(!memcmp(want, g.data, (size_t)bytes), row_name, name, "differs from single bits", n, NULL);
    CHECK_GUARDS(g, name);
    free(g.memory);
}

static void test_width(const char *row_name, const qn_table *row, int64_t n, int bits, int size) {
    int64_t bytes = (bits * n + 7) / 8;
    uint8_t *codes = array((size_t)n, 1), *packed = array((size_t)bytes, 1);
    fill_any(codes, (size_t)n);
    memset(packed, 0, (size_t)bytes);
    for (int64_t i = 0; i < n * bits; i++) /* one bit at a time */
        packed[i / 8] |= (uint8_t)((codes[i / bits] >> i % bits & 1) << i % 8);
#define PACK(_, width)                                                                                                 \
    if (bits == width) test_copier(row_name, "pack_" #width, row->pack_##width, codes, n, packed, bytes, size);
    QN_SUB_BYTE_WIDTHS(PACK, _)
    PACK(_, 1)
#define UNPACK(_, tag, NAME, name, type, width, is_signed, storage)                                                    \
    if (bits == width) {                                                                                               \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            int code = codes[i] & ((1 << bits) - 1);                                                                   \
            codes[i] = (uint8_t)(is_signed && code >> (bits - 1) ? code - (1 << bits) : code);                         \
        }                                                                                                              \
        test_copier(row_name, "unpack_" #tag, row->unpack_##tag, packed, n, codes, n, size);                           \
    }
    QN_SUB_BYTE_CODES(UNPACK, _)
    UNPACK(_, u1, , , , 1, false, )
    free(codes), free(packed);
}

void test_pack(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++)
        for (int bits = 1; bits < 8; bits++) test_width(row_name, row, size_at(size), bits, size);
}
