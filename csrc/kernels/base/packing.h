/* Codes narrower than a byte in rows of bytes: spans of them, to and from one code to a byte. */
#ifndef QN_PACKING_H
#define QN_PACKING_H

#include "qn_types.h"

qn_width qn_width_of(qn_type type); /* bits 0: the type is not packed */

#define QN_MAX_COLUMNS (INT64_MAX / 8 - 8)

static inline int64_t qn_row_bytes(int bits, int64_t codes) { return (codes * bits + 7) / 8; }

/* Whether every row ends with a full byte: then rows without gaps are one row. */
static inline bool qn_rows_are_even(int bits, int64_t codes) { return codes * bits % 8 == 0; }

/* Elements [start, start + n) of a packed source, in C order. */
void qn_unpack_span(const qn_source *s, int64_t start, int64_t n, uint8_t *codes);

/* Rows of `columns` codes, without gaps. */
typedef struct {
    qn_width width;
    int64_t columns;
    uint8_t *bytes; /* zero before the first span, where rows do not end with a byte */
} qn_byte_rows;

/* Stores elements [start, start + n). Threads may share a byte at either end. */
void qn_pack_span(const qn_byte_rows *rows, const uint8_t *codes, int64_t start, int64_t n);

#endif
