/* Scores of stored rows. The loops are plain C: the compiler uses the popcount and the vectors of each ISA row. */

/* Rows of a few words, as embeddings of up to 512 bits are: the count of words is a constant, so the loop unrolls. */
#define HAMMING_OF(words)                                                                                              \
    for (int64_t i = 0; i < n; i++, rows += bytes) {                                                                   \
        uint64_t row[words];                                                                                           \
        int32_t distance = 0;                                                                                          \
        memcpy(row, rows, sizeof row);                                                                                 \
        for (int w = 0; w < (words); w++) distance += __builtin_popcountll(row[w] ^ whole[w]);                         \
        distances[i] = distance;                                                                                       \
    }

static void hamming_rows(const uint8_t *rows, int64_t n, const uint8_t *query, int64_t bytes, int32_t *distances) {
    enum { WORD = 8, FEW = 8 };
    uint64_t whole[FEW];
    memcpy(whole, query, (size_t)(bytes < (int64_t)sizeof whole ? bytes : (int64_t)sizeof whole));
    switch (bytes % WORD ? 0 : bytes / WORD) {
    case 1: HAMMING_OF(1) return;
    case 2: HAMMING_OF(2) return;
    case 3: HAMMING_OF(3) return;
    case 4: HAMMING_OF(4) return;
    case 6: HAMMING_OF(6) return;
    case 8: HAMMING_OF(8) return;
    default: break;
    }
    for (int64_t i = 0; i < n; i++, rows += bytes) {
        int32_t distance = 0;
        int64_t at = 0;
        for (; at + WORD <= bytes; at += WORD) {
            uint64_t x, y;
            memcpy(&x, rows + at, WORD), memcpy(&y, query + at, WORD);
            distance += __builtin_popcountll(x ^ y);
        }
        if (at < bytes) {
            uint64_t x = 0, y = 0;
            memcpy(&x, rows + at, (size_t)(bytes - at)), memcpy(&y, query + at, (size_t)(bytes - at));
            distance += __builtin_popcountll(x ^ y);
        }
        distances[i] = distance;
    }
}
#undef HAMMING_OF

static void score_sums(const int32_t *sums, const float *scale, const float *offset, float factor, float *scores,
                       int64_t n) {
    if (offset)
        for (int64_t i = 0; i < n; i++) scores[i] = (float)sums[i] * (factor * scale[i]) + offset[i];
    else
        for (int64_t i = 0; i < n; i++) scores[i] = (float)sums[i] * (factor * scale[i]);
}

/* 16 partial sums; each product of two float32 is exact in float64. */
static void dot_f64(const float *x, const float *y, int64_t n, double *total) {
    enum { SUMS = 16 };
    double sum[SUMS] = {0};
    int64_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int j = 0; j < SUMS; j++) sum[j] += (double)x[i + j] * (double)y[i + j];
    for (int j = 0; i < n; i++, j++) sum[j] += (double)x[i] * (double)y[i];
    for (int half = SUMS / 2; half; half /= 2)
        for (int j = 0; j < half; j++) sum[j] += sum[j + half];
    *total = sum[0];
}

static void first_above(const float *scores, float least, int64_t n, int64_t *index) {
    enum { STEP = 32 };
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        int any = 0;
        for (int j = 0; j < STEP; j++) any |= scores[i + j] > least;
        if (any) break;
    }
    while (i < n && !(scores[i] > least)) i++;
    *index = i;
}
