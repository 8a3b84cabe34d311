/* Our own small pool: created on the first large call, idle workers asleep, none in a forked child until it needs one. */
#ifndef QN_THREADS_H
#define QN_THREADS_H

#include <stdint.h>

enum {
    QN_MAX_THREADS = 256,
    /* Bytes of traffic below which a call stays on its own thread. Waking a sleeping worker costs 65-80
     * microseconds, a spinning one under 1. */
    QN_PARALLEL_BYTES_ASLEEP = 2 << 20,
    QN_PARALLEL_BYTES_AWAKE = 256 << 10,
};

typedef void (*qn_piece)(void *context, int64_t begin, int64_t end);

/* Calls process(context, begin, end) on pieces of [0, n), each but the last a multiple of `grain` long, maybe at once.
 * `bytes` is the memory traffic of the whole range. A second caller at the same time runs on its own thread alone. */
void qn_parallel_for(int64_t n, int64_t grain, int64_t bytes, qn_piece process, void *context);

int qn_num_threads(void);
void qn_set_num_threads(int threads); /* 1..QN_MAX_THREADS */

/* Kernels need round-half-even and no flush-to-zero, whatever another library has set: save, set, restore. */
uint64_t qn_fp_begin(void);
void qn_fp_end(uint64_t saved);

#endif
