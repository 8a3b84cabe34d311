/* One plane of a depthwise convolution: for each row of the result, one pass over it for each element of the kernel. The
 * padding stands for 0.0, so what falls on it is left out. The compiler vectorizes the loop over columns. */

V_INLINE void depthwise(const qn_plane *p, bool is_signed) {
    const uint8_t *u = p->x;
    const int8_t *s = p->x;
    for (int64_t r = 0; r < p->out_height; r++) {
        int32_t *restrict y = p->y + r * p->out_width;
        memset(y, 0, (size_t)p->out_width * sizeof *y);
        for (int64_t i = 0; i < p->kernel_height; i++) {
            int64_t row = r * p->stride[0] + i * p->dilation[0] - p->top;
            if (row < 0 || row >= p->height) continue;
            for (int64_t j = 0; j < p->kernel_width; j++) {
                int64_t step = p->stride[1], shift = j * p->dilation[1] - p->left, first = 0, last = 0;
                if (shift < 0) first = (step - 1 - shift) / step;
                if (shift < p->width) last = (p->width - 1 - shift) / step + 1;
                if (last > p->out_width) last = p->out_width;
                int32_t w = p->w[i * p->kernel_width + j], zero = p->zero_point;
                int64_t at = row * p->width + shift;
                if (step == 1)
                    for (int64_t c = first; c < last; c++) y[c] += w * ((is_signed ? s[at + c] : u[at + c]) - zero);
                else
                    for (int64_t c = first; c < last; c++)
                        y[c] += w * ((is_signed ? s[at + c * step] : u[at + c * step]) - zero);
            }
        }
    }
}

static void depthwise_plane(const qn_plane *p) {
    if (p->is_signed) depthwise(p, true);
    else depthwise(p, false);
}
