/* The rounding of weights: the same bits with any number of threads, on every architecture, and nothing written outside
 * of the outputs. qnumpy.testing has its twins.
 *
 *     test_gptq
 */
#include "support.h"

#include "cholesky.h"
#include "descent.h"
#include "gptq.h"
#include "threads.h"

enum { CASES = 40, THREADS = 3 };

/* Of the results on fixed grids, in their order: IEEE arithmetic without contraction gives it on every CPU. */
static const uint64_t EXPECTED = 0x9EE5FC285044EB1B;

static uint64_t hash = 0xCBF29CE484222325;

static void add_hash(const void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001B3;
}

enum { FACTOR, CODES, BETTER, REFITTED, OBJECTIVE, HASHED, FOUND = HASHED, SCALE, ZERO, OUTPUTS };

typedef struct {
    int64_t rows, columns, group, groups;
    float *w, *scale, *importance;
    double *h;
    int32_t *zero;
    int64_t *order; /* groups stay together */
} problem;

/* Integers, whose products and sums are exact, so that every architecture has the same inputs. */
static problem problem_make(int64_t rows, int64_t columns, int64_t group) {
    problem p = {.rows = rows, .columns = columns, .group = group, .groups = (columns + group - 1) / group};
    size_t elements = (size_t)(rows * columns), parameters = (size_t)(rows * p.groups), width = (size_t)columns;
    p.w = array(elements, sizeof *p.w), p.h = array(width * width, sizeof *p.h);
    p.scale = array(parameters, sizeof *p.scale), p.zero = array(parameters, sizeof *p.zero);
    p.order = array(width, sizeof *p.order), p.importance = array(width, sizeof *p.importance);
    int64_t samples = 2 * columns;
    int *x = array((size_t)samples * width, sizeof *x);
    for (int64_t i = 0; i < samples * columns; i++) x[i] = random_int(-9, 9) + (i % columns ? x[i - 1] / 2 : 0);
    for (size_t i = 0; i < elements; i++) p.w[i] = (float)random_int(-4000, 4000) / 512;
    for (size_t i = 0; i < parameters; i++)
        p.scale[i] = (float)random_int(80, 160) / 128, p.zero[i] = random_int(-2, 2);
    for (int64_t i = 0; i < columns; i++)
        for (int64_t j = 0; j < columns; j++) {
            int64_t sum = i == j ? 50 : 0;
            for (int64_t k = 0; k < samples; k++) sum += (int64_t)x[k * columns + i] * x[k * columns + j];
            p.h[i * columns + j] = (double)sum / 64;
        }
    for (int64_t at = 0, first = (p.groups - 1) * group; first >= 0; first -= group)
        for (int64_t j = first; j < first + group && j < columns; j++) p.order[at++] = j;
    for (int64_t i = 0; i < columns; i++) p.importance[i] = (float)p.h[i * columns + i];
    free(x);
    return p;
}

static void solve(const problem *p, const guarded *out) {
    const qn_levels levels = {-8, 7, -8, 7};
    double *factor = (double *)out[FACTOR].data;
    int16_t *codes = (int16_t *)out[CODES].data, *better = (int16_t *)out[BETTER].data;
    float *refitted = (float *)out[REFITTED].data;
    bool done = qn_inverse_factor(p->h, p->columns, factor) == QN_FACTORED;
    qn_column_loop loop = {p->w,   factor,   p->order, p->importance, p->rows, p->columns, p->group,
                           levels, p->scale, p->zero,  codes,         false,   NULL};
    done &= qn_round_columns(&loop);
    qn_rounded r = {p->w, p->h, codes, p->scale, p->zero, p->rows, p->columns, p->group, NULL};
    done &= qn_descend(&r, levels.qmin, levels.qmax, 5, better);
    r.codes = better;
    done &= qn_refit_scales(&r, refitted);
    r.scale = refitted;
    done &= qn_rounding_objective(&r, (double *)out[OBJECTIVE].data);
    loop.search = true, loop.codes = (int16_t *)out[FOUND].data;
    loop.scale = (float *)out[SCALE].data, loop.zero = (int32_t *)out[ZERO].data;
    done &= qn_round_columns(&loop);
    check(done, "any", "rounding", "fails", p->columns, NULL);
}

static void test_one(int64_t rows, int64_t columns, int64_t group) {
    problem p = problem_make(rows, columns, group);
    size_t elements = (size_t)(rows * columns), parameters = (size_t)(rows * p.groups), width = (size_t)columns;
    const size_t bytes[OUTPUTS] = {
        [FACTOR] = width * width * sizeof(double),   [CODES] = elements * sizeof(int16_t),
        [BETTER] = elements * sizeof(int16_t),       [REFITTED] = parameters * sizeof(float),
        [OBJECTIVE] = (size_t)rows * sizeof(double), [FOUND] = elements * sizeof(int16_t),
        [SCALE] = parameters * sizeof(float),        [ZERO] = parameters * sizeof(int32_t),
    };
    guarded first[OUTPUTS], other[OUTPUTS];
    for (int threads = 1; threads <= THREADS; threads++) {
        guarded *out = threads == 1 ? first : other;
        for (int k = 0; k < OUTPUTS; k++) out[k] = guarded_make(bytes[k], 0);
        qn_set_num_threads(threads);
        solve(&p, out);
        for (int k = 0; k < OUTPUTS; k++) {
            bool same = !memcmp(out[k].data, first[k].data, bytes[k]);
            check(same, "any", "rounding", "depends on the number of threads", columns, NULL);
            check(guarded_whole(&out[k]), "any", "rounding", "wrote outside its output", columns, NULL);
            if (threads == 1 && k < HASHED) add_hash(out[k].data, bytes[k]);
            if (threads > 1) free(out[k].memory);
        }
    }
    for (int k = 0; k < OUTPUTS; k++) free(first[k].memory);
    free(p.w), free(p.h), free(p.scale), free(p.zero), free(p.order), free(p.importance);
}

int main(void) {
    random_seed(20240229);
    for (int i = 0; i < CASES; i++) {
        int64_t columns = random_i64(1, 80), rows = i % 4 ? random_i64(1, 40) : random_i64(60, 200);
        if (i % 10 == 0) columns = random_i64(120, 200); /* several strips of the factor */
        test_one(rows, columns, random_i64(1, i % 2 ? columns + 3 : 9));
    }
    if (hash != EXPECTED) printf("the hash of the results is 0x%016llX\n", (unsigned long long)hash);
    count_check(hash == EXPECTED);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
