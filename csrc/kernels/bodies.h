/* Compiles every element loop for the ISA whose file included this, and makes its row of the table. */
#include "floats_body.h"
#include "histogram_body.h"
#include "metrics_body.h"
#include "pack_body.h"
#include "quantize_body.h"
#include "reduce_body.h"

#define QN_ENTRY(name, arguments) .name = name,
const qn_table QN_ROW = {QN_KERNEL_LIST(QN_ENTRY)};
#undef QN_ENTRY
