/* The ISA, the threads, and errors of the environment. */
#include "bindings.h"

#include <dlfcn.h>
#include <stdint.h>

#include "dispatch.h"
#include "threads.h"

static PyObject *isas(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self, (void)a;
    if (qn_arg_count_always("isas", count, 0)) return NULL;
    PyObject *list = PyList_New(0);
    for (int isa = 0; list && isa < qn_isa_count(); isa++) {
        PyObject *row = Py_BuildValue("(sN)", qn_isa_name(isa), PyBool_FromLong(qn_isa_supported(isa)));
        if (!row || PyList_Append(list, row)) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *isa(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self, (void)a;
    if (qn_arg_count("isa", count, 0)) return NULL;
    return PyUnicode_FromString(qn_isa_name(qn_isa_active()));
}

static PyObject *set_isa(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count_always("set_isa", count, 1)) return NULL;
    for (int k = 0; k < qn_isa_count(); k++)
        if (PyUnicode_Check(a[0]) && PyUnicode_CompareWithASCIIString(a[0], qn_isa_name(k)) == 0 &&
            qn_isa_supported(k)) {
            qn_isa_select(k);
            Py_RETURN_TRUE;
        }
    Py_RETURN_FALSE;
}

static PyObject *kernels(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self, (void)a;
    if (qn_arg_count("kernels", count, 0)) return NULL;
    PyObject *dict = PyDict_New();
    for (int k = 0; dict && k < QN_KERNEL_COUNT; k++) {
        PyObject *row = PyUnicode_FromString(qn_kernel_row(k));
        if (!row || PyDict_SetItemString(dict, qn_kernel_name(k), row)) Py_CLEAR(dict);
        Py_XDECREF(row);
    }
    return dict;
}

static PyObject *num_threads(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self, (void)a;
    if (qn_arg_count("num_threads", count, 0)) return NULL;
    return PyLong_FromLong(qn_num_threads());
}

static PyObject *set_num_threads(PyObject *self, qn_args a, Py_ssize_t count) {
    int threads;
    (void)self;
    if (qn_arg_count_always("set_num_threads", count, 1) || qn_arg_int(a[0], 1, QN_MAX_THREADS, &threads)) return NULL;
    qn_set_num_threads(threads);
    Py_RETURN_NONE;
}

/* ---- the threads of OpenMP that another library has started ---- */

typedef void (*gomp_parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags); /* of libgomp */

typedef struct {
    qn_pool pool; /* first */
    gomp_parallel parallel;
} openmp_team;

typedef struct {
    void (*take)(void *job, size_t i);
    void *job;
    size_t pieces;
    _Atomic size_t next;
} team_job;

static void take_pieces(void *data) {
    team_job *j = data;
    for (size_t i; (i = atomic_fetch_add(&j->next, 1)) < j->pieces;) j->take(j->job, i);
}

static void run_team(const qn_pool *pool, int64_t pieces, void (*take)(void *job, size_t i), void *job) {
    team_job j = {take, job, (size_t)pieces, 0};
    ((const openmp_team *)pool)->parallel(take_pieces, &j, (unsigned)pool->threads, 0);
}

static gomp_parallel team_parallel; /* NULL: that library is not there */

static PyObject *find_team(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count("find_team", count, 1)) return NULL;
    const char *path = PyUnicode_AsUTF8(a[0]);
    if (!path) return NULL;
    void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD), *parallel = library ? dlsym(library, "GOMP_parallel") : NULL;
    if (parallel) team_parallel = (gomp_parallel)(uintptr_t)parallel;
    return PyBool_FromLong(parallel != NULL);
}

static PyObject *borrow_team(PyObject *self, qn_args a, Py_ssize_t count) {
    static _Thread_local openmp_team team;
    int threads;
    (void)self;
    if (qn_arg_count("borrow_team", count, 1) || qn_arg_int(a[0], 0, QN_MAX_THREADS, &threads)) return NULL;
    team = (openmp_team){{team_parallel ? threads : 1, run_team}, team_parallel};
    qn_borrow_pool(threads ? &team.pool : NULL);
    Py_RETURN_NONE;
}

static PyObject *watch_thread_blocks(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count_always("watch_thread_blocks", count, 1)) return NULL;
    if (!PyContextVar_CheckExact(a[0]))
        return PyErr_Format(PyExc_TypeError, "qnumpy._core.watch_thread_blocks: takes a context variable.");
    PyObject *none = NULL; /* the first variable stays: another thread may be about to read it */
    if (atomic_compare_exchange_strong(&qn_thread_blocks, &none, a[0])) Py_INCREF(a[0]);
    Py_RETURN_NONE;
}

static PyObject *refuse_calls(PyObject *self, qn_args a, Py_ssize_t count) {
    (void)self;
    if (qn_arg_count_always("refuse_calls", count, 2)) return NULL;
    bool valid = a[0] == Py_None ? a[1] == Py_None : PyExceptionClass_Check(a[0]) && PyUnicode_Check(a[1]);
    if (!valid)
        return PyErr_Format(PyExc_TypeError,
                            "qnumpy._core.refuse_calls: takes an exception and a text, or None twice.");
    if (qn_set_pending_error(a[0], a[1])) return NULL;
    Py_RETURN_NONE;
}

PyMethodDef qn_runtime_methods[] = {
    QN_METHOD(isas, "isas()\n--\n\nISA rows of this build, low to high, with whether this CPU has them."),
    QN_METHOD(isa, "isa()\n--\n\nName of the active ISA row."),
    QN_METHOD(set_isa, "set_isa(name, /)\n--\n\nSelect an ISA row; False when this CPU does not have it."),
    QN_METHOD(kernels, "kernels()\n--\n\nWhich ISA row serves which kernel."),
    QN_METHOD(num_threads, "num_threads()\n--\n\nThreads a large call may use."),
    QN_METHOD(set_num_threads, "set_num_threads(threads, /)\n--\n\nSet the threads a large call may use."),
    QN_METHOD(find_team, "find_team(path, /)\n--\n\nFind the threads of a library of OpenMP that is loaded."),
    QN_METHOD(borrow_team,
              "borrow_team(threads, /)\n--\n\nRun calls of this thread on those threads; 0: on ours again."),
    QN_METHOD(watch_thread_blocks,
              "watch_thread_blocks(variable, /)\n--\n\nRead the threads of each call from the blocks of its context."),
    QN_METHOD(refuse_calls,
              "refuse_calls(error, text, /)\n--\n\nMake every call raise error(text); None and None end it."),
    QN_END,
};
