/* Quads (excess.h) in plain C: the reference of the ISA rows that have them. */
#ifndef QN_OWN_QUADS

static void left_quads(const qn_left *l) {
    uint8_t *to = l->packed;
    const int32_t up = l->is_signed ? l->center : 0;
    for (int64_t i = 0; i < l->rows; i += QN_SLIVER)
        for (int r = 0; r < QN_SLIVER; r++) {
            const int64_t row = i + r < l->rows ? i + r : l->rows - 1;
            const uint8_t *a = (const uint8_t *)l->a + row * l->stride;
            int32_t sum = 0;
            for (int64_t k = 0; k < l->quartets * 4; k++) {
                uint8_t code = k < l->k ? (uint8_t)(a[k] + up) : l->center;
                to[i * l->quartets * 4 + k / 4 * 16 + r * 4 + k % 4] = code;
                sum += k < l->k ? code : 0;
            }
            l->start[i + r] = 0;
            l->sum[i + r] = sum - (int32_t)l->k * (l->zero[row * l->zero_step] + up);
        }
}

static void left_turned(const uint8_t *packed, int64_t quartets, int64_t rows, uint8_t *turned, int64_t step) {
    rows += (QN_BAND - rows % QN_BAND) % QN_BAND;
    for (int64_t k = 0; k < quartets * 4; k++)
        for (int64_t i = 0; i < rows; i++)
            turned[k * step + i] = packed[i / QN_SLIVER * quartets * 16 + k / 4 * 16 + i % QN_SLIVER * 4 + k % 4];
}

static void right_quads(const uint8_t *panel, int64_t quartets, uint8_t less, uint8_t center, uint8_t *quads) {
    for (int64_t g = 0; g < quartets; g += 2, panel += 2 * QN_QUARTET, quads += QN_QUADS) {
        int8_t *s = (int8_t *)quads;
        int16_t *offset = (int16_t *)(void *)(quads + 2 * QN_QUARTET);
        for (int i = 0; i < 2 * QN_QUARTET; i++) s[i] = (int8_t)(panel[i] - less);
        for (int i = 0; i < QN_QUARTET; i += 2)
            offset[i / 2] = (int16_t)(-center * (s[i] + s[i + 1] + s[QN_QUARTET + i] + s[QN_QUARTET + i + 1]));
    }
}

static void multiply_quads(const qn_tile *t) {
    for (int64_t r = 0; r < t->rows; r++) {
        const uint8_t *a = (const uint8_t *)t->left + r / QN_SLIVER * t->quartets * 16 + r % QN_SLIVER * 4;
        for (int j = 0; j < QN_PANEL; j++) {
            const uint8_t *quads = t->right;
            int32_t *c = t->c + r * t->c_step + j;
            uint32_t sum = (uint32_t)t->row_start[r] + (uint32_t)t->column_start[j] + (t->add ? (uint32_t)*c : 0u);
            if (t->more) sum += (uint32_t)t->more[r * QN_PANEL + j];
            for (int64_t g = 0; g < t->quartets; g += 2, quads += QN_QUADS)
                for (int h = 0; h < 2; h++) {
                    const int8_t *s = (const int8_t *)quads + 4 * j + 2 * h;
                    const int16_t *offset = (const int16_t *)(const void *)(quads + 2 * QN_QUARTET);
                    const uint8_t *x = a + g * 16 + 2 * h, *y = x + 16;
                    const int32_t both = x[0] * s[0] + x[1] * s[1] + y[0] * s[QN_QUARTET] + y[1] * s[QN_QUARTET + 1];
                    const int32_t quad = (int16_t)(both + offset[2 * j + h]);
                    sum += (uint32_t)quad;
                }
            *c = (int32_t)sum;
        }
    }
}

static void add_excess(const qn_excess_tile *x) {
    const qn_excess_pair *e = x->pairs;
    for (int j = 0; j < QN_PANEL; e += x->pass->count[j++])
        for (int64_t r = 0; r < x->bands * QN_BAND; r++) {
            int32_t *to = x->sums + r * QN_PANEL + x->pass->column[j], sum = -x->center * x->pass->sum[j];
            for (int i = 0; i < x->pass->count[j]; i++)
                for (int h = 0; h < 2; h++) sum += x->turned[e[i].k[h] * x->step + r] * e[i].excess[h];
            *to = sum + (x->add ? *to : 0);
        }
}
#endif
