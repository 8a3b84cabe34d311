/* pack and unpack rows of sub-byte codes. */
#include "bindings.h"

#include "packing.h"

typedef void (*copier)(const uint8_t *from, uint8_t *to, int64_t codes);

/* (input, output, type, rows, codes a row): rows of bytes are ceil(codes * bits / 8) long. */
static PyObject *copy_rows(const char *name, bool packs, qn_args a, Py_ssize_t count) {
    int type;
    int64_t rows, codes, total_codes, total_bytes;
    if (qn_arg_count(name, count, 5) || qn_arg_int(a[2], 0, QN_TYPE_COUNT - 1, &type) || qn_arg_i64(a[3], &rows) ||
        qn_arg_i64(a[4], &codes))
        return NULL;
    const qn_width p = qn_width_of((qn_type)type);
    if (!p.bits || rows < 0 || codes < 0 || codes > QN_MAX_COLUMNS)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.%s: the type or the shape is not packable.", name);
    int64_t bytes = qn_row_bytes(p.bits, codes);
    if (__builtin_mul_overflow(rows, codes, &total_codes) || __builtin_mul_overflow(rows, bytes, &total_bytes))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.%s: the shape is too large.", name);
    const uint8_t *from = qn_arg_vector(a[0], packs ? total_codes : total_bytes, NPY_UINT8);
    uint8_t *to = from ? qn_arg_output(a[1], packs ? total_bytes : total_codes, 1) : NULL;
    if (!to) return NULL;
    const copier copy = packs ? p.pack : p.unpack;
    Py_BEGIN_ALLOW_THREADS;
    if (qn_rows_are_even(p.bits, codes)) copy(from, to, rows * codes);
    else
        for (int64_t r = 0; r < rows; r++)
            copy(from + r * (packs ? codes : bytes), to + r * (packs ? bytes : codes), codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *pack(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    return copy_rows("pack", true, a, count);
}

static PyObject *unpack(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    return copy_rows("unpack", false, a, count);
}

PyMethodDef qn_pack_methods[] = {
    QN_METHOD(pack, "pack(codes, out, type, rows, n, /)\n--\n\nPack rows of n codes into bytes, first code low."),
    QN_METHOD(unpack, "unpack(packed, out, type, rows, n, /)\n--\n\nUnpack rows of n codes from bytes."),
    QN_END,
};
