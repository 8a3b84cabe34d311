#define _DEFAULT_SOURCE /* madvise */
#include "allocate.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

void *qn_allocate(int64_t count, int64_t size) {
    enum { LINE = 64, HUGE_PAGE = 2 << 20 };
    int64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > PTRDIFF_MAX - HUGE_PAGE) return NULL;
    const int64_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE;
    void *p = aligned_alloc((size_t)align, (size_t)round_up(most(bytes, 1), align));
#ifdef MADV_HUGEPAGE
    if (p && bytes >= HUGE_PAGE) madvise(p, (size_t)bytes, MADV_HUGEPAGE); /* a hint: nothing depends on it */
#endif
    return p;
}
