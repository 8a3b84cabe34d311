/* pack and unpack rows of sub-byte codes. */
#include "bindings.h"

#include "dispatch.h"

static int bits_of(qn_type type) { return type == QN_I4 || type == QN_U4 ? 4 : type == QN_I2 || type == QN_U2 ? 2 : 0; }

/* (input, output, type, rows, codes a row): rows of bytes are ceil(codes * bits / 8) long. */
static int rows_of(const char *name, qn_args a, Py_ssize_t count, bool packing, const uint8_t **in, uint8_t **out,
                   qn_type *type, int64_t *rows, int64_t *codes, int64_t *bytes) {
    int number;
    if (qn_arg_count(name, count, 5) || qn_arg_int(a[2], 0, QN_TYPE_COUNT - 1, &number) || qn_arg_i64(a[3], rows) ||
        qn_arg_i64(a[4], codes))
        return -1;
    *type = (qn_type)number;
    int bits = bits_of(*type);
    int64_t total_codes, total_bytes;
    if (!bits || *rows < 0 || *codes < 0 || *codes > INT64_MAX / 8 - 8) {
        PyErr_Format(PyExc_ValueError, "qnumpy._core.%s: the type or the shape is not packable.", name);
        return -1;
    }
    *bytes = (*codes * bits + 7) / 8;
    if (__builtin_mul_overflow(*rows, *codes, &total_codes) || __builtin_mul_overflow(*rows, *bytes, &total_bytes)) {
        PyErr_Format(PyExc_ValueError, "qnumpy._core.%s: the shape is too large.", name);
        return -1;
    }
    *in = qn_arg_vector(a[0], packing ? total_codes : total_bytes, NPY_UINT8);
    *out = *in ? qn_arg_output(a[1], packing ? total_bytes : total_codes, 1) : NULL;
    return *out ? 0 : -1;
}

static PyObject *pack(PyObject *self, qn_args a, Py_ssize_t count) {
    const uint8_t *in;
    uint8_t *out;
    qn_type type;
    int64_t rows, codes, bytes;
    (void)self;
    if (rows_of("pack", a, count, true, &in, &out, &type, &rows, &codes, &bytes)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    void (*kernel)(const uint8_t *, uint8_t *, int64_t) =
        bits_of(type) == 4 ? qn_kernels()->pack_4 : qn_kernels()->pack_2;
    if (codes * bits_of(type) % 8 == 0) kernel(in, out, rows * codes);
    else
        for (int64_t r = 0; r < rows; r++) kernel(in + r * codes, out + r * bytes, codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *unpack(PyObject *self, qn_args a, Py_ssize_t count) {
    const uint8_t *in;
    uint8_t *out;
    qn_type type;
    int64_t rows, codes, bytes;
    (void)self;
    if (rows_of("unpack", a, count, false, &in, &out, &type, &rows, &codes, &bytes)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    const qn_table *k = qn_kernels();
    void (*kernel)(const uint8_t *, uint8_t *, int64_t) = type == QN_I4   ? k->unpack_i4
                                                          : type == QN_U4 ? k->unpack_u4
                                                          : type == QN_I2 ? k->unpack_i2
                                                                          : k->unpack_u2;
    if (codes * bits_of(type) % 8 == 0) kernel(in, out, rows * codes);
    else
        for (int64_t r = 0; r < rows; r++) kernel(in + r * bytes, out + r * codes, codes);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_pack_methods[] = {
    QN_METHOD(pack, "pack(codes, out, type, rows, n, /)\n--\n\nPack rows of n codes into bytes, first code low."),
    QN_METHOD(unpack, "unpack(packed, out, type, rows, n, /)\n--\n\nUnpack rows of n codes from bytes."),
    QN_END,
};
