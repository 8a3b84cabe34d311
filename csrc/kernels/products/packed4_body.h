/* Rows of int8 activations times panels of 16 columns of 4-bit weights.
 *
 * The integer sum of a group is exact. Groups are added in float32 from the first to the last; each product is rounded
 * and nothing is fused, so that every ISA gives the same bits. packed4_<isa>.h has the primitives.
 *
 * With the codes q of x, its zero point z, the codes u of w and its zero point v, a sum over a group is
 *   sum (q - z)(u - v)  =  sum q u  +  v minus_sum  -  z sum u,   minus_sum = -sum (q - z).
 * The last term is needed only if some z is not 0. Then the codes u are added as bytes, 8 of at most 15, and these sums
 * are multiplied by activations of 1.
 */

enum { V4_AHEAD = 2304, V4_DEEP = 256 }; /* bytes: prefetch distance; 32 neighbours in k, which int16 sums hold */
enum { V4_SIDE = 4 }; /* panels side by side with one row: their sums are independent chains of additions */

#define V4_EACH(r) _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
#define V4_PANELS(p) _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++)

/* Adds the products of one group of `size` neighbours to f[rows]. */
V_INLINE void v4_group(const qn_weight4 *w, const int64_t size, const uint8_t *record, const qn_rows4 *x, int64_t row,
                       const int rows, int64_t group, const bool affine, v4_f32 *f) {
    static const int8_t ones[4] = {1, 1, 1, 1};
    const int64_t bytes = size * 8, deep = bytes < V4_DEEP ? bytes : V4_DEEP;
    const uint8_t *scales = record + bytes;
    const int8_t *a = x->codes + row * x->stride + group * size;
    const int32_t *minus_sum = x->minus_sums + row * x->groups + group;
    v4_i32 sum[V4_ROWS], codes = {0};
    if (w->zeros) V4_EACH(r) sum[r] = v4_zeros(minus_sum + r * x->groups, scales + (w->half ? 32 : 64));
    else V4_EACH(r) sum[r] = v4_eights(minus_sum + r * x->groups);
    for (int64_t i = 0; i < bytes; i += deep, record += deep, a += deep / 8) {
        v4_sums s[V4_ROWS];
        v4_codes few = {0};
        V4_EACH(r) s[r] = v4_begin(sum[r]);
        for (int64_t at = 0; at < deep; at += 64) {
            const int8_t *quartet = a + at / 8;
            if (rows > 1) __builtin_prefetch(record + at + V4_AHEAD); /* with one row it gains nothing */
            v4_codes u = v4_low(record + at);
            V4_EACH(r) s[r] = v4_dot(s[r], u, quartet + r * x->stride);
            if (affine) few = v4_plus(few, u);
            u = v4_high(record + at);
            V4_EACH(r) s[r] = v4_dot(s[r], u, quartet + r * x->stride + 4);
            if (affine) few = v4_plus(few, u);
        }
        V4_EACH(r) sum[r] = v4_end(sum[r], s[r]);
        if (affine) codes = v4_end(codes, v4_dot(v4_begin(codes), few, ones));
    }
    const int64_t at = row * x->scale_row + group * x->scale_step;
    if (affine) V4_EACH(r) sum[r] = v4_times(sum[r], codes, x->minus_zeros + at + r * x->scale_row);
    const v4_f32 scale = v4_scales(scales, w->half);
    V4_EACH(r) f[r] = v4_add(f[r], sum[r], scale, x->scales[at + r * x->scale_row]);
}

V_INLINE void v4_tile(const qn_weight4 *w, const int64_t size, const uint8_t *panel, const int panels,
                      const qn_rows4 *x, int64_t row, const int rows, int64_t first, int64_t last, const bool affine,
                      float *y) {
    const int64_t width = w->groups * w->record, step = x->rows * 16;
    v4_f32 f[V4_SIDE * V4_ROWS];
    y += row * 16;
    V4_PANELS(p) V4_EACH(r) f[p * rows + r] = v4_load(y + p * step + r * 16);
    for (int64_t g = first; g < last; g++)
        V4_PANELS(p) v4_group(w, size, panel + p * width + g * w->record, x, row, rows, g, affine, f + p * rows);
    V4_PANELS(p) V4_EACH(r) v4_store(y + p * step + r * 16, f[p * rows + r]);
}

/* Rows [row, row + rows) times all panels, `side` of them at a time. */
V_INLINE void v4_rows(const qn_weight4 *w, const int64_t size, const uint8_t *panel, int64_t panels, const int side,
                      const qn_rows4 *x, int64_t row, const int rows, int64_t first, int64_t last, const bool affine,
                      float *y) {
    const int64_t width = w->groups * w->record, step = x->rows * 16;
    int64_t p = 0;
    for (; panels - p >= side; p += side)
        v4_tile(w, size, panel + p * width, side, x, row, rows, first, last, affine, y + p * step);
    for (; side > 1 && p < panels; p++)
        v4_tile(w, size, panel + p * width, 1, x, row, rows, first, last, affine, y + p * step);
}

V_INLINE void v4_panels(const qn_weight4 *w, const uint8_t *panel, int64_t panels, const qn_rows4 *x, int64_t first,
                        int64_t last, const bool affine, float *y) {
    int64_t row = 0;
    for (; x->rows - row >= V4_ROWS; row += V4_ROWS)
        v4_rows(w, w->group, panel, panels, 1, x, row, V4_ROWS, first, last, affine, y);
    for (; x->rows - row >= 4; row += 4) v4_rows(w, w->group, panel, panels, 1, x, row, 4, first, last, affine, y);
    for (; x->rows - row >= 2; row += 2) v4_rows(w, w->group, panel, panels, 1, x, row, 2, first, last, affine, y);
    if (row == x->rows) return;
    /* With one row the loop itself costs as much as the products, so a constant size lets the compiler unroll it. Sums
     * of codes need the registers that panels side by side would take. */
    const int side = affine ? 1 : V4_SIDE;
    switch (w->group) {
    case 16: v4_rows(w, 16, panel, panels, side, x, row, 1, first, last, affine, y); break;
    case 32: v4_rows(w, 32, panel, panels, side, x, row, 1, first, last, affine, y); break;
    case 64: v4_rows(w, 64, panel, panels, side, x, row, 1, first, last, affine, y); break;
    default: v4_rows(w, 128, panel, panels, side, x, row, 1, first, last, affine, y);
    }
}

static void matmul4_panels(const qn_weight4 *w, const uint8_t *panel, int64_t panels, const qn_rows4 *x, int64_t first,
                           int64_t last, float *y) {
    if (x->minus_zeros) v4_panels(w, panel, panels, x, first, last, true, y);
    else v4_panels(w, panel, panels, x, first, last, false, y);
}
