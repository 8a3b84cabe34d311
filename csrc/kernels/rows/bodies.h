/* Compiles every element loop for the ISA of the including file, and fills its ISA row. The blank lines keep
 * SortIncludes from changing the order: the alignment of the measured loops depends on it. */
#include "accumulate_body.h"
#include "float_error_body.h"
#include "histogram_body.h"

#include "panel_body.h"

#include "packed_groups_body.h"

#include "matmul_quads_body.h"
#include "metrics_body.h"
#include "nearest_body.h"
#include "pack_body.h"
#include "quantize_body.h"
#include "reduce_body.h"
#include "saturation_body.h"
#include "scale_body.h"

#include "gradients_body.h" /* after the loops of quantize_body.h */

#include "conv_body.h"   /* after the output stage of quantize_body.h */
#include "floats_body.h" /* after the loads, stores and prefetches of quantize_body.h */
#include "matmul_body.h" /* after quantize_body.h, whose clamp it shares */

#include "packed_float_body.h" /* after the formats of floats_body.h */

#include "hadamard_body.h"
#include "layers_body.h"

#define QN_ENTRY(kind, name, arguments, ...) .name = name,
const qn_table QN_ROW = {QN_KERNEL_LIST(QN_ENTRY)};
#undef QN_ENTRY
