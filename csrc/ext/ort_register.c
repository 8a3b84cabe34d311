/* RegisterCustomOps: the library of custom operators that ONNX Runtime loads is the extension module itself.
 *
 * A session cannot be asked how many threads it has, so that its options say it in the entry "qnumpy.threads". There is
 * a domain for each count, made once; it outlives every session, and its operators know their count. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "dispatch.h"
#include "ort_kernel.h"
#include "threads.h"

static const ort_operator *const operators[] = {&qn_ort_linear, &qn_ort_conv, &qn_ort_embedding, &qn_ort_norm};
enum { OPERATORS = sizeof operators / sizeof *operators };

/* As the runtime sees it: `op` comes first. */
typedef struct {
    ort_op op;
    const ort_operator *of;
    int threads;
} registered;

typedef struct {
    const registered *op;
    const ort_api *api;
    void *kernel;
    ort_copy *copies;
} instance;

/* The pool of the session, for one call. */
typedef struct {
    qn_pool pool; /* first */
    const ort_call *call;
} session_pool;

static void run_pieces(const qn_pool *pool, int64_t pieces, void (*take)(void *job, size_t i), void *job) {
    const ort_call *c = ((const session_pool *)pool)->call;
    ort_status *s = ORT(c->api, parallel_for)(c->context, take, (size_t)pieces, (size_t)pieces, job);
    if (!s) return;
    ORT(c->api, release_status)(s); /* no piece was taken */
    for (int64_t i = 0; i < pieces; i++) take(job, (size_t)i);
}

static ort_status *compute_kernel(void *kernel, ort_context *context) {
    instance *i = kernel;
    const ort_call call = {i->api, context, i->op->of->name};
    const session_pool pool = {{i->op->threads, run_pieces}, &call};
    qn_borrow_pool(&pool.pool);
    ort_status *s = i->op->of->compute(i->kernel, &call);
    qn_borrow_pool(NULL);
    return s;
}

static ort_status *create_kernel(const ort_op *op, const ort_api *api, const ort_info *info, void **kernel) {
    const registered *r = (const registered *)op;
    instance *i = calloc(1, sizeof *i);
    if (!i) return ort_no_memory(api, r->of->name);
    *i = (instance){.op = r, .api = api};
    const ort_node node = {api, info, r->of->name, &i->copies};
    static const qn_pool alone = {.threads = 1}; /* our own pool stays asleep */
    qn_borrow_pool(&alone);
    ort_status *s = r->of->create(&node, &i->kernel);
    qn_borrow_pool(NULL);
    if (s) ort_free_copies(i->copies), free(i);
    else *kernel = i;
    return s;
}

static void destroy_kernel(void *kernel) {
    instance *i = kernel;
    if (!i) return;
    i->op->of->destroy(i->kernel);
    ort_free_copies(i->copies), free(i);
}

static const ort_operator *of(const ort_op *op) { return ((const registered *)op)->of; }
static const char *name(const ort_op *op) { return of(op)->name; }
static const char *provider(const ort_op *op) { return (void)op, "CPUExecutionProvider"; }
static size_t inputs(const ort_op *op) { return of(op)->inputs; }
static size_t outputs(const ort_op *op) { return of(op)->outputs; }
static int input_type(const ort_op *op, size_t i) { return of(op)->input_types[i]; }
static int output_type(const ort_op *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int input_kind(const ort_op *op, size_t i) { return i < of(op)->required ? ORT_REQUIRED : ORT_OPTIONAL; }
static int output_kind(const ort_op *op, size_t i) {
    return of(op)->variadic ? ORT_VARIADIC : i < of(op)->required_outputs ? ORT_REQUIRED : ORT_OPTIONAL;
}
static int input_memory(const ort_op *op, size_t i) { return (void)op, (void)i, 0; }
static int one(const ort_op *op) { return (void)op, 1; }
static int last_opset(const ort_op *op) { return (void)op, INT32_MAX; }

static ort_op described(int version) {
    return (ort_op){
        .version = (uint32_t)version,
        .name = name,
        .provider = provider,
        .input_type = input_type,
        .inputs = inputs,
        .output_type = output_type,
        .outputs = outputs,
        .destroy = destroy_kernel,
        .input_kind = input_kind,
        .output_kind = output_kind,
        .input_memory = input_memory,
        .variadic_inputs_least = one,
        .variadic_inputs_same = one,
        .variadic_outputs_least = one,
        .variadic_outputs_same = one,
        .create_kernel = create_kernel,
        .compute_kernel = compute_kernel,
        .first_opset = one,
        .last_opset = last_opset,
    };
}

static ort_status *make_domain(const ort_api *api, int version, int threads, void **domain) {
    registered *ops = calloc(OPERATORS, sizeof *ops); /* as long as the process lives */
    if (!ops) return ort_no_memory(api, "RegisterCustomOps");
    ort_status *s = ORT(api, create_domain)("qnumpy", domain);
    if (s) free(ops);
    for (int i = 0; i < OPERATORS && !s; i++) {
        ops[i] = (registered){described(version), operators[i], threads};
        s = ORT(api, domain_add)(*domain, &ops[i].op);
    }
    return s;
}

/* The domain of a count of threads. */
static ort_status *find_domain(const ort_api *api, int version, int threads, void **domain) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static void *domains[QN_MAX_THREADS + 1];
    pthread_mutex_lock(&lock);
    ort_status *s = domains[threads] ? NULL : make_domain(api, version, threads, &domains[threads]);
    if (s) domains[threads] = NULL;
    *domain = domains[threads];
    pthread_mutex_unlock(&lock);
    return s;
}

/* The entry "qnumpy.threads"; without it the CPUs of the machine, which only makes pieces smaller than need be. */
static ort_status *read_threads(const ort_api *api, const void *options, int *threads) {
    int has = 0;
    char text[32] = "", *end = text;
    size_t size = sizeof text;
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    *threads = cpus < 1 ? 1 : cpus > QN_MAX_THREADS ? QN_MAX_THREADS : (int)cpus;
    ort_status *s = ORT(api, has_config)(options, "qnumpy.threads", &has);
    if (!s && has) s = ORT(api, get_config)(options, "qnumpy.threads", text, &size);
    if (s || !has) return s;
    const long value = strtol(text, &end, 10);
    if (end == text || *end || value < 1 || value > QN_MAX_THREADS)
        return ort_error(api, "RegisterCustomOps", "qnumpy.threads must be an integer from 1 to %d; got \"%s\"",
                         QN_MAX_THREADS, text);
    *threads = (int)value;
    return NULL;
}

static void start(void) {
    if (!qn_isa_supported(0)) qn_dispatch_init(); /* not when Python has imported the module */
}

__attribute__((visibility("default"))) ort_status *RegisterCustomOps(void *options, const ort_base *base);

ort_status *RegisterCustomOps(void *options, const ort_base *base) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    unsigned major = 0, minor = 0;
    static const char there[] = "qnumpy.registered"; /* a second domain of one name is an error of every session */
    void *domain;
    int threads, has = 0;
    sscanf(base->version(), "%u.%u", &major, &minor);
    if (major < 1 || (major == 1 && minor < ORT_OLDEST))
        return ort_error(base->api(1), "RegisterCustomOps", "onnxruntime must be 1.%d or later; got %s", ORT_OLDEST,
                         base->version());
    const int version = major > 1 || minor > ORT_NEWEST ? ORT_NEWEST : (int)minor;
    const ort_api *api = base->api((uint32_t)version);
    pthread_once(&once, start);
    ort_status *s = ORT(api, has_config)(options, there, &has);
    if (s || has) return s;
    s = read_threads(api, options, &threads);
    if (!s) s = find_domain(api, version, threads, &domain);
    if (!s) s = ORT(api, add_domain)(options, domain);
    return s ? s : ORT(api, add_config)(options, there, "1");
}
