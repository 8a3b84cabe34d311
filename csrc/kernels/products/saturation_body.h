/* Simulates a kernel of saturating pairs (vpmaddubsw), one row of the result at a time.
 *
 * The loops run over neighbouring columns, so that the compiler vectorizes them for each ISA row.
 */

static void saturate_pairs_u8s8(const uint8_t *a, const int8_t *b, int64_t k, int64_t stride, int64_t n,
                                int32_t *restrict sum, int32_t *restrict error, int32_t *restrict pairs) {
    for (int64_t p = 0; p < k; p += 2) {
        const int8_t *first = b + p * stride, *second = p + 1 < k ? first + stride : first;
        int32_t a0 = a[p], a1 = p + 1 < k ? a[p + 1] : 0;
        for (int64_t j = 0; j < n; j++) {
            int32_t exact = a0 * first[j] + a1 * second[j];
            int32_t sum_of_pair = exact > INT16_MAX ? INT16_MAX : exact < INT16_MIN ? INT16_MIN : exact;
            sum[j] += sum_of_pair, error[j] += sum_of_pair - exact, pairs[j] += sum_of_pair != exact;
        }
    }
}

/* The worst pair of a has 255 where b has one sign and 0 where b has the other. */
static void unsafe_pairs_i8(const int8_t *b, int64_t k, int64_t stride, int64_t n, int32_t *restrict pairs) {
    enum { MOST = INT16_MAX / UINT8_MAX }; /* 128: also the most on the negative side, 32768 / 255 */
    for (int64_t p = 0; p + 1 < k; p += 2) {
        const int8_t *first = b + p * stride, *second = first + stride;
        for (int64_t j = 0; j < n; j++) {
            int32_t same_sign = (first[j] ^ second[j]) >= 0, sum = first[j] + second[j];
            pairs[j] += same_sign & ((sum > MOST) | (sum < -MOST));
        }
    }
}
