/* Rows of int8 activations times a panel of 16 columns of 4-bit weights.
 *
 * The integer sum of a group is exact; sums of groups are float32, one after the other from the first to the last, each
 * product rounded, no fused multiply-add: the same bits on every ISA. The primitives stand in matmul4_<isa>.h.
 */

enum { V4_AHEAD = 2304, V4_DEEP = 256 }; /* bytes: prefetch distance; of 32 neighbours in k, what int16 sums can hold */

#define V4_EACH(r) _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)

/* `deep`: bytes before int16 sums are widened. */
V_INLINE void v4_rows(const qn_weight4 *w, const uint8_t *panel, const qn_rows4 *x, int64_t row, int64_t first,
                      int64_t last, const int rows, const int64_t deep, float *y) {
    const int64_t bytes = w->block * 8;
    v4_f32 f[V4_ROWS];
    V4_EACH(r) f[r] = v4_load(y + 16 * r);
    for (int64_t group = first; group < last; group++) {
        const uint8_t *record = panel + group * w->record, *scales = record + bytes;
        const int8_t *a = x->codes + row * x->stride + group * w->block;
        const int32_t *minus_sum = x->minus_sums + row * x->groups + group;
        v4_i32 sum[V4_ROWS];
        if (w->zeros) V4_EACH(r) sum[r] = v4_zeros(minus_sum + r * x->groups, scales + (w->half ? 32 : 64));
        else V4_EACH(r) sum[r] = v4_eights(minus_sum + r * x->groups);
        for (int64_t i = 0; i < bytes; i += deep, record += deep, a += deep / 8) {
            v4_sums s[V4_ROWS];
            V4_EACH(r) s[r] = v4_begin(sum[r]);
            for (int64_t at = 0; at < deep; at += 64) {
                const int8_t *quad = a + at / 8;
                if (rows > 1) __builtin_prefetch(record + at + V4_AHEAD); /* one row is bound by memory anyway */
                v4_codes u = v4_low(record + at);
                V4_EACH(r) s[r] = v4_dot(s[r], u, quad + r * x->stride);
                u = v4_high(record + at);
                V4_EACH(r) s[r] = v4_dot(s[r], u, quad + r * x->stride + 4);
            }
            V4_EACH(r) sum[r] = v4_end(sum[r], s[r]);
        }
        const v4_f32 scale = v4_scales(scales, w->half);
        const float *x_scale = x->scales + row * x->scale_row + group * x->scale_step;
        V4_EACH(r) f[r] = v4_add(f[r], sum[r], scale, x_scale[r * x->scale_row]);
    }
    V4_EACH(r) v4_store(y + 16 * r, f[r]);
}

static void matmul4_panel(const qn_weight4 *w, const uint8_t *panel, const qn_rows4 *x, int64_t first, int64_t last,
                          float *y) {
    const int64_t bytes = w->block * 8, deep = bytes < V4_DEEP ? bytes : V4_DEEP;
    int64_t row = 0;
    for (; x->rows - row >= V4_ROWS; row += V4_ROWS)
        v4_rows(w, panel, x, row, first, last, V4_ROWS, deep, y + 16 * row);
    for (; x->rows - row >= 4; row += 4) v4_rows(w, panel, x, row, first, last, 4, deep, y + 16 * row);
    for (; x->rows - row >= 2; row += 2) v4_rows(w, panel, x, row, first, last, 2, deep, y + 16 * row);
    if (row == x->rows) return;
    /* One row has time for little beside its products: its loop is unrolled. */
    if (deep == V4_DEEP) v4_rows(w, panel, x, row, first, last, 1, V4_DEEP, y + 16 * row);
    else v4_rows(w, panel, x, row, first, last, 1, deep, y + 16 * row);
}
