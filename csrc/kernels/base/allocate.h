/* Memory for what is read and written as a stream, and the arithmetic of sizes. */
#ifndef QN_ALLOCATE_H
#define QN_ALLOCATE_H

#include <stdint.h>

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* 64-byte aligned; from 2 MiB on in huge pages, where the system has them: touching a small page for the first time costs as
 * much as counting a thousand elements, and a stream of them loses half its speed. NULL also when the size overflows. To be
 * freed by `free`. */
void *qn_allocate(int64_t count, int64_t size);

#endif
