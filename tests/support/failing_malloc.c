/* Preloaded by test_no_memory.py: lets one allocation of a watched library fail, and knows which of them are not freed.
 * An allocation is the library's if it returns there; PyMem_RawMalloc calls a hook of ours with a jump, so the hook does. */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { MOST = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static uintptr_t from, to;                               /* the library */
static long left = -1;                                   /* allocations until the one that fails; -1: none does */
static void *live[MOST];
static int count;

void watch(uintptr_t begin, uintptr_t end) { from = begin, to = end; }
void fail_after(long allocations) { left = allocations; }
int disarm(void) { /* whether one has failed */
    int failed = left < 0;
    left = -1;
    return failed;
}
int not_freed(void) { return count; }

static int refused(void) {
    pthread_mutex_lock(&lock);
    int found = left == 0;
    if (left >= 0) left--;
    pthread_mutex_unlock(&lock);
    if (found) errno = ENOMEM;
    return found;
}
static void *kept(void *p) {
    pthread_mutex_lock(&lock);
    if (p && count < MOST) live[count++] = p;
    pthread_mutex_unlock(&lock);
    return p;
}
static void forget(void *p) {
    if (!p || !count) return;
    pthread_mutex_lock(&lock);
    for (int i = count; i-- > 0;)
        if (live[i] == p) {
            live[i] = live[--count];
            break;
        }
    pthread_mutex_unlock(&lock);
}

#define WATCHED ((uintptr_t)__builtin_return_address(0) - from < to - from)
#define ALLOCATE(call) (!WATCHED ? (call) : refused() ? NULL : kept(call))

void *malloc(size_t size) { return ALLOCATE(__libc_malloc(size)); }
void *calloc(size_t n, size_t size) { return ALLOCATE(__libc_calloc(n, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return ALLOCATE(__libc_memalign(alignment, size)); }
void *realloc(void *p, size_t size) {
    if (!WATCHED) {
        forget(p);
        return __libc_realloc(p, size);
    }
    if (refused()) return NULL;
    forget(p);
    return kept(__libc_realloc(p, size));
}
void free(void *p) {
    forget(p);
    __libc_free(p);
}

typedef struct { /* PyMemAllocatorEx */
    void *context;
    void *(*malloc)(void *, size_t), *(*calloc)(void *, size_t, size_t), *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} allocator;

static allocator python;

static void *raw_malloc(void *c, size_t size) { return ALLOCATE(python.malloc(c, size)); }

allocator *hook(const allocator *given) {
    static allocator own;
    python = own = *given;
    own.malloc = raw_malloc;
    return &own;
}
