/* Sums over rows of an image, two rows at a time: a pair is an int32 whose halves are the codes of both, less the zero
 * point, and a product of pairs adds two products. A vector may reach into what is written next. */

V_INLINE vi v_row_codes(const uint8_t *x, const int step, const bool is_signed, vi zero) {
    if (step == 1) return vi_sub(is_signed ? vi_load_i8((const int8_t *)x) : vi_load_u8(x), zero);
    vi two = vi_load_u16((const uint16_t *)(const void *)x); /* the wanted code and its neighbour */
    return vi_sub(is_signed ? vi_low_signed(two, 8) : vi_low_unsigned(two, 8), zero);
}

/* A line of pairs as far as vectors may read, `room` bytes from a and b; NULL rows are zeros. Returns the pairs done. */
V_INLINE int64_t v_pair_line(const qn_pair_rows *p, const uint8_t *a, const uint8_t *b, int64_t room, int32_t *to,
                             const int step, const bool is_signed) {
    const vi zero = vi_set1(p->zero_point), low = vi_set1(0xFFFF), none = vi_set1(0);
    int64_t c = 0;
    for (; c < p->n && (c + V_LANES) * step <= room; c += V_LANES) {
        vi x = a ? v_row_codes(a + c * step, step, is_signed, zero) : none;
        vi y = b ? v_row_codes(b + c * step, step, is_signed, zero) : none;
        vi_store(to + c, vi_or(vi_and(x, low), vi_shl(y, 16)));
    }
    return c;
}

V_INLINE uint32_t pair_half(const qn_pair_rows *p, const uint8_t *x, int64_t c) {
    if (!x) return 0;
    const int32_t code = p->is_signed ? (int8_t)x[c * p->step] : x[c * p->step];
    return (uint32_t)(code - p->zero_point);
}

V_INLINE const uint8_t *row_of(const qn_pair_rows *p, int64_t row) {
    return row >= 0 && row < p->height ? p->x + row * p->row_step : NULL;
}

V_INLINE void v_pair_rows(const qn_pair_rows *p, const int step, const bool is_signed) {
    for (int64_t t = 0; t < p->lines; t++) {
        int64_t first = p->row + t * p->gap, c = 0;
        const uint8_t *a = row_of(p, first), *b = row_of(p, first + p->apart);
        int32_t *to = p->to + t * p->line;
        int64_t room = p->room ? p->room - (b ? first + p->apart : a ? first : 0) * p->row_step : (p->n - 1) * step + 1;
        if (step) c = v_pair_line(p, a, b, room, to, step, is_signed);
        for (; c < p->n; c++) to[c] = (int32_t)((pair_half(p, a, c) & 0xFFFF) | pair_half(p, b, c) << 16);
        vi_store(to + p->n, vi_set1(0));
    }
}

static void pair_rows(const qn_pair_rows *p) {
    if (V_LANES > 1 && p->step == 1) p->is_signed ? v_pair_rows(p, 1, true) : v_pair_rows(p, 1, false);
    else if (V_LANES > 1 && p->step == 2) p->is_signed ? v_pair_rows(p, 2, true) : v_pair_rows(p, 2, false);
    else v_pair_rows(p, 0, false);
}

V_INLINE void v_put_sums(const qn_dot_pairs *d, int64_t at, vi sum) { /* the last ones in part */
    int64_t left = d->rows * d->n - at;
    int32_t last[V_LANES];
    vi_store(left >= V_LANES ? d->y + at : last, sum);
    if (left < V_LANES) memcpy(d->y + at, last, (size_t)left * sizeof *last);
}

V_INLINE void v_dot1(const qn_dot_pairs *d, int64_t r, int64_t c) {
    vi sum = vi_set1(d->start);
    for (int64_t t = 0; t < d->taps; t++) sum = vi_dot2(sum, vi_load(d->pairs[t] + r * d->step + c), vi_set1(d->w[t]));
    v_put_sums(d, r * d->n + c, sum);
}

/* Four vectors, 4 / wide rows of `wide`, a constant. */
V_INLINE void v_dot4(const qn_dot_pairs *d, int64_t r, int64_t c, const int wide) {
    const int64_t beside = wide > 1 ? V_LANES : d->step, below = wide == 4   ? 2 * V_LANES
                                                                 : wide == 2 ? d->step
                                                                             : 2 * beside;
    vi s0 = vi_set1(d->start), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t t = 0; t < d->taps; t++) {
        const int32_t *pairs = d->pairs[t] + r * d->step + c;
        const vi w = vi_set1(d->w[t]);
        s0 = vi_dot2(s0, vi_load(pairs), w), s1 = vi_dot2(s1, vi_load(pairs + beside), w);
        s2 = vi_dot2(s2, vi_load(pairs + below), w), s3 = vi_dot2(s3, vi_load(pairs + below + beside), w);
    }
    const int64_t at = r * d->n + c, next = wide > 1 ? V_LANES : d->n,
                  row = wide == 4 ? 2 * V_LANES : 4 / wide / 2 * d->n;
    v_put_sums(d, at, s0), v_put_sums(d, at + next, s1);
    v_put_sums(d, at + row, s2), v_put_sums(d, at + row + next, s3);
}

V_INLINE void v_dot_row(const qn_dot_pairs *d, int64_t r) {
    int64_t c = 0;
    for (; c + 3 * V_LANES < d->n; c += 4 * V_LANES) v_dot4(d, r, c, 4);
    for (; c < d->n; c += V_LANES) v_dot1(d, r, c);
}

static void dot_pairs(const qn_dot_pairs *d) {
    const int64_t n = d->n;
    const int64_t together = n <= V_LANES && d->rows >= 4 ? 4 : n > V_LANES && n <= 2 * V_LANES && d->rows >= 2 ? 2 : 1;
    for (int64_t r = 0; r < d->rows; r += together) {
        if (r + together > d->rows) r = d->rows - together; /* some rows again */
        if (together == 4) v_dot4(d, r, 0, 1);
        else if (together == 2) v_dot4(d, r, 0, 2);
        else v_dot_row(d, r);
    }
}
