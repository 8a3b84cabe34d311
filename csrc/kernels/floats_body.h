/* float16 and bfloat16, to and from float32. A bfloat16 is the upper half of a float32. */

V_INLINE void whole_and_tail_f16(const uint16_t *h, float *x, int64_t n) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) vf_store(x + i, vf_load_f16(h + i));
    if (i < n) {
        uint16_t in[V_LANES] = {0};
        float out[V_LANES];
        memcpy(in, h + i, (size_t)(n - i) * sizeof *in);
        vf_store(out, vf_load_f16(in));
        memcpy(x + i, out, (size_t)(n - i) * sizeof *out);
    }
}

static void widen_f16_f32(const uint16_t *h, float *x, int64_t n) { whole_and_tail_f16(h, x, n); }

static void narrow_f32_f16(const float *x, uint16_t *h, int64_t n) {
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) vf_store_f16(h + i, vf_load(x + i));
    if (i < n) {
        float in[V_LANES] = {0};
        uint16_t out[V_LANES];
        memcpy(in, x + i, (size_t)(n - i) * sizeof *in);
        vf_store_f16(out, vf_load(in));
        memcpy(h + i, out, (size_t)(n - i) * sizeof *out);
    }
}

static void widen_bf16_f32(const uint16_t *restrict h, float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)h[i] << 16;
        memcpy(x + i, &bits, 4);
    }
}

static void narrow_f32_bf16(const float *restrict x, uint16_t *restrict h, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        uint32_t even =
            (bits + 0x7FFF + (bits >> 16 & 1)) >> 16; /* half to even at bit 16; overflow carries to infinity */
        uint32_t quiet = bits >> 16 | 0x40;
        h[i] = (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : even);
    }
}
