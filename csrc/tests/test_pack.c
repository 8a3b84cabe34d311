/* pack_6, unpack_6. */
#include "support.h"

void test_pack(const char *row_name, const qn_table *row) {
    for (int size = 0; size < SIZES; size++) {
        int64_t n = size_at(size), bytes = (6 * n + 7) / 8;
        uint8_t *codes = array((size_t)n, 1), *packed = array((size_t)bytes, 1);
        fill_any(codes, (size_t)n);
        memset(packed, 0, (size_t)bytes);
        for (int64_t i = 0; i < n; i++) /* one bit at a time */
            for (int64_t k = 0; k < 6; k++)
                packed[(6 * i + k) / 8] |= (uint8_t)((codes[i] >> k & 1) << (6 * i + k) % 8);
        if (row->pack_6) {
            guarded g = guarded_make((size_t)bytes, (size_t)size % 64);
            row->pack_6(codes, g.data, n);
            check(!memcmp(packed, g.data, (size_t)bytes), row_name, "pack_6", "differs from single bits", n, NULL);
            CHECK_GUARDS(g, "pack_6");
            free(g.memory);
        }
        if (row->unpack_6) {
            guarded g = guarded_make((size_t)n, (size_t)size % 64);
            row->unpack_6(packed, g.data, n);
            bool same = true;
            for (int64_t i = 0; i < n; i++) same &= g.data[i] == (codes[i] & 63);
            check(same, row_name, "unpack_6", "does not give the codes back", n, NULL);
            CHECK_GUARDS(g, "unpack_6");
            free(g.memory);
        }
        free(codes), free(packed);
    }
}
