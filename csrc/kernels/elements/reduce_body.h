/* Minimum and maximum of the finite elements.
 *
 * The fast path reduces a tile as if all elements were finite. If an extreme is not finite, the tile is read a second
 * time, element by element, to count NaN and infinities. A result of -0 becomes +0 (x + 0.0): otherwise its sign would
 * depend on the order of the tiles.
 */

enum {
    REDUCE_TILE = 4096,     /* float32 elements: half the L1 cache, so that a second read hits it */
    REDUCE_WIDE = 4096,     /* columns of float32 */
    REDUCE_TALL = 4096,     /* rows of them */
    REDUCE_BAND = 8,        /* rows of float32 that are loaded together */
    REDUCE_TILE_F64 = 1024, /* float64 elements, or columns of float64 */
    REDUCE_TALL_F64 = 1024, /* rows of them */
    REDUCE_PAGE = 1024,     /* int32 of a page of memory */
};

V_INLINE void extend(qn_range *r, double min, double max) {
    min += 0.0, max += 0.0;
    if (min < r->min) r->min = min;
    if (max > r->max) r->max = max;
}

static void extend_carefully(double x, qn_range *r) {
    if (x != x) r->nan++;
    else if (x - x != 0.0) r->infinite++;
    else extend(r, x, x);
}

/* ---- float32: by the bits ----
 *
 * As integers, the bits of positive floats have the order of the floats, those of negative floats the opposite order.
 * So the largest signed integer is the maximum if any element is positive, and the largest unsigned integer is the
 * minimum if any is negative. If all have one sign, the smallest unsigned integer is the other extreme. The bits of
 * infinities and NaN lie beyond those of finite numbers on both sides. This takes two operations an element, which
 * keeps up with memory; float comparisons with a test for NaN do not.
 */
static const int32_t INFINITE_BITS = 0x7F800000;

typedef struct {
    int32_t high, low, near; /* the largest as signed, the largest and the smallest as unsigned */
} bit_range;

V_INLINE int32_t bits_f32(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

V_INLINE float value_f32(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

V_INLINE int32_t signed_max(int32_t a, int32_t b) { return a > b ? a : b; }
V_INLINE int32_t unsigned_max(int32_t a, int32_t b) { return (uint32_t)a > (uint32_t)b ? a : b; }
V_INLINE int32_t unsigned_min(int32_t a, int32_t b) { return (uint32_t)a < (uint32_t)b ? a : b; }

/* False if an element is not finite. */
V_INLINE bool extend_bits(bit_range v, qn_range *r) {
    if (v.high >= INFINITE_BITS || (v.low < 0 && (v.low & INT32_MAX) >= INFINITE_BITS)) return false;
    extend(r, value_f32(v.low < 0 ? v.low : v.near), value_f32(v.high >= 0 ? v.high : v.near));
    return true;
}

V_INLINE int32_t near_bits(const float *x, int64_t n) {
    int32_t near = -1, lanes[V_LANES];
    int64_t i = 0;
    vi v[4];
    for (int k = 0; k < 4; k++) v[k] = vi_set1(-1);
    for (; i + 4 * V_LANES <= n; i += 4 * V_LANES)
        for (int k = 0; k < 4; k++) v[k] = vi_min_unsigned(v[k], vi_from_bits(vf_load(x + i + k * V_LANES)));
    vi_store(lanes, vi_min_unsigned(vi_min_unsigned(v[0], v[1]), vi_min_unsigned(v[2], v[3])));
    for (int k = 0; k < V_LANES; k++) near = unsigned_min(near, lanes[k]);
    for (; i < n; i++) near = unsigned_min(near, bits_f32(x[i]));
    return near;
}

static void min_max_f32(const float *x, int64_t n, qn_range *r) {
    for (int64_t at = 0; at < n; at += REDUCE_TILE) {
        const float *b = x + at;
        int64_t count = n - at < REDUCE_TILE ? n - at : REDUCE_TILE, i = 0;
        int32_t highs[V_LANES], lows[V_LANES];
        bit_range extremes = {INT32_MIN, 0, 0};
        vi high[4], low[4];
        for (int k = 0; k < 4; k++) high[k] = vi_set1(INT32_MIN), low[k] = vi_set1(0);
        for (; i + 4 * V_LANES <= count; i += 4 * V_LANES) {
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
                vi v = vi_from_bits(vf_load(b + i + k * V_LANES));
                high[k] = vi_max(high[k], v), low[k] = vi_max_unsigned(low[k], v);
            }
        }
        for (; i + V_LANES <= count; i += V_LANES) {
            vi v = vi_from_bits(vf_load(b + i));
            high[0] = vi_max(high[0], v), low[0] = vi_max_unsigned(low[0], v);
        }
        vi_store(highs, vi_max(vi_max(high[0], high[1]), vi_max(high[2], high[3])));
        vi_store(lows, vi_max_unsigned(vi_max_unsigned(low[0], low[1]), vi_max_unsigned(low[2], low[3])));
        for (int k = 0; k < V_LANES; k++)
            extremes.high = signed_max(extremes.high, highs[k]), extremes.low = unsigned_max(extremes.low, lows[k]);
        for (; i < count; i++) {
            int32_t v = bits_f32(b[i]);
            extremes.high = signed_max(extremes.high, v), extremes.low = unsigned_max(extremes.low, v);
        }
        /* The extreme nearer to zero of a tile of one sign matters only if all tiles before have this sign too. */
        if ((extremes.high < 0 && r->max < 0) || (extremes.low >= 0 && r->min > 0)) extremes.near = near_bits(b, count);
        if (!extend_bits(extremes, r))
            for (i = 0; i < count; i++) extend_carefully(b[i], r);
    }
}

/* The extremes of columns: the high ones, the low ones, the near ones. Modulo a page, they lie four cache lines from
 * one another and half a page from the rows: otherwise loads would wait for stores to the same offset of another page.
 */
enum { LOW = REDUCE_WIDE + 64, NEAR = 2 * LOW };

typedef struct {
    _Alignas(64) int32_t room[3 * LOW + REDUCE_PAGE];
} v_extremes;

V_INLINE int32_t *place(v_extremes *e, const float *rows) {
    uintptr_t apart = (uintptr_t)rows - (uintptr_t)e->room + 2 * REDUCE_PAGE;
    return e->room + apart / 64 * 16 % REDUCE_PAGE;
}

/* Makes the compiler load again: prefetching on Zen 4 keeps up with three loads of a line, not with one
 * (docs/tuning.md). */
#define V_HIDE(p) __asm__ volatile("" : "+r"(p)::"memory")

/* Extends the extremes of `count` columns by `rows` rows, a constant, and prefetches the rows below. */
V_INLINE void columns_f32(const float *x, int rows, int64_t stride, int64_t count, int32_t *e) {
    int64_t i = 0;
    for (; i + V_LANES <= count; i += V_LANES) {
        vi high = vi_load(e + i), low = vi_load(e + LOW + i), near = vi_load(e + NEAR + i);
        const float *at = x + i, *below = at + rows * stride;
        V_HIDE(at);
        if (i % 16 == 0)
            for (int k = 0; k < rows; k++) v_prefetch(below + k * stride, 64, true);
        _Pragma("GCC unroll 8") for (int k = 0; k < rows; k++) {
            high = vi_max(high, vi_from_bits(vf_load(at + k * stride)));
            V_HIDE(at);
            low = vi_max_unsigned(low, vi_from_bits(vf_load(at + k * stride)));
            V_HIDE(at);
            near = vi_min_unsigned(near, vi_from_bits(vf_load(at + k * stride)));
        }
        vi_store(e + i, high), vi_store(e + LOW + i, low), vi_store(e + NEAR + i, near);
    }
    for (; i < count; i++)
        for (int k = 0; k < rows; k++) {
            int32_t v = bits_f32(x[k * stride + i]);
            e[i] = signed_max(e[i], v), e[LOW + i] = unsigned_max(e[LOW + i], v);
            e[NEAR + i] = unsigned_min(e[NEAR + i], v);
        }
}

static void min_max_columns_f32(const float *x, int64_t rows, int64_t stride, int64_t n, qn_range *r) {
    v_extremes room;
    for (int64_t column = 0; column < n; column += REDUCE_WIDE) {
        int64_t count = n - column < REDUCE_WIDE ? n - column : REDUCE_WIDE;
        for (int64_t first = 0; first < rows; first += REDUCE_TALL) {
            int64_t height = rows - first < REDUCE_TALL ? rows - first : REDUCE_TALL, k = 0, retries = 0;
            const float *b = x + first * stride + column;
            int32_t *e = place(&room, b), *retry = e;
            for (int64_t i = 0; i < count; i++) e[i] = INT32_MIN, e[LOW + i] = 0, e[NEAR + i] = -1;
            for (; k + REDUCE_BAND <= height; k += REDUCE_BAND)
                columns_f32(b + k * stride, REDUCE_BAND, stride, count, e);
            for (; k < height; k++) columns_f32(b + k * stride, 1, stride, count, e);
            /* The indices of columns that are read a second time overwrite extremes that are no longer needed. */
            for (int64_t i = 0; i < count; i++)
                if (!extend_bits((bit_range){e[i], e[LOW + i], e[NEAR + i]}, r + column + i))
                    retry[retries++] = (int32_t)i;
            for (k = 0; k < height && retries; k++)
                for (int64_t i = 0; i < retries; i++) extend_carefully(b[k * stride + retry[i]], r + column + retry[i]);
        }
    }
}

/* ---- float64: plain loops over integers ----
 *
 * Flipping all bits but the sign of negative floats gives integers in the order of the floats, with NaN outside both
 * infinities. The compiler vectorizes integer minima.
 */
static const int64_t INFINITE_KEY = 0x7FF0000000000000;

V_INLINE int64_t key_f64(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (int64_t)((uint64_t)(bits >> 63) >> 1);
}

V_INLINE double value_f64(int64_t key) { /* key_f64 is its own inverse */
    double x;
    key ^= (int64_t)((uint64_t)(key >> 63) >> 1);
    memcpy(&x, &key, sizeof x);
    return x;
}

V_INLINE bool finite_keys(int64_t lo, int64_t hi) { return lo > ~INFINITE_KEY && hi < INFINITE_KEY; }

static void min_max_f64(const double *x, int64_t n, qn_range *r) {
    for (int64_t at = 0; at < n; at += REDUCE_TILE_F64) {
        const double *b = x + at;
        int64_t count = n - at < REDUCE_TILE_F64 ? n - at : REDUCE_TILE_F64;
        int64_t lo = key_f64(b[0]), hi = lo;
        for (int64_t i = 0; i < count; i++) {
            int64_t key = key_f64(b[i]);
            lo = key < lo ? key : lo, hi = key > hi ? key : hi;
        }
        if (finite_keys(lo, hi)) extend(r, value_f64(lo), value_f64(hi));
        else
            for (int64_t i = 0; i < count; i++) extend_carefully(b[i], r);
    }
}

static void min_max_columns_f64(const double *x, int64_t rows, int64_t stride, int64_t n, qn_range *r) {
    int64_t lo[REDUCE_TILE_F64], hi[REDUCE_TILE_F64];
    for (int64_t column = 0; column < n; column += REDUCE_TILE_F64) {
        int64_t count = n - column < REDUCE_TILE_F64 ? n - column : REDUCE_TILE_F64;
        for (int64_t first = 0; first < rows; first += REDUCE_TALL_F64) {
            int64_t height = rows - first < REDUCE_TALL_F64 ? rows - first : REDUCE_TALL_F64;
            const double *b = x + first * stride + column;
            for (int64_t i = 0; i < count; i++) lo[i] = hi[i] = key_f64(b[i]);
            for (int64_t k = 1; k < height; k++) {
                const double *row = b + k * stride;
                for (int64_t i = 0; i < count; i++) {
                    int64_t key = key_f64(row[i]);
                    lo[i] = key < lo[i] ? key : lo[i], hi[i] = key > hi[i] ? key : hi[i];
                }
            }
            for (int64_t i = 0; i < count; i++) {
                if (finite_keys(lo[i], hi[i])) extend(r + column + i, value_f64(lo[i]), value_f64(hi[i]));
                else
                    for (int64_t k = 0; k < height; k++) extend_carefully(b[k * stride + i], r + column + i);
            }
        }
    }
}
