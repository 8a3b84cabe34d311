/* Panels of codes with tables of levels; packed_float_body.h includes this file.
 *
 * A table of 16 levels that all columns share stays in registers. A column's own table is read from the L1 cache: that
 * of 16 levels is permuted by the 8 codes of a unit, and the results of the columns are transposed.
 */

/* Levels of code i of a unit for the columns of a panel. */
V_INLINE void t_widen(const int bits, const bool shared, const float *tables, int64_t levels, const uint8_t *unit,
                      const int i, vf x[F_VECTORS]) {
    const int32_t *quartets = (const int32_t *)(const void *)(unit + (bits == 8 ? i / 4 * QN_QUARTET : 0));
    F_EACH(v, F_VECTORS) {
        vi code = vi_load(quartets + v * V_LANES);
        const int down = bits == 8 ? i % 4 * 8 : i * 4;
        if (down) code = vi_shr(code, down);
        if (bits == 4 && shared) x[v] = vf_lookup(tables, code);
        else {
            const int64_t step = shared ? 0 : bits == 4 ? QN_PANEL : levels;
            x[v] = vf_gather(tables + v * V_LANES * step, vi_low_unsigned(code, bits), (int)step);
        }
    }
}

/* The same for all codes of a unit. */
V_INLINE void t_unit(const int bits, const bool shared, const float *tables, int64_t levels, const uint8_t *unit,
                     vf x[QN_UNIT][F_VECTORS]) {
#ifdef V_TABLES
    if (bits == 4 && !shared) {
        vf_tables(tables, unit, x);
        return;
    }
#endif
    F_EACH(i, QN_UNIT) t_widen(bits, shared, tables, levels, unit, i, x[i]);
}

/* ---- a panel as float32 ---- */

V_INLINE void t_panel_of(const int bits, const bool shared, const qn_float_weight *w, const uint8_t *panel, int64_t k,
                         int64_t depth, float *to) {
    const int64_t step = QN_UNIT * 2 * bits;
    const float *tables = (const float *)(const void *)(panel + w->tables);
    while (depth > 0) {
        const f_place at = f_place_of(w, k);
        int64_t n = at.left < depth ? at.left : depth;
        const uint8_t *unit = panel + at.unit * step;
        vf s[F_VECTORS];
        f_scales(w, panel, at.group, s);
        k += n, depth -= n;
        for (; n > 0; n -= QN_UNIT, unit += step) {
            vf x[QN_UNIT][F_VECTORS];
            t_unit(bits, shared, tables, w->levels, unit, x);
            F_EACH(i, QN_UNIT) {
                if (i >= n) continue;
                F_EACH(v, F_VECTORS) vf_store(to + v * V_LANES, vf_mul(x[i][v], s[v]));
                to += QN_PANEL;
            }
        }
    }
}

/* Once for each width and kind of tables. */
#define T_EACH_KIND(f, w, ...)                                                                                         \
    do {                                                                                                               \
        if ((w)->bits == 4 && (w)->shared) f(4, true, w, __VA_ARGS__);                                                 \
        else if ((w)->bits == 4) f(4, false, w, __VA_ARGS__);                                                          \
        else if ((w)->shared) f(8, true, w, __VA_ARGS__);                                                              \
        else f(8, false, w, __VA_ARGS__);                                                                              \
    } while (0)

static void t_panel(const qn_float_weight *w, const uint8_t *panel, int64_t k, int64_t depth, float *to) {
    T_EACH_KIND(t_panel_of, w, panel, k, depth, to);
}

/* ---- one row ---- */

V_INLINE void t_row(const int bits, const bool shared, const qn_float_weight *w, const uint8_t *panel, const int side,
                    const float *x, float *y) {
    const int64_t step = QN_UNIT * 2 * bits, width = w->width;
    const uint8_t *unit = panel, *tables = panel + w->tables;
    vf acc[F_SIDE * F_VECTORS], s[F_SIDE * F_VECTORS];
    F_EACH(at, side * F_VECTORS) acc[at] = vf_set1(0.0f);
    for (int64_t g = 0; g < w->groups; g++) {
        const int64_t rest = w->k - g * w->group;
        const float *from = x + g * w->group;
        F_EACH(p, side) f_scales(w, panel + p * width, g, s + p * F_VECTORS);
        for (int64_t n = rest < w->group ? rest : w->group; n > 0; n -= QN_UNIT, unit += step, from += QN_UNIT)
            F_EACH(p, side) {
                vf b[QN_UNIT][F_VECTORS];
                const float *own = (const float *)(const void *)(tables + (shared ? 0 : p * width));
                t_unit(bits, shared, own, w->levels, unit + p * width, b);
                F_EACH(i, QN_UNIT) {
                    if (i >= n) continue;
                    const vf a = vf_set1(from[i]);
                    F_EACH(v, F_VECTORS) {
                        const int at = p * F_VECTORS + v;
                        acc[at] = vf_fma(a, vf_mul(b[i][v], s[at]), acc[at]);
                    }
                }
            }
    }
    F_EACH(at, side * F_VECTORS) vf_store(y + at * V_LANES, acc[at]);
}

V_INLINE void t_row_panels_of(const int bits, const bool shared, const qn_float_weight *w, const uint8_t *panel,
                              int64_t panels, const float *x, float *y) {
    int64_t p = 0;
    for (; p + F_SIDE <= panels; p += F_SIDE) t_row(bits, shared, w, panel + p * w->width, F_SIDE, x, y + p * QN_PANEL);
    for (; F_SIDE > 1 && p < panels; p++) t_row(bits, shared, w, panel + p * w->width, 1, x, y + p * QN_PANEL);
}

static void t_row_panels(const qn_float_weight *w, const uint8_t *panel, int64_t panels, const float *x, float *y) {
    T_EACH_KIND(t_row_panels_of, w, panel, panels, x, y);
}
