/* Which ISA row serves which kernel. qn_dispatch_init fills the tables once; afterwards only the active ISA changes. */
#ifndef QN_DISPATCH_H
#define QN_DISPATCH_H

#include "qn_kernels.h"

void qn_dispatch_init(void);
int qn_isa_count(void);           /* ISA rows in this build */
const char *qn_isa_name(int isa); /* low to high */
bool qn_isa_supported(int isa);   /* by this CPU and OS */
int qn_isa_active(void);
void qn_isa_select(int isa); /* must be supported */
const char *qn_kernel_name(int kernel);
const char *qn_kernel_row(int kernel); /* the ISA row that serves it in the active table */
const qn_table *qn_kernels(void);      /* the active table */
int64_t qn_stream_bytes(void);         /* outputs of at least this size bypass the caches */

#endif
