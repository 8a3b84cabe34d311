/* Minimum and maximum of the finite elements.
 *
 * A block is reduced as if all of it were finite; only where an extreme turns out infinite, or a NaN was met, is it read
 * again to count and leave out what is not. A result of -0 becomes +0 (x + 0.0), because comparisons would let the order of
 * the blocks choose the sign.
 */

enum {
    REDUCE_BLOCK = 1024, /* columns, or elements of a row */
    REDUCE_ROWS = 1024,  /* rows of a block of columns */
    REDUCE_GROUP = 4,    /* rows that are read together */
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

/* ---- float32 ---- */

typedef struct {
    _Alignas(64) float lo[REDUCE_BLOCK + 16], hi[REDUCE_BLOCK]; /* not a page apart: a load would wait for a store */
    vm nan;
} v_extremes;

static void min_max_f32(const float *x, int64_t n, qn_range *r) {
    for (int64_t at = 0; at < n; at += REDUCE_BLOCK) {
        const float *b = x + at;
        int64_t count = n - at < REDUCE_BLOCK ? n - at : REDUCE_BLOCK, i = 0;
        vf lo[4], hi[4];
        vm nan = vm_none();
        for (int k = 0; k < 4; k++) lo[k] = vf_set1(INFINITY), hi[k] = vf_set1(-INFINITY);
        for (; i + 4 * V_LANES <= count; i += 4 * V_LANES) {
            vf v[4];
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
                v[k] = vf_load(b + i + k * V_LANES);
                lo[k] = vf_min(v[k], lo[k]), hi[k] = vf_max(v[k], hi[k]);
            }
            nan = vm_or_unordered(vm_or_unordered(nan, v[0], v[1]), v[2], v[3]);
        }
        for (; i + V_LANES <= count; i += V_LANES) {
            vf v = vf_load(b + i);
            lo[0] = vf_min(v, lo[0]), hi[0] = vf_max(v, hi[0]);
            nan = vm_or_unordered(nan, v, v);
        }
        float low = vf_min_lanes(vf_min(vf_min(lo[0], lo[1]), vf_min(lo[2], lo[3])));
        float high = vf_max_lanes(vf_max(vf_max(hi[0], hi[1]), vf_max(hi[2], hi[3])));
        bool finite = !vm_any(nan);
        for (; i < count; i++) {
            low = b[i] < low ? b[i] : low, high = b[i] > high ? b[i] : high;
            finite &= b[i] == b[i];
        }
        if (finite && low > -INFINITY && high < INFINITY) extend(r, low, high);
        else
            for (i = 0; i < count; i++) extend_carefully(b[i], r);
    }
}

/* Extends the extremes of `count` columns by the rows of one group. */
V_INLINE void columns_f32(const float *const row[REDUCE_GROUP], int64_t count, int64_t next, v_extremes *e) {
    int64_t i = 0, ahead = 0, down = 0;
    vm nan = e->nan;
    for (; i + V_LANES <= count; i += V_LANES) {
        vf lo = vf_load(e->lo + i), hi = vf_load(e->hi + i), v[REDUCE_GROUP];
        v_prefetch(row[down] + next + ahead, REDUCE_GROUP * V_LANES * 4, true); /* in the order of memory */
        if ((ahead += REDUCE_GROUP * V_LANES) >= count) ahead = 0, down += down < REDUCE_GROUP - 1;
        _Pragma("GCC unroll 4") for (int k = 0; k < REDUCE_GROUP; k++) {
            v[k] = vf_load(row[k] + i);
            lo = vf_min(v[k], lo), hi = vf_max(v[k], hi);
        }
        nan = vm_or_unordered(vm_or_unordered(nan, v[0], v[1]), v[2], v[3]);
        vf_store(e->lo + i, lo), vf_store(e->hi + i, hi);
    }
    e->nan = nan;
    for (; i < count; i++)
        for (int k = 0; k < REDUCE_GROUP; k++) {
            float v = row[k][i];
            e->lo[i] = v == v ? v < e->lo[i] ? v : e->lo[i] : -INFINITY; /* a NaN asks for the careful way */
            e->hi[i] = v > e->hi[i] ? v : e->hi[i];
        }
}

static void min_max_columns_f32(const float *x, int64_t rows, int64_t stride, int64_t n, qn_range *r) {
    v_extremes e;
    for (int64_t column = 0; column < n; column += REDUCE_BLOCK) {
        int64_t count = n - column < REDUCE_BLOCK ? n - column : REDUCE_BLOCK;
        for (int64_t first = 0; first < rows; first += REDUCE_ROWS) {
            int64_t height = rows - first < REDUCE_ROWS ? rows - first : REDUCE_ROWS;
            const float *b = x + first * stride + column;
            e.nan = vm_none();
            for (int64_t i = 0; i < count; i++) e.lo[i] = INFINITY, e.hi[i] = -INFINITY;
            for (int64_t k = 0; k < height; k += REDUCE_GROUP) {
                const float *row[REDUCE_GROUP]; /* the last one again where the group is short */
                for (int64_t j = 0; j < REDUCE_GROUP; j++) row[j] = b + (k + j < height ? k + j : height - 1) * stride;
                columns_f32(row, count, REDUCE_GROUP * stride, &e);
            }
            bool any = vm_any(e.nan);
            for (int64_t i = 0; i < count; i++) {
                if (!any && e.lo[i] > -INFINITY && e.hi[i] < INFINITY) extend(r + column + i, e.lo[i], e.hi[i]);
                else
                    for (int64_t k = 0; k < height; k++) extend_carefully(b[k * stride + i], r + column + i);
            }
        }
    }
}

/* ---- float64: plain loops over integers ----
 *
 * The bits of a float, with all but the sign flipped when the sign is set, order as integers do, NaN outside both
 * infinities; and the compiler turns integer minima into vectors.
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
    for (int64_t at = 0; at < n; at += REDUCE_BLOCK) {
        const double *b = x + at;
        int64_t count = n - at < REDUCE_BLOCK ? n - at : REDUCE_BLOCK;
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
    int64_t lo[REDUCE_BLOCK], hi[REDUCE_BLOCK];
    for (int64_t column = 0; column < n; column += REDUCE_BLOCK) {
        int64_t count = n - column < REDUCE_BLOCK ? n - column : REDUCE_BLOCK;
        for (int64_t first = 0; first < rows; first += REDUCE_ROWS) {
            int64_t height = rows - first < REDUCE_ROWS ? rows - first : REDUCE_ROWS;
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
