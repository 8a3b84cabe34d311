#include "packing.h"

#include <string.h>

#include "dispatch.h"

enum { MOST = 8 }; /* codes of a unit, at most; its bytes are fewer */

/* The fewest codes that fill whole bytes. */
static int64_t unit_of(const qn_width *p) { return p->bits == 4 ? 2 : p->bits % 2 ? 8 : 4; }

qn_width qn_width_of(qn_type type) {
    const qn_table *k = qn_kernels();
    switch (type) {
#define PACKING(_, tag, NAME, name, c_type, bits, is_signed, storage)                                                  \
    case QN_##NAME: return (qn_width){bits, k->pack_##bits, k->unpack_##tag, k->unpack_u##bits};
        QN_SUB_BYTE_CODES(PACKING, _)
#undef PACKING
    case QN_E2M1FN: return (qn_width){4, k->pack_4, k->unpack_u4, k->unpack_u4};
    case QN_E2M3FN:
    case QN_E3M2FN: return (qn_width){6, k->pack_6, k->unpack_u6, k->unpack_u6};
    default: return (qn_width){0};
    }
}

/* ---- rows that end inside a byte ----
 *
 * Rows of w codes, the padding counted, are packed and unpacked many at once; then the codes of each row are copied
 * without their padding. Widths at which a byte ends with a code have such a w. */

enum { WIDE = 8192 }; /* codes with padding: they stay in the L1 cache */

/* The codes of a row and its padding; 0 if rows are not processed in this way. */
static int64_t padded(const qn_width *p, int64_t columns) {
    int64_t codes = 8 % p->bits ? 0 : qn_row_bytes(p->bits, columns) * (8 / p->bits);
    return codes <= WIDE / 2 ? codes : 0;
}

/* Copies rows of n codes, with zeros behind them if to_step is larger. A short row is copied as 8 bytes, of which the
 * next row overwrites the rest. */
static void copy_rows(const uint8_t *from, int64_t from_step, uint8_t *to, int64_t to_step, int64_t n, int64_t rows) {
    int64_t r = 0;
    if (n <= 8) {
        uint8_t used[8] = {0};
        uint64_t mask, row;
        memset(used, 0xFF, (size_t)n);
        memcpy(&mask, used, sizeof mask);
        for (; r < rows - 8; r++) {
            memcpy(&row, from + r * from_step, sizeof row);
            row &= mask;
            memcpy(to + r * to_step, &row, sizeof row);
        }
    }
    for (; r < rows; r++) {
        memcpy(to + r * to_step, from + r * from_step, (size_t)n);
        for (int64_t i = n; i < to_step; i++) to[r * to_step + i] = 0;
    }
}

static void unpack_whole_rows(const qn_width *p, const uint8_t *bytes, int64_t columns, int64_t rows, uint8_t *codes) {
    uint8_t wide[WIDE];
    int64_t width = padded(p, columns), most = WIDE / width;
    for (int64_t r = 0; r < rows; r += most) {
        int64_t count = rows - r < most ? rows - r : most;
        p->unpack_bits(bytes + r * qn_row_bytes(p->bits, columns), wide, count * width);
        copy_rows(wide, width, codes + r * columns, columns, columns, count);
    }
}

static void pack_whole_rows(const qn_width *p, const uint8_t *codes, int64_t columns, int64_t rows, uint8_t *bytes) {
    uint8_t wide[WIDE];
    int64_t width = padded(p, columns), most = WIDE / width;
    for (int64_t r = 0; r < rows; r += most) {
        int64_t count = rows - r < most ? rows - r : most;
        copy_rows(codes + r * columns, columns, wide, width, columns, count);
        p->pack(wide, bytes + r * qn_row_bytes(p->bits, columns), count * width);
    }
}

/* ---- reading ---- */

/* Codes [column, column + n) of a row. */
static void unpack_at(const qn_width *p, const uint8_t *row, int64_t column, int64_t n, uint8_t *codes) {
    int64_t unit = unit_of(p), skip = column % unit;
    const uint8_t *bytes = row + (column - skip) * p->bits / 8;
    if (skip) {
        uint8_t first[MOST];
        int64_t count = n < unit - skip ? n : unit - skip;
        p->unpack_bits(bytes, first, skip + count);
        memcpy(codes, first + skip, (size_t)count);
        bytes += unit * p->bits / 8, codes += count, n -= count;
    }
    if (n) p->unpack_bits(bytes, codes, n);
}

void qn_unpack_span(const qn_source *s, int64_t start, int64_t n, uint8_t *codes) {
    const uint8_t *data = (const uint8_t *)s->data;
    int last = s->ndim - 1;
    int64_t columns = s->shape[last];
    if (s->no_gaps && qn_rows_are_even(s->width.bits, columns)) { /* all rows are one */
        unpack_at(&s->width, data, start, n, codes);
        return;
    }
    int64_t row = start / columns, column = start - row * columns;
    for (int64_t left = n; left > 0; row++, column = 0) {
        int64_t count = columns - column < left ? columns - column : left, rest = row;
        if (s->no_gaps && column == 0 && left >= columns && padded(&s->width, columns)) {
            int64_t rows = left / columns;
            unpack_whole_rows(&s->width, data + row * qn_row_bytes(s->width.bits, columns), columns, rows, codes);
            codes += rows * columns, left -= rows * columns, row += rows - 1;
            continue;
        }
        const uint8_t *bytes = data;
        for (int d = last - 1; d >= 0; d--) {
            bytes += rest % s->shape[d] * s->strides[d];
            rest /= s->shape[d];
        }
        unpack_at(&s->width, bytes, column, count, codes);
        codes += count, left -= count;
    }
}

/* ---- writing ---- */

/* Adds codes of one unit, whose other codes another thread may be adding. */
static void merge_at(const qn_width *p, const uint8_t *codes, int64_t n, uint8_t *row, int64_t column) {
    uint8_t unit[MOST] = {0}, bytes[MOST];
    int64_t skip = column % unit_of(p);
    memcpy(unit + skip, codes, (size_t)n);
    p->pack(unit, bytes, skip + n);
    uint8_t *to = row + (column - skip) * p->bits / 8;
    for (int64_t i = 0; i < qn_row_bytes(p->bits, skip + n); i++) __atomic_fetch_or(to + i, bytes[i], __ATOMIC_RELAXED);
}

static void pack_at(const qn_byte_rows *rows, const uint8_t *codes, int64_t n, uint8_t *row, int64_t column) {
    const qn_width *p = &rows->width;
    int64_t unit = unit_of(p);
    if (column % unit) {
        int64_t count = unit - column % unit;
        if (count > n) count = n;
        merge_at(p, codes, count, row, column);
        codes += count, column += count, n -= count;
    }
    int64_t whole = column + n == rows->columns ? n : n - n % unit; /* at its end a row has its bytes to itself */
    if (whole) p->pack(codes, row + column * p->bits / 8, whole);
    if (n > whole) merge_at(p, codes + whole, n - whole, row, column + whole);
}

void qn_pack_span(const qn_byte_rows *rows, const uint8_t *codes, int64_t start, int64_t n) {
    const int bits = rows->width.bits;
    if (qn_rows_are_even(bits, rows->columns)) {
        const qn_byte_rows one = {rows->width, INT64_MAX, rows->bytes};
        pack_at(&one, codes, n, rows->bytes, start);
        return;
    }
    int64_t stride = qn_row_bytes(bits, rows->columns), row = start / rows->columns;
    for (int64_t column = start - row * rows->columns; n > 0; row++, column = 0) {
        int64_t count = rows->columns - column < n ? rows->columns - column : n;
        if (column == 0 && n >= rows->columns && padded(&rows->width, rows->columns)) {
            int64_t whole = n / rows->columns;
            pack_whole_rows(&rows->width, codes, rows->columns, whole, rows->bytes + row * stride);
            codes += whole * rows->columns, n -= whole * rows->columns, row += whole - 1;
            continue;
        }
        pack_at(rows, codes, count, rows->bytes + row * stride, column);
        codes += count, n -= count;
    }
}
