/* quantize_blocks(x, x_type, rows, columns, element_type, block, emax, largest, tensor_scale, codes, scales) -> None.
 */
#include "bindings.h"

#include "blocks.h"
#include "packing.h"

static PyObject *quantize_blocks(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    int64_t rows, columns, elements;
    int element, block;
    qn_block_format format = {0};
    (void)self;
    if (qn_arg_count("quantize_blocks", count, 11) || qn_arg_source(a[0], a[1], &x) || qn_arg_i64(a[2], &rows) ||
        qn_arg_i64(a[3], &columns) || qn_arg_int(a[4], QN_E4M3FN, QN_E2M1FN, &element) ||
        qn_arg_int(a[5], 1, QN_MAX_BLOCK, &block) || qn_arg_int(a[6], 0, 127, &format.emax))
        return NULL;
    if (x.type >= QN_I8 || rows < 0 || columns < 0 || __builtin_mul_overflow(rows, columns, &elements) ||
        elements != qn_elements(&x))
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.quantize_blocks: the input is not real or not that large.");
    format.element = (qn_type)element, format.block = block;
    format.largest = (float)PyFloat_AsDouble(a[7]), format.tensor_scale = (float)PyFloat_AsDouble(a[8]);
    if (PyErr_Occurred()) return NULL;
    int bits = qn_width_of(format.element).bits;
    if (bits && columns > QN_MAX_COLUMNS)
        return PyErr_Format(PyExc_ValueError, "qnumpy._core.quantize_blocks: too large.");
    uint8_t *codes = qn_arg_output(a[9], bits ? rows * qn_row_bytes(bits, columns) : elements, 1);
    uint8_t *scales = codes ? qn_arg_output(a[10], rows * ((columns + block - 1) / block), 1) : NULL;
    if (!scales) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    qn_quantize_blocks(&x, rows, columns, &format, codes, scales);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef qn_blocks_methods[] = {
    QN_METHOD(quantize_blocks, "quantize_blocks(x, x_type, rows, columns, element_type, block, emax, largest, "
                               "tensor_scale, codes, scales, /)\n--\n\nFill codes and scales of blocks along rows."),
    QN_END,
};
