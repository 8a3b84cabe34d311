/* float_error(x, x_type, type, overflow, normal) -> counts and errors; float_features() -> {name: whether the CPU has
 * it}. */
#include "bindings.h"

#include "cpu.h"
#include "float_error.h"

static PyObject *float_error(PyObject *self, qn_args a, Py_ssize_t count) {
    qn_source x;
    int type;
    (void)self;
    if (qn_arg_count("float_error", count, 5) || qn_arg_source(a[0], a[1], &x) ||
        qn_arg_int(a[2], QN_F32, QN_I8 - 1, &type))
        return NULL;
    if (x.type >= QN_I8 || type == QN_F64)
        return PyErr_Format(PyExc_TypeError, "qnumpy._core.float_error: the input is not real or the type too wide.");
    double overflow = PyFloat_AsDouble(a[3]), normal = PyFloat_AsDouble(a[4]);
    if (PyErr_Occurred()) return NULL;
    qn_float_error e;
    Py_BEGIN_ALLOW_THREADS;
    qn_find_float_error(&x, (qn_type)type, overflow, (float)normal, &e);
    Py_END_ALLOW_THREADS;
    return Py_BuildValue("KKKKKKKddd", e.nan, e.infinite, e.overflow, e.zero, e.subnormal, e.kept, e.relative, e.worst,
                         e.peak, e.least);
}

static PyObject *float_features(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self, (void)a;
    if (qn_arg_count("float_features", count, 0)) return NULL;
    const qn_cpu cpu = qn_cpu_detect();
    return Py_BuildValue("{sNsNsNsNsN}", "F16C", PyBool_FromLong(cpu.f16c), "AVX512_FP16",
                         PyBool_FromLong(cpu.avx512fp16), "AVX512_BF16", PyBool_FromLong(cpu.avx512bf16), "NEON FP16",
                         PyBool_FromLong(cpu.neon_fp16), "NEON BF16", PyBool_FromLong(cpu.neon_bf16));
}

PyMethodDef qn_float_error_methods[] = {
    QN_METHOD(float_error,
              "float_error(x, x_type, type, overflow, normal, /)\n--\n\nWhat becomes of x in another float "
              "type: nan, infinite, overflow, zero, subnormal, kept, relative, worst, peak, least."),
    QN_METHOD(float_features, "float_features()\n--\n\nInstructions for narrow floats that this CPU and OS have."),
    QN_END,
};
