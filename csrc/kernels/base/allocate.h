/* Memory for large arrays, and the arithmetic of sizes. */
#ifndef QN_ALLOCATE_H
#define QN_ALLOCATE_H

#include <stdint.h>

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* 64-byte aligned. From 2 MiB on it requests huge pages, because page faults on small pages halve the speed of a
 * stream. NULL: no memory, or the size overflows. The caller frees it with `free`. */
void *qn_allocate(int64_t count, int64_t size);

#endif
