/* Scores of stored rows. The loops are plain C: the compiler uses the popcount and the vectors of each ISA row. */

/* A row's words are loaded one by one. A copy of the row would pass through a vector register and the stack, and each
 * word would wait for that store. */
V_INLINE uint64_t bits_at(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

V_INLINE int32_t differing(const uint8_t *row, const uint8_t *query, uint64_t mask) {
    return (int32_t)__builtin_popcountll((bits_at(row) ^ bits_at(query)) & mask);
}

enum { WORD = sizeof(uint64_t), FEW_WORDS = 8 };

/* Embeddings of up to 512 bits: the count of words is a constant, so the query stays in registers. */
V_INLINE void hamming_few(const uint8_t *rows, int64_t n, const uint8_t *query, int words, int32_t *distances) {
    uint64_t whole[FEW_WORDS];
    for (int w = 0; w < words; w++) whole[w] = bits_at(query + WORD * w);
    for (int64_t i = 0; i < n; i++, rows += WORD * words) {
        int32_t distance = 0;
        for (int w = 0; w < words; w++) distance += (int32_t)__builtin_popcountll(bits_at(rows + WORD * w) ^ whole[w]);
        distances[i] = distance;
    }
}

/* Rows that end inside a word: its bytes are the last ones of a word that ends with the row. */
V_INLINE void hamming_many(const uint8_t *rows, int64_t n, const uint8_t *query, int64_t bytes, int32_t *distances) {
    enum { AT_ONCE = 4 * WORD };
    const int64_t rest = bytes % WORD;
    uint64_t mask = 0;
    memset((uint8_t *)&mask + WORD - rest, 0xFF, (size_t)rest);
    for (int64_t i = 0; i < n; i++, rows += bytes) {
        int32_t sum[4] = {0};
        int64_t at = 0;
        for (; at + AT_ONCE <= bytes; at += AT_ONCE)
            for (int w = 0; w < 4; w++) sum[w] += differing(rows + at + WORD * w, query + at + WORD * w, UINT64_MAX);
        for (; at + WORD <= bytes; at += WORD) sum[0] += differing(rows + at, query + at, UINT64_MAX);
        if (rest) sum[1] += differing(rows + bytes - WORD, query + bytes - WORD, mask);
        distances[i] = sum[0] + sum[1] + sum[2] + sum[3];
    }
}

V_INLINE void hamming_short(const uint8_t *rows, int64_t n, const uint8_t *query, int64_t bytes, int32_t *distances) {
    for (int64_t i = 0; i < n; i++, rows += bytes) {
        int32_t distance = 0;
        for (int64_t at = 0; at < bytes; at++) distance += __builtin_popcount((unsigned)(rows[at] ^ query[at]));
        distances[i] = distance;
    }
}

static void hamming_rows(const uint8_t *rows, int64_t n, const uint8_t *query, int64_t bytes, int32_t *distances) {
    if (bytes < WORD) {
        hamming_short(rows, n, query, bytes, distances);
        return;
    }
    switch (bytes % WORD ? 0 : bytes / WORD) {
    case 1: hamming_few(rows, n, query, 1, distances); return;
    case 2: hamming_few(rows, n, query, 2, distances); return;
    case 3: hamming_few(rows, n, query, 3, distances); return;
    case 4: hamming_few(rows, n, query, 4, distances); return;
    case 6: hamming_few(rows, n, query, 6, distances); return;
    case 8: hamming_few(rows, n, query, 8, distances); return;
    default: hamming_many(rows, n, query, bytes, distances);
    }
}

static void first_below(const int32_t *distances, int32_t limit, int64_t n, int64_t *index) {
    enum { STEP = 32 };
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        int any = 0;
        for (int j = 0; j < STEP; j++) any |= distances[i + j] < limit;
        if (any) break;
    }
    while (i < n && distances[i] >= limit) i++;
    *index = i;
}

static void score_sums(const int32_t *sums, const double *scale, const double *offset, double factor, double *scores,
                       int64_t n) {
    if (offset)
        for (int64_t i = 0; i < n; i++) scores[i] = (double)sums[i] * (factor * scale[i]) + offset[i];
    else
        for (int64_t i = 0; i < n; i++) scores[i] = (double)sums[i] * (factor * scale[i]);
}

static void first_above(const double *scores, double least, int64_t n, int64_t *index) {
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
