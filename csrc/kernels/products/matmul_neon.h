/* Integer products in NEON: packers, and the common code of the tiles of its ISA rows. Tiles are HEIGHT x 8.
 *
 * Bytes are multiplied as int8, u - 128 instead of u. Packing adds the difference, 128 times the sum of a'.
 */

/* ---- packing ---- */

/* 16 int8 codes, zeros past the end. */
V_INLINE int8x16_t v_left_codes(const uint8_t *a, int64_t left, uint8_t flip) {
    uint8_t padded[16];
    if (left < 16) {
        memset(padded, flip, sizeof padded);
        memcpy(padded, a, (size_t)(left > 0 ? left : 0));
        a = padded;
    }
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a), vdupq_n_u8(flip)));
}

V_INLINE int32x4_t v_low_halves(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vtrn1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
V_INLINE int32x4_t v_high_halves(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s64(vtrn2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

/* Transposes 4 x 4 elements of 32 bits. */
V_INLINE void v_transpose4(int32x4_t r[4]) {
    int32x4_t a = vtrn1q_s32(r[0], r[1]), b = vtrn2q_s32(r[0], r[1]);
    int32x4_t c = vtrn1q_s32(r[2], r[3]), d = vtrn2q_s32(r[2], r[3]);
    r[0] = v_low_halves(a, c), r[1] = v_low_halves(b, d), r[2] = v_high_halves(a, c), r[3] = v_high_halves(b, d);
}

/* Packs four rows of 16 k: for each quartet four bytes of each row, or for each two quartets eight. start is `lacking`
 * times the sum of the stored bytes. Both are constants. */
V_INLINE void v_left_bytes(const qn_left *l, const bool eights, const uint32_t lacking) {
    const uint8_t flip = l->is_signed ? 0 : 0x80;
    for (int64_t i = 0; i < l->rows; i += QN_SLIVER) {
        const uint8_t *row[QN_SLIVER];
        int32x4_t sum[QN_SLIVER];
        int32_t *to = (int32_t *)(void *)((char *)l->packed + i * l->quartets * 4);
        for (int r = 0; r < QN_SLIVER; r++) {
            row[r] = (const uint8_t *)l->a + (i + r < l->rows ? i + r : l->rows - 1) * l->stride;
            sum[r] = vdupq_n_s32(0);
        }
        for (int64_t k = 0; k < l->quartets * 4; k += 16, to += 16) {
            int32x4_t w[QN_SLIVER];
            for (int r = 0; r < QN_SLIVER; r++) {
                int8x16_t codes = v_left_codes(row[r] + k, l->k - k, flip);
                sum[r] = vpadalq_s16(sum[r], vpaddlq_s8(codes));
                w[r] = vreinterpretq_s32_s8(codes);
            }
            if (eights) {
                int32x4_t a = w[0], b = w[2];
                w[0] = v_low_halves(a, w[1]), w[2] = v_high_halves(a, w[1]);
                w[1] = v_low_halves(b, w[3]), w[3] = v_high_halves(b, w[3]);
            } else {
                v_transpose4(w);
            }
            vst1q_s32(to, w[0]), vst1q_s32(to + 4, w[1]);
            if (k + 8 >= l->quartets * 4) break; /* quartets come in twos */
            vst1q_s32(to + 8, w[2]), vst1q_s32(to + 12, w[3]);
        }
        for (int r = 0; r < QN_SLIVER; r++) {
            int64_t at = i + r < l->rows ? i + r : l->rows - 1;
            int32_t zero = l->zero[at * l->zero_step] - (l->is_signed ? 0 : 128), stored = vaddvq_s32(sum[r]);
            l->start[i + r] = (int32_t)(lacking * (uint32_t)stored);
            l->sum[i + r] = stored - (int32_t)l->k * zero;
        }
    }
}

/* ---- tiles ---- */

/* Stores the sums of columns [column, column + 4) of a row, if the row exists. */
V_INLINE void v_put(const qn_tile *t, int64_t row, int64_t column, int32x4_t sum) {
    if (row >= t->rows) return;
    int32_t *c = t->c + row * t->c_step + column;
    sum = vaddq_s32(sum, vaddq_s32(vld1q_s32(t->column_start + column), vdupq_n_s32(t->row_start[row])));
    vst1q_s32(c, t->add ? vaddq_s32(sum, vld1q_s32(c)) : sum);
}

V_INLINE const int8_t *v_sliver(const qn_tile *t, int64_t row) {
    return (const int8_t *)t->left + row * t->quartets * 4;
}
V_INLINE const uint8_t *v_half_panel(const qn_tile *t, int64_t column) {
    return t->right + column / QN_PANEL * t->right_step + column % QN_PANEL * 4;
}

/* Slivers are whole, so a tile may compute rows past the last one. HEIGHT is 4, 8 or 12. */
#define QN_WALK(name, tile)                                                                                            \
    static void name(const qn_tile *t) {                                                                               \
        for (int64_t column = 0; column < t->panels * QN_PANEL; column += 8)                                           \
            for (int64_t row = 0; row < t->rows; row += HEIGHT) {                                                      \
                int64_t rows = t->rows - row;                                                                          \
                if (HEIGHT > 8 && rows > 8) tile(t, row, column, 12);                                                  \
                else if (HEIGHT > 4 && rows > 4) tile(t, row, column, 8);                                              \
                else if (rows > 2) tile(t, row, column, 4);                                                            \
                else tile(t, row, column, 2);                                                                          \
            }                                                                                                          \
    }
