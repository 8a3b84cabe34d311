#include "conv.h"

#include "dispatch.h"
#include "threads.h"

typedef struct {
    const qn_plane *first;
    int64_t channels;
} planes;

static void convolve_planes(void *context, int64_t begin, int64_t end) {
    const planes *c = context;
    for (int64_t at = begin; at < end; at++) {
        qn_plane p = *c->first;
        p.x = (const uint8_t *)p.x + at * p.height * p.width;
        p.w += at % c->channels * p.kernel_height * p.kernel_width;
        p.y += at * p.out_height * p.out_width;
        qn_kernels()->depthwise_plane(&p);
    }
}

void qn_depthwise(const qn_plane *first, int64_t images, int64_t channels) {
    planes c = {first, channels};
    int64_t n = images * channels, outputs = n * first->out_height * first->out_width;
    qn_parallel_for(n, 1, outputs * (first->kernel_height * first->kernel_width + 4), convolve_planes, &c);
}
