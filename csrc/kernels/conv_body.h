/* Sums over rows of an image, two rows at a time: a pair is an int32 whose halves are the codes of both, less the zero
 * point, and a product of pairs adds two products. Vectors may reach into what is written next. */

V_INLINE vi v_row_codes(const uint8_t *x, const int step, const bool is_signed, vi zero) {
    if (!x) return vi_set1(0);
    if (step == 1) return vi_sub(is_signed ? vi_load_i8((const int8_t *)x) : vi_load_u8(x), zero);
    vi two = vi_load_u16((const uint16_t *)(const void *)x); /* the wanted code and its neighbour */
    return vi_sub(is_signed ? vi_low_signed(two, 8) : vi_low_unsigned(two, 8), zero);
}

/* Returns the pairs that are done; `step` and `is_signed` are constants. */
V_INLINE int64_t v_pair_rows(const qn_pair_rows *p, const int step, const bool is_signed) {
    const vi zero = vi_set1(p->zero_point), low = vi_set1(0xFFFF);
    int64_t c = 0;
    for (; c < p->n && (c + V_LANES) * step <= p->room; c += V_LANES) {
        vi a = v_row_codes(p->a ? p->a + c * step : NULL, step, is_signed, zero);
        vi b = v_row_codes(p->b ? p->b + c * step : NULL, step, is_signed, zero);
        vi_store(p->to + c, vi_or(vi_and(a, low), vi_shl(b, 16)));
    }
    return c;
}

V_INLINE int32_t row_code(const qn_pair_rows *p, const uint8_t *x, int64_t c) {
    return x ? (p->is_signed ? (int8_t)x[c * p->step] : x[c * p->step]) - p->zero_point : 0;
}

static void pair_rows(const qn_pair_rows *p) {
    int64_t c = 0;
    if (V_LANES > 1 && p->step == 1) c = p->is_signed ? v_pair_rows(p, 1, true) : v_pair_rows(p, 1, false);
    if (V_LANES > 1 && p->step == 2) c = p->is_signed ? v_pair_rows(p, 2, true) : v_pair_rows(p, 2, false);
    for (; c < p->n; c++)
        p->to[c] = (int32_t)(((uint32_t)row_code(p, p->a, c) & 0xFFFF) | (uint32_t)row_code(p, p->b, c) << 16);
}

V_INLINE void v_dot_pairs(const qn_dot_pairs *d, int64_t at, const int vectors) {
    vi sum[4];
    for (int v = 0; v < vectors; v++) sum[v] = vi_set1(d->start);
    for (int64_t t = 0; t < d->taps; t++) {
        const int32_t *pairs = d->pairs[t] + at;
        const vi w = vi_set1(d->w[t]);
        for (int v = 0; v < vectors; v++) sum[v] = vi_dot2(sum[v], vi_load(pairs + v * V_LANES), w);
    }
    for (int v = 0; v < vectors; v++) vi_store(d->y + at + v * V_LANES, sum[v]);
}

static void dot_pairs(const qn_dot_pairs *d) {
    const int64_t n = d->n, room = d->room;
    int64_t c = 0;
    for (; c + 3 * V_LANES < n && c + 4 * V_LANES <= room; c += 4 * V_LANES) v_dot_pairs(d, c, 4);
    for (; c + V_LANES < n && c + 2 * V_LANES <= room; c += 2 * V_LANES) v_dot_pairs(d, c, 2);
    for (; c < n && c + V_LANES <= room; c += V_LANES) v_dot_pairs(d, c, 1);
    for (; c < n; c++) {
        uint32_t sum = (uint32_t)d->start;
        for (int64_t t = 0; t < d->taps; t++) {
            int32_t x = d->pairs[t][c], w = d->w[t];
            sum += (uint32_t)((int16_t)x * (int16_t)w) + (uint32_t)((x >> 16) * (w >> 16));
        }
        d->y[c] = (int32_t)sum;
    }
}
