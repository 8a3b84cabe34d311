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

/* `rows` rows of `vectors` vectors from (r, c) on. The last ones are stored in part. */
V_INLINE void v_dot_pairs(const qn_dot_pairs *d, int64_t r, int64_t c, const int rows, const int vectors) {
    vi sum[4];
    for (int v = 0; v < rows * vectors; v++) sum[v] = vi_set1(d->start);
    for (int64_t t = 0; t < d->taps; t++) {
        const int32_t *pairs = d->pairs[t] + r * d->step + c;
        const vi w = vi_set1(d->w[t]);
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++)
                sum[i * vectors + v] = vi_dot2(sum[i * vectors + v], vi_load(pairs + i * d->step + v * V_LANES), w);
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            int64_t at = (r + i) * d->n + c + v * V_LANES, left = d->rows * d->n - at;
            int32_t last[V_LANES];
            vi_store(left >= V_LANES ? d->y + at : last, sum[i * vectors + v]);
            if (left < V_LANES) memcpy(d->y + at, last, (size_t)left * sizeof *last);
        }
}

static void dot_pairs(const qn_dot_pairs *d) {
    const int64_t n = d->n;
    for (int64_t r = 0; r < d->rows;) {
        int64_t c = 0;
        if (n <= V_LANES && r + 4 <= d->rows) {
            v_dot_pairs(d, r, 0, 4, 1), r += 4;
            continue;
        }
        if (n > V_LANES && n <= 2 * V_LANES && r + 2 <= d->rows) {
            v_dot_pairs(d, r, 0, 2, 2), r += 2;
            continue;
        }
        for (; c + 3 * V_LANES < n; c += 4 * V_LANES) v_dot_pairs(d, r, c, 1, 4);
        for (; c + V_LANES < n; c += 2 * V_LANES) v_dot_pairs(d, r, c, 1, 2);
        for (; c < n; c += V_LANES) v_dot_pairs(d, r, c, 1, 1);
        r++;
    }
}
