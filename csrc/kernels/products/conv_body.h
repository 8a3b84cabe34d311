/* Sums over windows of an image whose rows lie one after the other as int16. A vector of int16 holds pairs of
 * neighbours, and one instruction multiplies pairs and adds both products. A store may overlap the next one. */

static const int16_t v_row_end[2 * QN_REACH] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

/* Widens a row of n codes; a vector may write zeros after it. The last codes are read one by one if QN_REACH bytes are
 * not readable. */
V_INLINE void v_widen_image_row(const qn_wide_rows *p, const uint8_t *x, int64_t room, int64_t n, int16_t *to,
                                const bool beside, const bool is_signed) {
    const int32_t zero = p->zero_point;
    int64_t c = 0;
    if (beside) {
        for (; c + QN_REACH <= n; c += QN_REACH) v_wide_codes(to + c, x + c, zero, v_row_end, is_signed);
        if (c < n && c + QN_REACH <= room) {
            v_wide_codes(to + c, x + c, zero, v_row_end + QN_REACH - (n - c), is_signed);
            return;
        }
    }
    for (; c < n; c++) to[c] = (int16_t)((is_signed ? (int8_t)x[c * p->x_step] : x[c * p->x_step]) - zero);
}

V_INLINE void v_widen_image_rows(const qn_wide_rows *p, const bool beside, const bool is_signed) {
    const int64_t above = p->row < 0 ? (p->gap - 1 - p->row) / p->gap : 0, n = p->n, line = p->line, lines = p->lines;
    /* Lines before the end of the image. */
    const int64_t inside = p->row < p->height ? (p->height - 1 - p->row) / p->gap + 1 : 0;
    const int64_t next = p->gap * p->x_row;
    for (int64_t m = 0; m < p->planes; m++) {
        int16_t *to = p->to + m * p->plane;
        int64_t at = m * p->x_plane + p->row * p->x_row;
        for (int64_t t = 0; t < lines; t++, to += line, at += next)
            if (t >= above && t < inside) v_widen_image_row(p, p->x + at, p->room - at, n, to, beside, is_signed);
            else
                for (int64_t c = 0; c < n; c += QN_REACH) memset(to + c, 0, QN_REACH * sizeof *to);
    }
}

static void widen_image_rows(const qn_wide_rows *p) {
    if (p->x_step == 1) p->is_signed ? v_widen_image_rows(p, true, true) : v_widen_image_rows(p, true, false);
    else p->is_signed ? v_widen_image_rows(p, false, true) : v_widen_image_rows(p, false, false);
}

typedef vi v_unaligned __attribute__((aligned(2), may_alias));
typedef int32_t v_factor __attribute__((aligned(2), may_alias));

V_INLINE vi v_pairs_at(const int16_t *x) { return *(const v_unaligned *)x; }
V_INLINE vi v_pair_at(const int16_t *w) { return vi_set1(*(const v_factor *)w); }

/* Four vectors of results, in order. */
V_INLINE void v_dot4(vi s[4], const int16_t *x, const int16_t *w, const int64_t *tap, int64_t taps, const int step) {
    const int64_t next = 2 * V_LANES;
    vi s0 = s[0], s1 = s0, s2 = s0, s3 = s0;
    for (int64_t t = 0; t < taps; t++, w += 4) {
        const int16_t *from = x + tap[t];
        const vi even = v_pair_at(w), a = v_pairs_at(from), b = v_pairs_at(from + next);
        if (step == 1) {
            const vi odd = v_pair_at(w + 2);
            s0 = vi_dot2(s0, a, even), s1 = vi_dot2(s1, a, odd);
            s2 = vi_dot2(s2, b, even), s3 = vi_dot2(s3, b, odd);
        } else {
            s0 = vi_dot2(s0, a, even), s1 = vi_dot2(s1, b, even);
            s2 = vi_dot2(s2, v_pairs_at(from + 2 * next), even), s3 = vi_dot2(s3, v_pairs_at(from + 3 * next), even);
        }
    }
    if (step == 1) vi_zip(&s0, &s1), vi_zip(&s2, &s3);
    s[0] = s0, s[1] = s1, s[2] = s2, s[3] = s3;
}

V_INLINE void v_put4(void *flat, int64_t at, const vi s[4], const v_params *v, const v_narrow *narrow,
                     const qn_type type) {
    vi c[4];
    if (type == QN_I32) {
        for (int k = 0; k < 4; k++) vi_store((int32_t *)flat + at + k * V_LANES, s[k]);
        return;
    }
    requantize4(c, s, v, 0, false);
    if (type == QN_I8) vi_store4_i8((int8_t *)flat + at, c[0], c[1], c[2], c[3], narrow, false);
    else vi_store4_u8((uint8_t *)flat + at, c[0], c[1], c[2], c[3], narrow, false);
}

/* Copies rows of n bytes, `size` bytes at a time, a constant; the last copy of a row overlaps the one before it. False
 * if n < size. */
V_INLINE bool copy_by(const int64_t size, uint8_t *to, const uint8_t *from, int64_t rows, int64_t n, int64_t line) {
    if (n < size) return false;
    for (int64_t r = 0; r < rows; r++, to += n, from += line) {
        for (int64_t i = 0; i + size < n; i += size) memcpy(to + i, from + i, (size_t)size);
        memcpy(to + n - size, from + n - size, (size_t)size);
    }
    return true;
}

V_INLINE void copy_rows(uint8_t *to, const uint8_t *from, int64_t rows, int64_t n, int64_t line) {
    (void)(copy_by(32, to, from, rows, n, line) || copy_by(16, to, from, rows, n, line) ||
           copy_by(8, to, from, rows, n, line) || copy_by(4, to, from, rows, n, line) ||
           copy_by(1, to, from, rows, n, line));
}

/* All rows of results are computed as one long row, unless more than four vectors lie between two of them. */
V_INLINE void v_dot_rows(const qn_dot_rows d, const int step, const qn_type type) {
    const int64_t line = d.line / step, size = type == QN_I32 ? sizeof(int32_t) : 1;
    const bool apart = line - d.n >= 4 * V_LANES;
    const int64_t rows = apart ? d.rows : 1, n = apart ? d.n : (d.rows - 1) * line + d.n;
    const v_narrow narrow = v_narrow_set(d.zero_point, d.qmin, d.qmax);
    const int16_t *x = d.x, *w = d.w;
    for (int64_t m = 0, last = d.outputs; m < d.inputs * d.outputs; m++, w += d.taps * 4) {
        if (m == last) x += d.x_step, last += d.outputs;
        const v_params v = {.s = vf_set1(type == QN_I32 ? 0.0f : d.scale[m])};
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < n; c += 4 * V_LANES) {
                vi s[4] = {vi_set1(d.start ? d.start[m] : 0)};
                v_dot4(s, x + r * d.line + c * step, w, d.tap, d.taps, step);
                v_put4(d.flat, r * line + c, s, &v, &narrow, type);
            }
        copy_rows((uint8_t *)d.y + m * d.y_step * size, d.flat, d.rows, d.n * size, line * size);
    }
}

static void dot_rows(const qn_dot_rows *d) {
    if (d->type == QN_I32) d->step == 1 ? v_dot_rows(*d, 1, QN_I32) : v_dot_rows(*d, 2, QN_I32);
    else if (d->type == QN_I8) d->step == 1 ? v_dot_rows(*d, 1, QN_I8) : v_dot_rows(*d, 2, QN_I8);
    else d->step == 1 ? v_dot_rows(*d, 1, QN_U8) : v_dot_rows(*d, 2, QN_U8);
}
