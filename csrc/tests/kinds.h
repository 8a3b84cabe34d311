/* Tests of kernels by their kind in kernel_list.h: test_<KIND>(row's name, row, kernel). */
#ifndef QN_KINDS_H
#define QN_KINDS_H

#include "support.h"

void test_AFFINE(const char *row_name, const qn_table *row, const kernel *k);
void test_CAST(const char *row_name, const qn_table *row, const kernel *k);
void test_NARROW(const char *row_name, const qn_table *row, const kernel *k);
void test_PLAIN(const char *row_name, const qn_table *row, const kernel *k);

extern const kernel kernels[QN_KERNEL_COUNT]; /* in the order of the table */

/* All codes of each narrow float, there and back. */
void test_formats(const char *row_name, const qn_table *row);

#endif
