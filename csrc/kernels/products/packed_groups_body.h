/* Rows of int8 activations times panels of 16 columns of weights in groups.
 *
 * The integer sum of a group is exact. Groups are added in float32 from the first to the last; each product is rounded
 * and nothing is fused, so that every ISA gives the same bits. panel_<isa>.h has the primitives.
 *
 * With the codes q of x, its zero point z, the codes u of w and its zero point v, a sum over a group is
 *   sum (q - z)(u - v)  =  sum q u  +  v minus_sum  -  z sum u,   minus_sum = -sum (q - z).
 * The last term is needed only if some z is not 0.
 */

/* Adds the products of one group of `size` neighbours to f[rows]. */
V_INLINE void vp_group(const qn_grouped *w, const int bits, const int64_t size, const uint8_t *record,
                       const qn_grouped_rows *x, int64_t row, const int rows, int64_t group, const bool affine,
                       vp_f32 *f) {
    const uint8_t *scales = record + size * 2 * bits;
    const int8_t *a = x->codes + row * x->stride + group * size;
    const int32_t *minus_sum = x->minus_sums + row * x->groups + group;
    vp_i32 sum[VP_ROWS], codes = {0};
    if (w->zeros) VP_EACH(r) sum[r] = vp_zeros(minus_sum + r * x->groups, scales + (w->half ? 32 : 64));
    else VP_EACH(r) sum[r] = vp_middle(minus_sum + r * x->groups, bits);
    vp_products(bits, size, record, a, x->stride, rows, affine, sum, &codes);
    const int64_t at = row * x->scale_row + group * x->scale_step;
    if (affine) VP_EACH(r) sum[r] = vp_times(sum[r], codes, x->minus_zeros + at + r * x->scale_row);
    const vp_f32 scale = vp_scales(scales, w->half);
    VP_EACH(r) f[r] = vp_add(f[r], sum[r], scale, x->scales[at + r * x->scale_row]);
}

V_INLINE void vp_tile(const qn_grouped *w, const int bits, const int64_t size, const uint8_t *panel, const int panels,
                      const qn_grouped_rows *x, int64_t row, const int rows, int64_t first, int64_t last,
                      const bool affine, float *y) {
    const int64_t width = w->groups * w->record, step = x->rows * 16;
    vp_f32 f[VP_SIDE * VP_ROWS];
    y += row * 16;
    VP_PANELS(p) VP_EACH(r) f[p * rows + r] = vp_load(y + p * step + r * 16);
    for (int64_t g = first; g < last; g++) VP_PANELS(p)
    vp_group(w, bits, size, panel + p * width + g * w->record, x, row, rows, g, affine, f + p * rows);
    VP_PANELS(p) VP_EACH(r) vp_store(y + p * step + r * 16, f[p * rows + r]);
}

/* Rows [row, row + rows) times all panels, `side` of them at a time. */
V_INLINE void vp_rows(const qn_grouped *w, const int bits, const int64_t size, const uint8_t *panel, int64_t panels,
                      const int side, const qn_grouped_rows *x, int64_t row, const int rows, int64_t first,
                      int64_t last, const bool affine, float *y) {
    const int64_t width = w->groups * w->record, step = x->rows * 16;
    int64_t p = 0;
    for (; panels - p >= side; p += side)
        vp_tile(w, bits, size, panel + p * width, side, x, row, rows, first, last, affine, y + p * step);
    for (; side > 1 && p < panels; p++)
        vp_tile(w, bits, size, panel + p * width, 1, x, row, rows, first, last, affine, y + p * step);
}

V_INLINE void vp_panels(const qn_grouped *w, const int bits, const uint8_t *panel, int64_t panels,
                        const qn_grouped_rows *x, int64_t first, int64_t last, const bool affine, float *y) {
    int64_t row = 0;
    for (; x->rows - row >= VP_ROWS; row += VP_ROWS)
        vp_rows(w, bits, w->group, panel, panels, 1, x, row, VP_ROWS, first, last, affine, y);
    for (; x->rows - row >= 4; row += 4)
        vp_rows(w, bits, w->group, panel, panels, 1, x, row, 4, first, last, affine, y);
    for (; x->rows - row >= 2; row += 2)
        vp_rows(w, bits, w->group, panel, panels, 1, x, row, 2, first, last, affine, y);
    if (row == x->rows) return;
    /* With one row the loop itself costs as much as the products, so a constant size lets the compiler unroll it. Sums
     * of codes need the registers that panels side by side would take. */
    const int side = affine ? 1 : VP_SIDE;
    switch (VP_COMPACT ? 0 : w->group) {
    case 16: vp_rows(w, bits, 16, panel, panels, side, x, row, 1, first, last, affine, y); break;
    case 32: vp_rows(w, bits, 32, panel, panels, side, x, row, 1, first, last, affine, y); break;
    case 64: vp_rows(w, bits, 64, panel, panels, side, x, row, 1, first, last, affine, y); break;
    default: vp_rows(w, bits, VP_COMPACT ? w->group : 128, panel, panels, side, x, row, 1, first, last, affine, y);
    }
}

#define GROUPED_PANELS(bits)                                                                                           \
    static void grouped_panels_##bits(const qn_grouped *w, const uint8_t *panel, int64_t panels,                       \
                                      const qn_grouped_rows *x, int64_t first, int64_t last, float *y) {               \
        if (x->minus_zeros) vp_panels(w, bits, panel, panels, x, first, last, true, y);                                \
        else vp_panels(w, bits, panel, panels, x, first, last, false, y);                                              \
    }
GROUPED_PANELS(8)
GROUPED_PANELS(4)
GROUPED_PANELS(2)
#undef GROUPED_PANELS

static void grouped_panels(const qn_grouped *w, const uint8_t *panel, int64_t panels, const qn_grouped_rows *x,
                           int64_t first, int64_t last, float *y) {
    if (w->bits == 8) grouped_panels_8(w, panel, panels, x, first, last, y);
    else if (w->bits == 4) grouped_panels_4(w, panel, panels, x, first, last, y);
    else grouped_panels_2(w, panel, panels, x, first, last, y);
}
