/* The part of macOS's <sys/sysctl.h> that the kernels use. */
#ifndef QN_TEST_SYSCTL_H
#define QN_TEST_SYSCTL_H

#include <stddef.h>

int sysctlbyname(const char *name, void *value, size_t *bytes, void *new_value, size_t new_bytes);

#endif
