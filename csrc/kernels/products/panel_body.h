/* Codes of 8, 4 or 2 bits in panels of 16 columns: products with int8 rows, and panels of bytes. panel_<isa>.h has the
 * primitives.
 *
 * 64 bytes hold 32 / bits neighbours in k of each column: four bytes a column, and the bits f * bits and up of a byte
 * are one of the codes 4 f .. 4 f + 3 (field f). Codes u are unsigned.
 *
 * Where an ISA adds bytes times bytes in int16, the sums of `depth` neighbours fit; a code of 8 bits then counts as two
 * of 4 bits, u = 16 h + l, in two parts.
 */

#ifndef VP_COMPACT /* 1: loops stay loops, where unrolling them gains too little for the time it takes to compile */
#define VP_COMPACT 0
#endif

enum { VP_AHEAD = 2304 };              /* bytes: prefetch distance */
enum { VP_SIDE = VP_COMPACT ? 1 : 4 }; /* panels side by side with one row: independent chains of additions */
enum { VP_MOST = (int)VP_ROWS > (int)QN_SLIVER ? (int)VP_ROWS : (int)QN_SLIVER };

#define VP_EACH(r) _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)
#define VP_PANELS(p) _Pragma("GCC unroll 4") for (int p = 0; p < panels; p++)
#if VP_COMPACT
#define VP_FIELDS(f) _Pragma("GCC unroll 1") for (int f = 0; f < fields; f++)
#else
#define VP_FIELDS(f) _Pragma("GCC unroll 4") for (int f = 0; f < fields; f++)
#endif

/* Neighbours in k whose sums int16 holds. With sums in int32 fewer of them make shorter chains of additions. */
V_INLINE int64_t vp_depth(const int bits) { return bits == 2 && !VP_WHOLE ? 128 : 32; }

/* Adds sum a u over `size` neighbours to sum[rows], and, if `affine`, sum u to *codes. Row r of a begins r * stride
 * bytes further. `bits`, `rows` and `affine` are constants. */
V_INLINE void vp_products(const int bits, const int64_t size, const uint8_t *from, const int8_t *a, int64_t stride,
                          const int rows, const bool affine, vp_i32 *sum, vp_i32 *codes) {
    static const int8_t ones[4] = {1, 1, 1, 1};
    const bool split = bits == 8 && !VP_WHOLE;
    const int fields = 8 / bits, parts = split ? 2 : 1;
    const int64_t depth = vp_depth(bits), step = 4 * fields;
    const vp_i32 none = {0};
    for (int64_t first = 0; first < size; first += depth) {
        const int64_t end = size - first < depth ? size : first + depth;
        for (int part = 0; part < parts; part++) {
            vp_sums s[VP_MOST], c = vp_begin(part ? none : *codes);
            vp_codes few = {0};
            VP_EACH(r) s[r] = vp_begin(part ? none : sum[r]);
            for (int64_t k = first; k < end; k += step) {
                const uint8_t *at = from + k * 2 * bits;
                if (rows > 1) __builtin_prefetch(at + VP_AHEAD); /* with one row it gains nothing */
                VP_FIELDS(f) {
                    const vp_codes u = split ? vp_field(at, 4, part) : vp_field(at, bits, f);
                    VP_EACH(r) s[r] = vp_dot(s[r], u, a + r * stride + k + 4 * f);
                    if (affine && bits == 8) c = vp_dot(c, u, ones);
                    else if (affine) few = vp_plus(few, u); /* at most 120 */
                }
            }
            VP_EACH(r) sum[r] = part ? vp_plus_16(sum[r], vp_end(none, s[r])) : vp_end(sum[r], s[r]);
            if (affine && bits < 8) c = vp_dot(c, few, ones);
            if (affine) *codes = part ? vp_plus_16(*codes, vp_end(none, c)) : vp_end(*codes, c);
        }
    }
}

/* ---- weights with a scale for each column: the exact sums of all k ---- */

#ifdef VP_IN_PLACE
/* vp_products of 2-bit codes without shifts: field f where it lies in its byte is u << 2 f, and so is its sum. That
 * makes the fields four independent chains of additions. Over 2^16 neighbours the highest sum stays in int32:
 * 2^12 * 4 * 192 * 128 < 2^31. */
V_INLINE void vp_products_in_place(const int64_t size, const uint8_t *from, const int8_t *a, int64_t stride,
                                   const int rows, vp_i32 *sum) {
    enum { FIELDS = 4 };
    const int fields = FIELDS;
    vp_i32 s[FIELDS * QN_SLIVER], none = {0};
    VP_FIELDS(f) VP_EACH(r) s[f * rows + r] = none;
    for (int64_t k = 0; k < size; k += 4 * fields, from += QN_QUARTET) {
        vp_codes v;
        memcpy(&v, from, sizeof v);
        VP_FIELDS(f) {
            const vp_codes u = vp_masked(v, 3 << (2 * f));
            VP_EACH(r) s[f * rows + r] = vp_dot(s[f * rows + r], u, a + r * stride + k + 4 * f);
        }
    }
    VP_FIELDS(f) VP_EACH(r) sum[r] = vp_plus_down(sum[r], s[f * rows + r], 2 * f);
}
#endif

/* Adds the products of all k to sum[panels][rows]. */
V_INLINE void vp_sum_columns(const int bits, int64_t k, const uint8_t *right, int64_t right_step, const int8_t *a,
                             const int rows, const int panels, vp_i32 *sum) {
    const int64_t depth = vp_depth(bits);
    vp_i32 unused = {0};
    int64_t at = 0;
#ifdef VP_IN_PLACE
    for (const int64_t part = 1 << 16; bits == 2 && at < k; at += part)
        for (int i = 0; i < panels; i++)
            vp_products_in_place(k - at < part ? k - at : part, right + i * right_step + at * 2 * bits, a + at, k, rows,
                                 sum + i * rows);
#endif
    for (; !VP_COMPACT && k - at >= depth; at += depth) VP_PANELS(i) {
            const uint8_t *from = right + i * right_step + at * 2 * bits;
            vp_products(bits, depth, from, a + at, k, rows, false, sum + i * rows, &unused);
        }
    for (int i = 0; at < k && i < panels; i++)
        vp_products(bits, k - at, right + i * right_step + at * 2 * bits, a + at, k, rows, false, sum + i * rows,
                    &unused);
}

V_INLINE void vp_few_rows(const qn_tile *t, const int bits, int p, const int rows, const int panels) {
    vp_i32 sum[VP_SIDE * QN_SLIVER];
    const vp_i32 none = {0};
    VP_PANELS(i) VP_EACH(r) sum[i * rows + r] = none;
    vp_sum_columns(bits, t->quartets * 4, t->right + p * t->right_step, t->right_step, t->left, rows, panels, sum);
    VP_PANELS(i) VP_EACH(r) {
        int32_t lane[QN_PANEL], *c = t->c + r * t->c_step + (p + i) * QN_PANEL;
        const int32_t *start = t->column_start + (p + i) * QN_PANEL;
        memcpy(lane, sum + i * rows + r, sizeof lane);
        for (int j = 0; j < QN_PANEL; j++) {
            const uint32_t old = t->add ? (uint32_t)c[j] : 0;
            c[j] = (int32_t)((uint32_t)lane[j] + (uint32_t)start[j] + (uint32_t)t->row_start[r] + old);
        }
    }
}

V_INLINE void vp_multiply(const qn_tile *t, const int bits, const int rows) {
    int p = 0;
    if (rows == 1)
        for (; t->panels - p >= VP_SIDE; p += VP_SIDE) vp_few_rows(t, bits, p, rows, VP_SIDE);
    for (; p < t->panels; p++) vp_few_rows(t, bits, p, rows, 1);
}

V_INLINE void vp_multiply_rows(const qn_tile *t, const int bits) {
    switch (t->rows) {
    case 1: vp_multiply(t, bits, 1); break;
    case 2: vp_multiply(t, bits, 2); break;
    case 3: vp_multiply(t, bits, 3); break;
    default: vp_multiply(t, bits, 4);
    }
}

static void multiply_u4(const qn_tile *t) { vp_multiply_rows(t, 4); }
static void multiply_u2(const qn_tile *t) { vp_multiply_rows(t, 2); }

V_INLINE void vp_unpack(const uint8_t *packed, const int bits, int64_t quartets, uint8_t *panel) {
    const int fields = 8 / bits;
    for (int64_t g = 0; g < quartets; g += fields, packed += QN_QUARTET, panel += fields * QN_QUARTET) VP_FIELDS(f) {
            const vp_codes u = vp_field(packed, bits, f);
            memcpy(panel + f * QN_QUARTET, &u, QN_QUARTET);
        }
}

static void right_unpack(const uint8_t *packed, int bits, int64_t quartets, uint8_t *panel) {
    if (bits == 4) vp_unpack(packed, 4, quartets, panel);
    else vp_unpack(packed, 2, quartets, panel);
}
