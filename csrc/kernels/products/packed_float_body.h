/* float32 rows times panels of 16 columns of narrow floats.
 *
 * The bits of a code are moved to the place that its fields have in a wider format whose bias differs, and a power of
 * two corrects the bias, which is exact. A code of 8 bits takes the place of a float32. Its few subnormal numbers are
 * subnormal there too, which costs some CPUs an assist of about 150 cycles; of 6 and 4 bits they would be too many, so
 * these take the place of a float16, which the CPU widens without one.
 */

enum {
    F_VECTORS = QN_PANEL / V_LANES, /* of a panel */
    F_ROWS = V_LANES == 16 ? 12
    : V_LANES == 1         ? 4
                           : 6,       /* of a tile */
    F_PANELS = V_LANES == 16 ? 2 : 1, /* of a tile */
    F_SIDE = V_LANES == 16 ? QN_PANELS
    : V_LANES == 1         ? 1
                           : 2, /* panels side by side with one row of x */
};

#if V_LANES == 1 /* its registers hold no panel, and unrolled it would take long to compile */
#define F_EACH(i, n) _Pragma("GCC unroll 1") for (int i = 0; i < (n); i++)
#else
#define F_EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#endif

/* ---- codes ---- */

V_INLINE int f_bits(v_format f) { return 1 + v_width(f); }
/* The power of two that f_widen leaves out. */
V_INLINE float f_correction(v_format f) {
    const float exponent = f_bits(f) == 8 ? 0x1p127f : 0x1p15f;
    return exponent / (float)(1 << f.bias);
}

/* Code i of a unit in the highest bits of its word; the bits below it are those of other codes. 6 or 4 bits. */
V_INLINE vw f_code(v_format f, const uint8_t *unit, const int i) {
    const int bits = f_bits(f), each = 16 / bits;
    if (bits == 6 && i == 6) return vw_or(vw_shl(vw_load(unit), 12), vw_and(vw_shl(vw_load(unit + 32), 8), 0x0C00));
    if (bits == 6 && i == 7)
        return vw_or(vw_shl(vw_load(unit + 32), 14), vw_and(vw_shl(vw_load(unit + 64), 10), 0x3C00));
    return vw_shl(vw_load(unit + i / each * 32), i % each * bits);
}

V_INLINE void f_widen_byte(v_format f, const uint8_t *unit, const int i, vf x[F_VECTORS]) {
    const int32_t *quartets = (const int32_t *)(const void *)(unit + i / 4 * QN_QUARTET);
    const int32_t magnitude = 0x7F << (23 - f.mantissa);
    F_EACH(v, F_VECTORS) {
        vi code = vi_load(quartets + v * V_LANES);
        if (i % 4 < 3) code = vi_shl(code, 24 - i % 4 * 8);
        x[v] = vf_from_bits(vi_and(vi_sra(code, 8 - f.exponent), vi_set1(INT32_MIN | magnitude)));
    }
}

/* Code i of a unit, divided by f_correction; infinities and NaN become numbers. */
V_INLINE void f_widen(v_format f, const uint8_t *unit, const int i, vf x[F_VECTORS]) {
    if (f_bits(f) == 8) {
        f_widen_byte(f, unit, i, x);
        return;
    }
#ifdef V_NIBBLES
    if (f_bits(f) == 4) {
        x[0] = vf_nibble(vw_load(unit + i / 4 * 32), i % 4);
        return;
    }
#endif
    const int magnitude = ((1 << v_width(f)) - 1) << (10 - f.mantissa);
    vw_halves(vw_and(vw_sra(f_code(f, unit, i), 5 - f.exponent), 0x8000 | magnitude), x);
}

/* The float32 of code i. */
V_INLINE void f_number(v_format f, const uint8_t *unit, const int i, vf x[F_VECTORS]) {
    f_widen(f, unit, i, x);
    F_EACH(v, F_VECTORS) {
        x[v] = vf_mul(x[v], vf_set1(f_correction(f)));
        if (f.kind == QN_IEEE) { /* the codes above the largest number */
            const vi bits = vi_from_bits(x[v]), body = vi_low_unsigned(bits, 31);
            const vi infinity = vi_or(vi_and(bits, vi_set1(INT32_MIN)), vi_set1(V_INFINITY));
            x[v] = vf_from_bits(vi_if_less(vi_set1(v_bits(f, v_largest(f))), body, infinity, bits));
        }
    }
}

/* ---- scales ---- */

V_INLINE int f_scale_bytes(qn_type scale) { return scale == QN_F32 ? 4 : 1; }

/* The scales of group g of a panel. 0xFF of e8m0 is a NaN, whose columns the driver knows. */
V_INLINE void f_scales(const qn_float_weight *w, const uint8_t *panel, int64_t g, vf s[F_VECTORS]) {
    const uint8_t *p = panel + w->codes + g * QN_PANEL * f_scale_bytes(w->scale);
    const v_format e4m3 = {4, 3, 7, QN_FN};
    F_EACH(v, F_VECTORS) {
        if (w->scale == QN_F32) s[v] = vf_load((const float *)(const void *)p + v * V_LANES);
        else {
            vi code = vi_load_u8(p + v * V_LANES);
            if (w->scale == QN_E8M0FNU) s[v] = vf_from_bits(vi_max(vi_shl(code, 23), vi_set1(0x400000)));
            else s[v] = vf_mul(v_from_code(code, e4m3), vf_set1(w->tensor_scale));
        }
    }
}

/* Where k stands: its group, the unit of the group's that has it, and the neighbours left in the group. */
typedef struct {
    int64_t group, unit, left;
} f_place;

V_INLINE f_place f_place_of(const qn_float_weight *w, int64_t k) {
    const int64_t g = k / w->group, at = k % w->group, rest = w->k - g * w->group;
    return (f_place){g, g * ((w->group + QN_UNIT - 1) / QN_UNIT) + at / QN_UNIT,
                     (rest < w->group ? rest : w->group) - at};
}

#include "packed_table_body.h"

/* ---- a panel as float32 ---- */

V_INLINE void f_unit(v_format f, const uint8_t *unit, const vf s[F_VECTORS], float *to) {
    F_EACH(i, QN_UNIT) {
        vf x[F_VECTORS];
        f_number(f, unit, i, x);
        F_EACH(v, F_VECTORS) vf_store(to + i * QN_PANEL + v * V_LANES, vf_mul(x[v], s[v]));
    }
}

V_INLINE void f_panel(v_format f, const qn_float_weight *w, const uint8_t *panel, int64_t k, int64_t depth, float *to) {
    const int64_t step = QN_UNIT * 2 * f_bits(f);
    while (depth > 0) {
        const f_place at = f_place_of(w, k);
        const int64_t n = at.left < depth ? at.left : depth;
        const uint8_t *unit = panel + at.unit * step;
        vf s[F_VECTORS];
        f_scales(w, panel, at.group, s);
        int64_t i = 0;
        for (; i + QN_UNIT <= n; i += QN_UNIT, unit += step, to += QN_UNIT * QN_PANEL) f_unit(f, unit, s, to);
        if (i < n) {
            float last[QN_UNIT * QN_PANEL];
            f_unit(f, unit, s, last);
            memcpy(to, last, (size_t)((n - i) * QN_PANEL) * sizeof *to);
            to += (n - i) * QN_PANEL;
        }
        k += n, depth -= n;
    }
}

#define F_IS_ELEMENT(bits, kind) ((bits) == 8 && (kind) != QN_SCALE)

static void float_panel(const qn_float_weight *w, const uint8_t *panel, int64_t k, int64_t depth, float *to) {
    switch (w->element) {
    case QN_U4:
    case QN_U8: t_panel(w, panel, k, depth, to); break;
#define PANEL_CASE(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                           \
    case QN_##NAME:                                                                                                    \
        if (F_IS_ELEMENT(bits, kind)) f_panel((v_format){exponent, mantissa, bias, kind}, w, panel, k, depth, to);     \
        break;
        QN_NARROW_FLOATS(PANEL_CASE, _)
#undef PANEL_CASE
    default: break;
    }
}

/* ---- one row ---- */

V_INLINE void f_row_unit(v_format f, const uint8_t *unit, int64_t width, const int side, const vf *s, const float *x,
                         const int i, vf *acc) {
    const vf a = vf_set1(x[i]);
    F_EACH(p, side) {
        vf b[F_VECTORS];
        f_widen(f, unit + p * width, i, b);
        F_EACH(v, F_VECTORS) {
            const int at = p * F_VECTORS + v;
            acc[at] = vf_fma(a, vf_mul(b[v], s[at]), acc[at]);
        }
    }
}

/* The first n codes of a unit. The sums pass through memory, so that the loop before keeps them in registers. */
V_INLINE void f_row_rest(v_format f, const uint8_t *unit, int64_t width, const int side, const vf *s, const float *x,
                         int64_t n, vf *acc) {
    float sum[F_SIDE * QN_PANEL], scale[F_SIDE * QN_PANEL], b[QN_UNIT * QN_PANEL];
    F_EACH(at, side * F_VECTORS) vf_store(sum + at * V_LANES, acc[at]), vf_store(scale + at * V_LANES, s[at]);
    for (int p = 0; p < side; p++) {
        float *y = sum + p * QN_PANEL;
        F_EACH(i, QN_UNIT) {
            vf number[F_VECTORS];
            f_widen(f, unit + p * width, i, number);
            F_EACH(v, F_VECTORS) {
                const int at = v * V_LANES;
                vf_store(b + i * QN_PANEL + at, vf_mul(number[v], vf_load(scale + p * QN_PANEL + at)));
            }
        }
        for (int64_t i = 0; i < n; i++)
            for (int at = 0; at < QN_PANEL; at += V_LANES)
                vf_store(y + at, vf_fma(vf_set1(x[i]), vf_load(b + i * QN_PANEL + at), vf_load(y + at)));
    }
    F_EACH(at, side * F_VECTORS) acc[at] = vf_load(sum + at * V_LANES);
}

V_INLINE void f_row(v_format f, const qn_float_weight *w, const uint8_t *panel, const int side, const float *x,
                    float *y) {
    const int64_t step = QN_UNIT * 2 * f_bits(f), width = w->width;
    const uint8_t *unit = panel;
    vf acc[F_SIDE * F_VECTORS], s[F_SIDE * F_VECTORS];
    F_EACH(at, side * F_VECTORS) acc[at] = vf_set1(0.0f);
    for (int64_t g = 0; g < w->groups; g++) {
        const int64_t rest = w->k - g * w->group, n = rest < w->group ? rest : w->group;
        F_EACH(p, side) f_scales(w, panel + p * width, g, s + p * F_VECTORS);
        F_EACH(at, side * F_VECTORS) s[at] = vf_mul(s[at], vf_set1(f_correction(f)));
        int64_t k = 0;
        for (; k + QN_UNIT <= n; k += QN_UNIT, unit += step, x += QN_UNIT)
            F_EACH(i, QN_UNIT) f_row_unit(f, unit, width, side, s, x, i, acc);
        if (k < n) {
            f_row_rest(f, unit, width, side, s, x, n - k, acc);
            unit += step, x += n - k;
        }
    }
    F_EACH(at, side * F_VECTORS) vf_store(y + at * V_LANES, acc[at]);
}

V_INLINE void f_row_panels(v_format f, const qn_float_weight *w, const uint8_t *panel, int64_t panels, const float *x,
                           float *y) {
    int64_t p = 0;
    for (; p + F_SIDE <= panels; p += F_SIDE) f_row(f, w, panel + p * w->width, F_SIDE, x, y + p * QN_PANEL);
    for (; F_SIDE > 1 && p < panels; p++) f_row(f, w, panel + p * w->width, 1, x, y + p * QN_PANEL);
}

static void multiply_float_row(const qn_float_weight *w, const uint8_t *panel, int64_t panels, const float *x,
                               float *y) {
    switch (w->element) {
    case QN_U4:
    case QN_U8: t_row_panels(w, panel, panels, x, y); break;
#define ROW_CASE(_, tag, NAME, name, bits, exponent, mantissa, bias, kind)                                             \
    case QN_##NAME:                                                                                                    \
        if (F_IS_ELEMENT(bits, kind))                                                                                  \
            f_row_panels((v_format){exponent, mantissa, bias, kind}, w, panel, panels, x, y);                          \
        break;
        QN_NARROW_FLOATS(ROW_CASE, _)
#undef ROW_CASE
    default: break;
    }
}

/* ---- many rows ----
 *
 * Rows of x lie in slivers of up to F_ROWS rows, whose lengths differ by one at most: [k][rows of the sliver].
 */

typedef struct {
    int64_t number, least, longer; /* of slivers; rows of the short ones; the first ones have a row more */
} f_split;

V_INLINE f_split f_split_of(int64_t rows) {
    const int64_t number = (rows + F_ROWS - 1) / F_ROWS;
    return (f_split){number, number ? rows / number : 0, number ? rows % number : 0};
}

static void float_rows(const float *x, int64_t k, int64_t first, int64_t last, int64_t rows, float *packed) {
    const f_split split = f_split_of(rows);
    for (int64_t i = 0, row = 0; i < split.number; i++) {
        const int64_t n = split.least + (i < split.longer);
        for (int64_t r = 0; r < n; r++) {
            const float *from = x + (row + r) * k;
            float *to = packed + row * k + r;
            for (int64_t at = first; at < last; at++) to[at * n] = from[at];
        }
        row += n;
    }
}

V_INLINE void f_tile(const qn_float_tile *t, int64_t row, int64_t panel, const int rows, const int panels) {
    const float *x = t->x + row * t->k + t->first * rows, *w = t->w + panel * t->w_step;
    float *y = t->y + row * t->y_step + panel * QN_PANEL;
    vf acc[F_ROWS][F_PANELS * F_VECTORS];
    F_EACH(r, rows) F_EACH(v, panels * F_VECTORS) acc[r][v] = vf_load(y + r * t->y_step + v * V_LANES);
    for (int64_t k = 0; k < t->depth; k++, x += rows, w += QN_PANEL) {
        vf b[F_PANELS * F_VECTORS];
        F_EACH(p, panels) F_EACH(v, F_VECTORS) b[p * F_VECTORS + v] = vf_load(w + p * t->w_step + v * V_LANES);
        F_EACH(r, rows) {
            const vf a = vf_set1(x[r]);
            F_EACH(v, panels * F_VECTORS) acc[r][v] = vf_fma(a, b[v], acc[r][v]);
        }
    }
    F_EACH(r, rows) F_EACH(v, panels * F_VECTORS) vf_store(y + r * t->y_step + v * V_LANES, acc[r][v]);
}

/* Rows that a sliver may have: X(C, rows). */
#define F_ROW_COUNTS(X, C)                                                                                             \
    X(C, 1) X(C, 2) X(C, 3) X(C, 4) X(C, 5) X(C, 6) X(C, 7) X(C, 8) X(C, 9) X(C, 10) X(C, 11) X(C, 12)

V_INLINE void f_tiles(const qn_float_tile *t, int64_t panel, const int panels) {
    const f_split split = f_split_of(t->rows);
    for (int64_t i = 0, row = 0; i < split.number; i++) {
        const int64_t n = split.least + (i < split.longer);
        switch (n) {
#define TILE_CASE(_, rows)                                                                                             \
    case rows:                                                                                                         \
        if (rows <= F_ROWS) f_tile(t, row, panel, rows <= F_ROWS ? rows : 1, panels);                                  \
        break;
            F_ROW_COUNTS(TILE_CASE, _)
#undef TILE_CASE
        default: break;
        }
        row += n;
    }
}

static void multiply_floats(const qn_float_tile *t) {
    int64_t p = 0;
    for (; p + F_PANELS <= t->panels; p += F_PANELS) f_tiles(t, p, F_PANELS);
    for (; F_PANELS > 1 && p < t->panels; p++) f_tiles(t, p, 1);
}
