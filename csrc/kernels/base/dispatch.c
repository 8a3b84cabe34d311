/* ISA rows overlaid low to high: table k holds each kernel of the highest ISA row up to k that has it. */
#include "dispatch.h"

#include <stdatomic.h>
#include <string.h>

#include "cpu.h"

static const struct {
    const char *name;
    const qn_table *row;
} rows[] = {
#define QN_ISA_ROW(name, target, detector) {#name, &qn_row_##name},
    QN_ISA_LIST(QN_ISA_ROW)
#undef QN_ISA_ROW
};

enum { ROWS = sizeof rows / sizeof *rows };

static const char *const kernel_names[] = {
#define QN_NAME(kind, name, arguments, ...) #name,
    QN_KERNEL_LIST(QN_NAME)
#undef QN_NAME
};

static qn_table tables[ROWS];
static unsigned char origin[ROWS][QN_KERNEL_COUNT];
static bool supported[ROWS];
static _Atomic int active;
static int64_t stream_bytes;

/* Other processes share the last-level cache, so it does not keep a larger output, whatever size the CPU reports. */
enum { STREAM_BYTES_MOST = 16 << 20 };

void qn_dispatch_init(void) {
    typedef void (*kernel)(void);
    const qn_cpu this_cpu = qn_cpu_detect(), *cpu = &this_cpu;
    (void)cpu;
    const bool has[] = {
#define QN_HAS(name, target, detector) (detector),
        QN_ISA_LIST(QN_HAS)
#undef QN_HAS
    };
    int best = 0;
    for (int isa = 0; isa < ROWS; isa++) {
        kernel from[QN_KERNEL_COUNT], to[QN_KERNEL_COUNT];
        memcpy(from, rows[isa].row, sizeof from);
        if (isa) memcpy(to, &tables[isa - 1], sizeof to);
        for (int k = 0; k < QN_KERNEL_COUNT; k++) {
            bool own = isa == 0 || from[k];
            if (own) to[k] = from[k];
            origin[isa][k] = (unsigned char)(own ? isa : origin[isa - 1][k]);
        }
        memcpy(&tables[isa], to, sizeof to);
        supported[isa] = has[isa];
        if (has[isa]) best = isa;
    }
    int64_t half = this_cpu.l3_bytes / 2;
    stream_bytes = half > 0 && half < STREAM_BYTES_MOST ? half : STREAM_BYTES_MOST;
    atomic_store(&active, best);
}

int qn_isa_count(void) { return ROWS; }
const char *qn_isa_name(int isa) { return rows[isa].name; }
bool qn_isa_supported(int isa) { return supported[isa]; }
int qn_isa_active(void) { return atomic_load_explicit(&active, memory_order_relaxed); }
void qn_isa_select(int isa) { atomic_store(&active, isa); }
const char *qn_kernel_name(int kernel) { return kernel_names[kernel]; }
const char *qn_kernel_row(int kernel) { return rows[origin[qn_isa_active()][kernel]].name; }
const qn_table *qn_kernels(void) { return &tables[qn_isa_active()]; }
int64_t qn_stream_bytes(void) { return stream_bytes; }
