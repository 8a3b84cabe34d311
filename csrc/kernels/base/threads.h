/* A small pool of threads. The first large call starts it; idle workers sleep; the child of a fork starts its own. */
#ifndef QN_THREADS_H
#define QN_THREADS_H

#include <stddef.h>
#include <stdint.h>

enum {
    QN_MAX_THREADS = 256,
    /* Bytes of traffic below which a call stays on its thread: a sleeping worker takes 65 to 80 us to start, a spinning
     * one less than 1 us. */
    QN_PARALLEL_BYTES_ASLEEP = 2 << 20,
    QN_PARALLEL_BYTES_AWAKE = 256 << 10,
    QN_PARALLEL_BYTES_BORROWED = 64 << 10, /* on a pool of others, whose workers spin */
};

typedef void (*qn_piece)(void *context, int64_t begin, int64_t end);

/* Calls process(context, begin, end) on the pieces of [0, n), possibly on several threads at once. The length of every
 * piece but the last is a multiple of `grain`. `bytes` is the memory traffic of the whole range. A second caller at the
 * same time runs on its own thread alone. */
void qn_parallel_for(int64_t n, int64_t grain, int64_t bytes, qn_piece process, void *context);

/* A pool of others. run calls take(job, i) for each i of [0, pieces), possibly on several threads at once, and returns
 * when all have ended. */
typedef struct qn_pool qn_pool;
struct qn_pool {
    int threads;
    void (*run)(const qn_pool *pool, int64_t pieces, void (*take)(void *job, size_t i), void *job);
};

/* Calls of the calling thread run on this pool; NULL: on ours again. Within a piece there is one thread. */
void qn_borrow_pool(const qn_pool *pool);

int qn_num_threads(void);             /* of the calling thread */
void qn_set_num_threads(int threads); /* 1..QN_MAX_THREADS, for every thread without a limit of its own */
void qn_limit_threads(int threads);   /* for the calling thread alone; 0 removes the limit */

/* Kernels need round-half-even without flush-to-zero. qn_fp_begin returns the modes that another library set, qn_fp_end
 * restores them. */
uint64_t qn_fp_begin(void);
void qn_fp_end(uint64_t modes);

#endif
