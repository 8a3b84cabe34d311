/* Rows of int8 activations times a panel of 16 columns of 4-bit weights.
 *
 * The integer sum of a group is exact; sums of groups are float32, one after the other from the first to the last, each
 * product rounded, no fused multiply-add: the same bits on every ISA. The primitives stand in matmul4_<isa>.h.
 */

enum { V4_AHEAD = 2304, V4_DEEP = 256 }; /* bytes: prefetch distance; of 32 neighbours in k, what int16 sums can hold */

V_INLINE void v4_group(const qn_weight4 *w, const uint8_t *record, const qn_rows4 *x, int64_t row, int64_t group,
                       const int rows, float *y) {
    int64_t bytes = w->block * 8, deep = bytes < V4_DEEP ? bytes : V4_DEEP;
    const int8_t *a = x->codes + row * x->stride + group * w->block;
    const uint8_t *scales = record + bytes, *zeros = scales + (w->half ? 32 : 64);
    v4_i32 sum[V4_ROWS];
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
        int32_t own = x->sums[(row + r) * x->groups + group];
        sum[r] = w->zeros ? v4_minus_zeros(own, zeros) : v4_set1(-QN_ZERO_4 * own);
    }
    for (int64_t i = 0; i < bytes; i += deep, record += deep, a += deep / 8) {
        v4_sums s[V4_ROWS];
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) s[r] = v4_none();
        for (int64_t at = 0; at < deep; at += 64) {
            const int8_t *quad = a + at / 8;
            __builtin_prefetch(record + at + V4_AHEAD);
            v4_codes u = v4_low(record + at);
            _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) s[r] = v4_dot(s[r], u, quad + r * x->stride);
            u = v4_high(record + at);
            _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) s[r] = v4_dot(s[r], u, quad + r * x->stride + 4);
        }
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) sum[r] = v4_widen(sum[r], s[r]);
    }
    v4_f32 scale = v4_scales(scales, w->half);
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
        v4_accumulate(y + 16 * r, sum[r], scale, x->scales[(row + r) * x->scale_row + group * x->scale_step]);
}

static void matmul4_panel(const qn_weight4 *w, const uint8_t *panel, const qn_rows4 *x, int64_t first, int64_t last,
                          float *y) {
#define V4_RUN(count)                                                                                                  \
    for (; x->rows - row >= count; row += count)                                                                       \
        for (int64_t g = first; g < last; g++) v4_group(w, panel + g * w->record, x, row, g, count, y + 16 * row);
    int64_t row = 0;
    V4_RUN(V4_ROWS)
    V4_RUN(4)
    V4_RUN(2)
    V4_RUN(1)
#undef V4_RUN
}
