/* Rows of int8 activations times panels of 16 columns of 4-bit weights.
 *
 * The integer sum of a group is exact. Groups are added in float32 from the first to the last; each product is rounded
 * and nothing is fused, so that every ISA gives the same bits. panel_<isa>.h has the primitives.
 *
 * With the codes q of x, its zero point z, the codes u of w and its zero point v, a sum over a group is
 *   sum (q - z)(u - v)  =  sum q u  +  v minus_sum  -  z sum u,   minus_sum = -sum (q - z).
 * The last term is needed only if some z is not 0. Then the codes u are added as bytes, 8 of at most 15, and these sums
 * are multiplied by activations of 1.
 */

enum { VP_AHEAD = 2304, VP_DEEP = 256 }; /* bytes: prefetch distance; 32 neighbours in k, which int16 sums hold */
enum { VP_SIDE = 4 }; /* panels side by side with one row: their sums are independent chains of additions */

#define VP_EACH(r) _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
#define VP_PANELS(p) _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++)

/* Adds the products of one group of `size` neighbours to f[rows]. */
V_INLINE void vp_group(const qn_grouped *w, const int64_t size, const uint8_t *record, const qn_grouped_rows *x,
                       int64_t row, const int rows, int64_t group, const bool affine, vp_f32 *f) {
    static const int8_t ones[4] = {1, 1, 1, 1};
    const int64_t bytes = size * 8, deep = bytes < VP_DEEP ? bytes : VP_DEEP;
    const uint8_t *scales = record + bytes;
    const int8_t *a = x->codes + row * x->stride + group * size;
    const int32_t *minus_sum = x->minus_sums + row * x->groups + group;
    vp_i32 sum[VP_ROWS], codes = {0};
    if (w->zeros) VP_EACH(r) sum[r] = vp_zeros(minus_sum + r * x->groups, scales + (w->half ? 32 : 64));
    else VP_EACH(r) sum[r] = vp_eights(minus_sum + r * x->groups);
    for (int64_t i = 0; i < bytes; i += deep, record += deep, a += deep / 8) {
        vp_sums s[VP_ROWS];
        vp_codes few = {0};
        VP_EACH(r) s[r] = vp_begin(sum[r]);
        for (int64_t at = 0; at < deep; at += 64) {
            const int8_t *quartet = a + at / 8;
            if (rows > 1) __builtin_prefetch(record + at + VP_AHEAD); /* with one row it gains nothing */
            vp_codes u = vp_low(record + at);
            VP_EACH(r) s[r] = vp_dot(s[r], u, quartet + r * x->stride);
            if (affine) few = vp_plus(few, u);
            u = vp_high(record + at);
            VP_EACH(r) s[r] = vp_dot(s[r], u, quartet + r * x->stride + 4);
            if (affine) few = vp_plus(few, u);
        }
        VP_EACH(r) sum[r] = vp_end(sum[r], s[r]);
        if (affine) codes = vp_end(codes, vp_dot(vp_begin(codes), few, ones));
    }
    const int64_t at = row * x->scale_row + group * x->scale_step;
    if (affine) VP_EACH(r) sum[r] = vp_times(sum[r], codes, x->minus_zeros + at + r * x->scale_row);
    const vp_f32 scale = vp_scales(scales, w->half);
    VP_EACH(r) f[r] = vp_add(f[r], sum[r], scale, x->scales[at + r * x->scale_row]);
}

V_INLINE void vp_tile(const qn_grouped *w, const int64_t size, const uint8_t *panel, const int panels,
                      const qn_grouped_rows *x, int64_t row, const int rows, int64_t first, int64_t last,
                      const bool affine, float *y) {
    const int64_t width = w->groups * w->record, step = x->rows * 16;
    vp_f32 f[VP_SIDE * VP_ROWS];
    y += row * 16;
    VP_PANELS(p) VP_EACH(r) f[p * rows + r] = vp_load(y + p * step + r * 16);
    for (int64_t g = first; g < last; g++)
        VP_PANELS(p) vp_group(w, size, panel + p * width + g * w->record, x, row, rows, g, affine, f + p * rows);
    VP_PANELS(p) VP_EACH(r) vp_store(y + p * step + r * 16, f[p * rows + r]);
}

/* Rows [row, row + rows) times all panels, `side` of them at a time. */
V_INLINE void vp_rows(const qn_grouped *w, const int64_t size, const uint8_t *panel, int64_t panels, const int side,
                      const qn_grouped_rows *x, int64_t row, const int rows, int64_t first, int64_t last,
                      const bool affine, float *y) {
    const int64_t width = w->groups * w->record, step = x->rows * 16;
    int64_t p = 0;
    for (; panels - p >= side; p += side)
        vp_tile(w, size, panel + p * width, side, x, row, rows, first, last, affine, y + p * step);
    for (; side > 1 && p < panels; p++)
        vp_tile(w, size, panel + p * width, 1, x, row, rows, first, last, affine, y + p * step);
}

V_INLINE void vp_panels(const qn_grouped *w, const uint8_t *panel, int64_t panels, const qn_grouped_rows *x,
                        int64_t first, int64_t last, const bool affine, float *y) {
    int64_t row = 0;
    for (; x->rows - row >= VP_ROWS; row += VP_ROWS)
        vp_rows(w, w->group, panel, panels, 1, x, row, VP_ROWS, first, last, affine, y);
    for (; x->rows - row >= 4; row += 4) vp_rows(w, w->group, panel, panels, 1, x, row, 4, first, last, affine, y);
    for (; x->rows - row >= 2; row += 2) vp_rows(w, w->group, panel, panels, 1, x, row, 2, first, last, affine, y);
    if (row == x->rows) return;
    /* With one row the loop itself costs as much as the products, so a constant size lets the compiler unroll it. Sums
     * of codes need the registers that panels side by side would take. */
    const int side = affine ? 1 : VP_SIDE;
    switch (w->group) {
    case 16: vp_rows(w, 16, panel, panels, side, x, row, 1, first, last, affine, y); break;
    case 32: vp_rows(w, 32, panel, panels, side, x, row, 1, first, last, affine, y); break;
    case 64: vp_rows(w, 64, panel, panels, side, x, row, 1, first, last, affine, y); break;
    default: vp_rows(w, 128, panel, panels, side, x, row, 1, first, last, affine, y);
    }
}

static void grouped_panels(const qn_grouped *w, const uint8_t *panel, int64_t panels, const qn_grouped_rows *x,
                           int64_t first, int64_t last, float *y) {
    if (x->minus_zeros) vp_panels(w, panel, panels, x, first, last, true, y);
    else vp_panels(w, panel, panels, x, first, last, false, y);
}
