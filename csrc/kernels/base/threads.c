#define _GNU_SOURCE
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define relax() _mm_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("yield")
#else
#define relax() (void)0
#endif

enum {
    SPINS_BEFORE_SLEEP = 2000, /* 40 to 80 us: the next call of a loop comes within that time */
    PATIENCE = 6000, /* extra spins of a worker that missed the last job, or was woken ahead of an expected series */
    PIECES_A_THREAD = 4, /* many pieces: a late worker takes fewer of them, and the caller waits for no sleeper */
    OPEN = 1 << 20,
    A_SERIES = 50000, /* ns: calls closer together are a series; a woken worker still spins when the next one comes */
};

static struct {
    pthread_mutex_t busy;  /* held by the one caller that uses the pool */
    pthread_mutex_t sleep; /* guards the condition */
    pthread_cond_t wake;
    _Atomic int workers;
    _Atomic unsigned generation; /* one up for each job */
    _Atomic int asleep;
    _Atomic int state; /* OPEN while workers may join, plus how many are inside */
    /* the job */
    qn_piece process;
    void *context;
    int64_t n, piece;
    int helpers; /* workers that may join: fewer than the pool has, after the thread count was lowered */
    _Atomic int64_t next;
    _Atomic int64_t ended; /* time when the last call ended that ran alone because all workers slept */
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Atomic int thread_count = 1;
static _Thread_local int thread_limit; /* of the call in progress; 0: thread_count */
static pthread_once_t fork_handler = PTHREAD_ONCE_INIT;

/* The child of a fork has no worker threads, and one of them may have held a lock. */
static void reset_pool(void) {
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.workers = 0;
    atomic_store(&pool.asleep, 0);
    atomic_store(&pool.state, 0);
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, reset_pool); }

static void take_pieces(void) {
    for (;;) {
        int64_t begin = atomic_fetch_add(&pool.next, pool.piece);
        if (begin >= pool.n) return;
        int64_t end = begin + pool.piece < pool.n ? begin + pool.piece : pool.n;
        pool.process(pool.context, begin, end);
    }
}

static bool join(void) {
    int state = atomic_load(&pool.state);
    while ((state & OPEN) && (state & ~OPEN) < pool.helpers)
        if (atomic_compare_exchange_weak(&pool.state, &state, state + 1)) return true;
    return false;
}

static void *worker(void *generation) {
    unsigned last = (unsigned)(uintptr_t)generation;
    int spins = 0;
    for (;;) {
        while (atomic_load(&pool.generation) == last) {
            relax();
            if (++spins < SPINS_BEFORE_SLEEP) continue;
            pthread_mutex_lock(&pool.sleep);
            atomic_fetch_add(&pool.asleep, 1);
            while (atomic_load(&pool.generation) == last) pthread_cond_wait(&pool.wake, &pool.sleep);
            atomic_fetch_sub(&pool.asleep, 1);
            pthread_mutex_unlock(&pool.sleep);
        }
        last = atomic_load(&pool.generation);
        spins = -PATIENCE;
        if (join()) {
            take_pieces();
            atomic_fetch_sub(&pool.state, 1);
            spins = 0;
        }
    }
    return NULL;
}

static void grow_pool(int workers) {
    pthread_once(&fork_handler, watch_forks);
    sigset_t all, before;
    sigfillset(&all); /* Python's main thread handles signals */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.workers < workers) {
        pthread_t thread;
        void *last = (void *)(uintptr_t)atomic_load(&pool.generation);
        if (pthread_create(&thread, &attributes, worker, last)) break; /* fewer workers, same result */
        pool.workers++;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wake_workers(void) {
    atomic_fetch_add(&pool.generation, 1);
    if (!atomic_load(&pool.asleep)) return;
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
}

/* The call is shorter than the wake-up of a sleeping worker. In a series of such calls the caller wakes
 * the workers for the next one. */
static void run_alone(int threads, int64_t n, qn_piece process, void *context) {
    if (now() - atomic_load(&pool.ended) < A_SERIES && !pthread_mutex_trylock(&pool.busy)) {
        grow_pool(threads - 1);
        wake_workers();
        pthread_mutex_unlock(&pool.busy);
    }
    process(context, 0, n);
    atomic_store(&pool.ended, now());
}

/* ---- a pool of others ---- */

static const qn_pool nobody = {.threads = 1}; /* within a piece */
static _Thread_local const qn_pool *borrowed;

void qn_borrow_pool(const qn_pool *pool) { borrowed = pool; }

typedef struct {
    qn_piece process;
    void *context;
    int64_t n, piece;
} borrowed_job;

static void take_piece(void *job, size_t i) {
    const borrowed_job *j = job;
    const qn_pool *before = borrowed;
    int64_t begin = (int64_t)i * j->piece, end = begin + j->piece < j->n ? begin + j->piece : j->n;
    borrowed = &nobody;
    j->process(j->context, begin, end);
    borrowed = before;
}

static int64_t piece_of(int threads, int64_t n, int64_t grain) {
    int64_t pieces = (int64_t)threads * PIECES_A_THREAD, grains = (n + grain - 1) / grain;
    return (grains + pieces - 1) / pieces * grain;
}

static void run_borrowed(const qn_pool *p, int64_t n, int64_t grain, int64_t bytes, qn_piece process, void *context) {
    if (p->threads == 1 || n <= grain || bytes < QN_PARALLEL_BYTES_BORROWED) {
        if (n > 0) process(context, 0, n);
        return;
    }
    borrowed_job job = {process, context, n, piece_of(p->threads, n, grain)};
    p->run(p, (n + job.piece - 1) / job.piece, take_piece, &job);
}

void qn_parallel_for(int64_t n, int64_t grain, int64_t bytes, qn_piece process, void *context) {
    if (borrowed) {
        run_borrowed(borrowed, n, grain, bytes, process, context);
        return;
    }
    bool small = n <= grain || bytes < QN_PARALLEL_BYTES_AWAKE; /* read first: a short call need not look at the rest */
    int threads = small ? 1 : qn_num_threads();
    bool awake = pool.workers && atomic_load(&pool.asleep) == 0;
    bool alone = threads == 1;
    if (!alone && !awake && bytes < QN_PARALLEL_BYTES_ASLEEP) {
        run_alone(threads, n, process, context);
        return;
    }
    if (alone || pthread_mutex_trylock(&pool.busy)) {
        if (n > 0) process(context, 0, n);
        return;
    }
    grow_pool(threads - 1);
    pool.process = process;
    pool.context = context;
    pool.n = n;
    pool.helpers = threads - 1;
    pool.piece = piece_of(threads, n, grain);
    atomic_store(&pool.next, 0);
    atomic_store(&pool.state, OPEN);
    wake_workers();
    take_pieces();
    atomic_fetch_and(&pool.state, ~OPEN); /* late workers stay out */
    for (int spins = 0; atomic_load(&pool.state); spins++) {
        relax();
        if (spins > SPINS_BEFORE_SLEEP) sched_yield();
    }
    pthread_mutex_unlock(&pool.busy);
}

int qn_num_threads(void) {
    if (borrowed) return borrowed->threads;
    return thread_limit ? thread_limit : atomic_load_explicit(&thread_count, memory_order_relaxed);
}

void qn_limit_threads(int threads) { thread_limit = threads; }

void qn_set_num_threads(int threads) { atomic_store(&thread_count, threads); }

#if defined(__x86_64__)
uint64_t qn_fp_begin(void) {
    unsigned modes = _mm_getcsr();
    _mm_setcsr(0x1F80); /* the power-on state: all exceptions masked, round to nearest even, no FTZ, no DAZ */
    return modes;
}
void qn_fp_end(uint64_t modes) { _mm_setcsr((unsigned)modes); }
#elif defined(__aarch64__)
uint64_t qn_fp_begin(void) {
    uint64_t modes;
    __asm__ volatile("mrs %0, fpcr" : "=r"(modes));
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0));
    return modes;
}
void qn_fp_end(uint64_t modes) { __asm__ volatile("msr fpcr, %0" ::"r"(modes)); }
#else
uint64_t qn_fp_begin(void) { return 0; }
void qn_fp_end(uint64_t modes) { (void)modes; }
#endif
