/* Integer products, in plain C and in the vector primitives: the packers, the tiles, the output stage. A file that has
 * tiles of its own (QN_OWN_TILES) defines left_bytes, left_pairs, right_*, multiply_* and matmul_tiling before it
 * includes this one.
 */
#ifndef QN_OWN_U8
static void multiply_u8(const qn_tile *t);
#endif

#ifndef QN_OWN_TILES

static void matmul_tiling(qn_tiling *t) {
    *t = (qn_tiling){.pairs = false,
                     .panels = 1,
                     .kblock = 128,
                     .band_rows = 256,
                     .macs_a_byte = 1,
                     .widen_rows = INT64_MAX,
                     .sweep_rows = 16,
                     .dots_rows = 16};
}

/* Packs bytes as int8: an uint8 becomes itself less 128. */
static void left_bytes(const qn_left *l) {
    int8_t *to = l->packed;
    for (int64_t i = 0; i < l->rows; i += QN_SLIVER)
        for (int r = 0; r < QN_SLIVER; r++) {
            int64_t row = i + r < l->rows ? i + r : l->rows - 1;
            const uint8_t *a = (const uint8_t *)l->a + row * l->stride;
            int8_t *sliver = to + i * l->quartets * 4 + r * 4;
            int32_t sum = 0;
            for (int64_t k = 0; k < l->quartets * 4; k++) {
                int8_t code = k < l->k ? (int8_t)(l->is_signed ? a[k] : a[k] ^ 0x80) : 0;
                sliver[k / 4 * 16 + k % 4] = code;
                sum += code;
            }
            l->start[i + r] = 0;
            l->sum[i + r] = sum - (int32_t)l->k * (l->zero[row * l->zero_step] - (l->is_signed ? 0 : 128));
        }
}

/* Not called: the tiling of such an ISA row has pairs = false. */
static void left_pairs(const qn_left *l) { left_bytes(l); }

static void right_bytes(const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, int64_t panels,
                        uint8_t *packed, int64_t panel_step) {
    for (int64_t p = 0; p < panels; p++)
        for (int64_t k = 0; k < quartets * 4; k++)
            for (int j = 0; j < QN_PANEL; j++)
                packed[p * panel_step + k / 4 * QN_QUARTET + j * 4 + k % 4] = b[k * stride + p * QN_PANEL + j] ^ flip;
}

static void right_turned(const uint8_t *b, int64_t stride, uint8_t flip, int64_t quartets, uint8_t *panel) {
    for (int j = 0; j < QN_PANEL; j++)
        for (int64_t k = 0; k < quartets * 4; k++) panel[k / 4 * QN_QUARTET + j * 4 + k % 4] = b[j * stride + k] ^ flip;
}

static void right_sums(const uint8_t *panel, int64_t quartets, int32_t *sum, int32_t *pairs) {
    for (const uint8_t *u = panel; u < panel + quartets * QN_QUARTET; u += QN_QUARTET)
        for (int j = 0; j < QN_PANEL; j++) {
            const uint8_t *q = u + 4 * j;
            sum[j] += q[0] + q[1] + q[2] + q[3];
            pairs[j] -= (q[0] - 128) * (q[1] - 128) + (q[2] - 128) * (q[3] - 128);
        }
}

static void right_widen(const uint8_t *panel, int64_t quartets, uint16_t *wide) {
    for (int64_t i = 0; i < quartets * QN_QUARTET; i++) wide[i] = panel[i];
}

static void multiply_u7(const qn_tile *t) { multiply_u8(t); }
static void multiply_pairs(const qn_tile *t) { multiply_u8(t); }
static void multiply_pairs_wide(const qn_tile *t) { multiply_u8(t); }

static void multiply_words(const qn_tile *t) {
    for (int64_t r = 0; r < t->rows; r++) {
        const int16_t *a = (const int16_t *)t->left + r / QN_SLIVER * t->quartets * 8 + r % QN_SLIVER * 2;
        for (int p = 0; p < t->panels; p++) {
            uint32_t sum[QN_PANEL];
            int32_t *c = t->c + r * t->c_step + p * QN_PANEL;
            const int16_t *b = (const int16_t *)(const void *)(t->right + p * t->right_step);
            for (int j = 0; j < QN_PANEL; j++)
                sum[j] = (uint32_t)t->row_start[r] + (uint32_t)t->column_start[p * QN_PANEL + j] +
                         (t->add ? (uint32_t)c[j] : 0u);
            for (int64_t g = 0; g < t->quartets; g++, b += QN_QUARTET / 2)
                for (int j = 0; j < QN_PANEL; j++)
                    for (int k = 0; k < 2; k++) {
                        const int32_t product = a[g * 8 + k] * b[j * 2 + k];
                        sum[j] += (uint32_t)product;
                    }
            for (int j = 0; j < QN_PANEL; j++) c[j] = (int32_t)sum[j];
        }
    }
}
#endif

/* The reference of ISA rows that use multiply_pairs instead. */
#ifndef QN_OWN_U8
static void multiply_u8(const qn_tile *t) {
    for (int64_t r = 0; r < t->rows; r++) {
        const int8_t *a = (const int8_t *)t->left + r / QN_SLIVER * t->quartets * 16 + r % QN_SLIVER * 4;
        for (int p = 0; p < t->panels; p++) {
            uint32_t sum[QN_PANEL];
            int32_t *c = t->c + r * t->c_step + p * QN_PANEL;
            const uint8_t *b = t->right + p * t->right_step;
            for (int j = 0; j < QN_PANEL; j++)
                sum[j] = (uint32_t)t->row_start[r] + (uint32_t)t->column_start[p * QN_PANEL + j] +
                         (t->add ? (uint32_t)c[j] : 0u);
            for (int64_t g = 0; g < t->quartets; g++, b += QN_QUARTET)
                for (int j = 0; j < QN_PANEL; j++)
                    for (int k = 0; k < 4; k++) sum[j] += (uint32_t)(a[g * 16 + k] * b[j * 4 + k]);
            for (int j = 0; j < QN_PANEL; j++) c[j] = (int32_t)sum[j];
        }
    }
}
#endif

static void left_words(const qn_left *l) {
    int16_t *to = l->packed;
    for (int64_t i = 0; i < l->rows; i += QN_SLIVER)
        for (int r = 0; r < QN_SLIVER; r++) {
            int64_t row = i + r < l->rows ? i + r : l->rows - 1;
            const int16_t *a = (const int16_t *)(const void *)((const char *)l->a + row * l->stride);
            int16_t *sliver = to + i * l->quartets * 2 + r * 2;
            int64_t sum = 0;
            for (int64_t k = 0; k < l->quartets * 2; k++) {
                int16_t code = k < l->k ? a[k] : 0;
                sliver[k / 2 * 8 + k % 2] = code;
                sum += code;
            }
            l->start[i + r] = 0;
            l->sum[i + r] = (int32_t)(sum - l->k * l->zero[row * l->zero_step]);
        }
}

/* Columns [from, t->columns) of a thin product: the last ones after the vectors, or all. */
V_INLINE void thin_columns(const qn_thin *t, int64_t from, int64_t k_step, int64_t column_step) {
    for (int r = 0; r < t->rows; r++)
        for (int64_t j = from; j < t->columns; j++) {
            const uint8_t *b = t->b + j * column_step;
            uint32_t sum = (uint32_t)t->c[r * t->c_step + j];
            for (int64_t k = 0; k < t->k; k++) {
                int32_t code = t->is_signed ? (int8_t)b[k * k_step] : b[k * k_step];
                sum += (uint32_t)(t->a[r * t->a_step + k] * code);
            }
            t->c[r * t->c_step + j] = (int32_t)sum;
        }
}

/* Not called: the tiling of such an ISA row has parts = false. */
#ifndef QN_OWN_PARTS
static void left_parts(const qn_left *l) { left_bytes(l); }
static void multiply_parts(const qn_tile *t) { multiply_u8(t); }
#endif

#ifndef QN_OWN_THIN
static void sweep(const qn_thin *t) { thin_columns(t, 0, t->stride, 1); }
static void dots(const qn_thin *t) { thin_columns(t, 0, 1, t->stride); }
#else
static void sweep(const qn_thin *t) { thin_columns(t, v_sweep(t), t->stride, 1); }
static void dots(const qn_thin *t) { thin_columns(t, v_dots(t), 1, t->stride); }
#endif

static void add_outer(const int32_t *x, const int32_t *y, int64_t rows, int64_t columns, int32_t *c, int64_t c_step) {
    for (int64_t r = 0; r < rows; r++, c += c_step)
        for (int64_t j = 0; j < columns; j++) c[j] = (int32_t)((uint32_t)c[j] + (uint32_t)x[r] * (uint32_t)y[j]);
}

/* ---- the output stage ---- */

/* Sixteen columns at a time: each cache line of the output is written once, and scale and bias stay in registers for
 * all rows. The last columns use padded copies. */
enum { V_VECTORS = QN_PANEL / V_LANES, ROWS_AHEAD = 8 };

typedef struct {
    float scale[QN_PANEL], bias[QN_PANEL];
} v_finish_columns;

V_INLINE vf v_scaled(const qn_finish *f, const int32_t *acc, int64_t r, vf scale, bool by_row) {
    if (by_row) scale = vf_mul(vf_set1(f->row_scale[r]), scale);
    return vf_mul(vf_from_vi(vi_load(acc)), scale);
}

/* `by_row`, `biased` and `bounded` are constants; so is `count` if it is 16. */
V_INLINE void v_finish_f32(const qn_finish *f, int64_t j, const size_t count, bool by_row, bool biased, bool bounded) {
    const vf lo = vf_set1(f->lo), hi = vf_set1(f->hi);
    const int32_t *acc = f->acc + j;
    float *out = (float *)f->out + j;
    v_finish_columns t = {0};
    vf scale[V_VECTORS], bias[V_VECTORS];
    memcpy(t.scale, f->column_scale + j, count * 4);
    if (biased) memcpy(t.bias, f->bias + j, count * 4);
    for (int v = 0; v < V_VECTORS; v++) {
        scale[v] = vf_load(t.scale + v * V_LANES), bias[v] = vf_load(t.bias + v * V_LANES);
        if (!by_row) scale[v] = vf_mul(vf_set1(*f->row_scale), scale[v]);
    }
    for (int64_t r = 0; r < f->rows; r++, acc += f->acc_step, out += f->out_step) {
        int32_t sums[QN_PANEL] = {0};
        float last[QN_PANEL];
        __builtin_prefetch(out + ROWS_AHEAD * f->out_step, 1);
        if (count < QN_PANEL) memcpy(sums, acc, count * 4);
        for (int v = 0; v < V_VECTORS; v++) {
            vf x = v_scaled(f, (count < QN_PANEL ? sums : acc) + v * V_LANES, r, scale[v], by_row);
            if (biased) x = vf_add(x, bias[v]);
            if (bounded) x = vf_min(hi, vf_max(lo, x)); /* NaN stays */
            vf_store((count < QN_PANEL ? last : out) + v * V_LANES, x);
        }
        if (count < QN_PANEL) memcpy(out, last, count * 4);
    }
}

V_INLINE void v_finish_all_f32(const qn_finish *stage, bool by_row, bool biased, bool bounded) {
    const qn_finish f = *stage; /* a copy that no store can change */
    int64_t j = 0;
    for (; j + QN_PANEL <= f.columns; j += QN_PANEL) v_finish_f32(&f, j, QN_PANEL, by_row, biased, bounded);
    if (j < f.columns) v_finish_f32(&f, j, (size_t)(f.columns - j), by_row, biased, bounded);
}

static void finish_f32(const qn_finish *f) {
    const bool by_row = f->row_scale_step, biased = f->bias, bounded = f->lo > -INFINITY || f->hi < INFINITY;
    if (bounded) {
        if (biased) by_row ? v_finish_all_f32(f, true, true, true) : v_finish_all_f32(f, false, true, true);
        else by_row ? v_finish_all_f32(f, true, false, true) : v_finish_all_f32(f, false, false, true);
    } else {
        if (biased) by_row ? v_finish_all_f32(f, true, true, false) : v_finish_all_f32(f, false, true, false);
        else by_row ? v_finish_all_f32(f, true, false, false) : v_finish_all_f32(f, false, false, false);
    }
}

#define FINISH_CODES(tag, type)                                                                                        \
    V_INLINE void v_finish_##tag(const qn_finish *f, int64_t j, const size_t count, bool by_row) {                     \
        const vi zero = vi_set1(f->zero_point);                                                                        \
        const vf widest = vf_set1((float)QN_WIDEST_CODE);                                                              \
        const int32_t *acc = f->acc + j;                                                                               \
        type *out = (type *)f->out + j;                                                                                \
        v_finish_columns t = {0};                                                                                      \
        vf scale[V_VECTORS];                                                                                           \
        memcpy(t.scale, f->column_scale + j, count * 4);                                                               \
        for (int v = 0; v < V_VECTORS; v++) {                                                                          \
            scale[v] = vf_load(t.scale + v * V_LANES);                                                                 \
            if (!by_row) scale[v] = vf_mul(vf_set1(*f->row_scale), scale[v]);                                          \
        }                                                                                                              \
        for (int64_t r = 0; r < f->rows; r++, acc += f->acc_step, out += f->out_step) {                                \
            int32_t sums[QN_PANEL] = {0};                                                                              \
            type last[QN_PANEL];                                                                                       \
            if (count < QN_PANEL) memcpy(sums, acc, count * 4);                                                        \
            for (int v = 0; v < V_VECTORS; v++) {                                                                      \
                vf x = v_scaled(f, (count < QN_PANEL ? sums : acc) + v * V_LANES, r, scale[v], by_row);                \
                vi_store_##tag((count < QN_PANEL ? last : out) + v * V_LANES,                                          \
                               v_saturate(vi_round(vf_clamp_abs(x, widest)), zero, f->qmin, f->qmax));                 \
            }                                                                                                          \
            if (count < QN_PANEL) memcpy(out, last, count);                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    V_INLINE void v_finish_all_##tag(const qn_finish *stage, bool by_row) {                                            \
        const qn_finish f = *stage;                                                                                    \
        int64_t j = 0;                                                                                                 \
        for (; j + QN_PANEL <= f.columns; j += QN_PANEL) v_finish_##tag(&f, j, QN_PANEL, by_row);                      \
        if (j < f.columns) v_finish_##tag(&f, j, (size_t)(f.columns - j), by_row);                                     \
    }                                                                                                                  \
    static void finish_##tag(const qn_finish *f) {                                                                     \
        f->row_scale_step ? v_finish_all_##tag(f, true) : v_finish_all_##tag(f, false);                                \
    }
FINISH_CODES(i8, int8_t)
FINISH_CODES(u8, uint8_t)
#undef FINISH_CODES
