#include "distinct.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "dispatch.h"
#include "source.h"
#include "threads.h"

static const double *doubles_at(const qn_source *x, int64_t start, int64_t n, double *tile) {
    float wide[QN_TILE];
    if (x->type == QN_F64) {
        if (x->direct) return (const double *)x->data + start;
        qn_gather(x, start, n, tile);
    } else {
        const float *f = qn_floats_at(x, start, n, wide);
        for (int64_t i = 0; i < n; i++) tile[i] = f[i];
    }
    return tile;
}

/* Many slots: two values seldom share one, so that the branch predictor is right about probes. */
enum { SLOTS = 16 * QN_FEW, WAYS = 4 };

typedef struct {
    qn_few *few;
    uint8_t slots[SLOTS];             /* hash table: the number of a value plus one, or 0 */
    int64_t counts[WAYS][QN_FEW + 1]; /* several ways, as in count_f32; [0] counts NaN and infinities */
} census;

/* The number of a value plus one; 0 if it is not finite, -1 if it does not fit the table. */
static int number_of(census *c, double v) {
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    uint64_t slot = bits * 0x9E3779B97F4A7C15u >> 54;
    while (c->slots[slot] && c->few->values[c->slots[slot] - 1] != v) slot = (slot + 1) % SLOTS;
    if (c->slots[slot]) return c->slots[slot];
    if (!isfinite(v)) return 0;
    if (fabs(v) > FLT_MAX || c->few->n == QN_FEW) return -1; /* no float32 scale reaches it */
    c->few->values[c->few->n] = v;
    return c->slots[slot] = (uint8_t)++c->few->n;
}

static bool take_census(const qn_source *x, int64_t total, qn_few *few) {
    census c = {.few = few};
    double tile[QN_TILE];
    bool fit = true;
    few->n = 0;
    for (int64_t start = 0; start < total && fit; start += QN_TILE) {
        int64_t n = total - start < QN_TILE ? total - start : QN_TILE;
        const double *values = doubles_at(x, start, n, tile);
        for (int64_t i = 0; i < n && fit; i++) {
            int k = number_of(&c, values[i] + 0.0);
            fit = k >= 0;
            if (fit) c.counts[i % WAYS][k]++;
        }
    }
    for (int64_t k = 0; k < few->n; k++) {
        few->counts[k] = 0;
        for (int way = 0; way < WAYS; way++) few->counts[k] += c.counts[way][k + 1];
    }
    return fit;
}

/* If there are few bins, and all elements of each bin are the same number, the counts of the bins are the counts of the
 * values. The check takes two loads an element and no branch. For types that convert exactly to
 * float32. */
static bool alone_in_bins(const qn_source *x, int64_t total, const uint16_t *keys, const int64_t *counts, int64_t bins,
                          qn_few *few) {
    enum { UNSEEN = 0x7FC00000 }; /* a NaN */
    uint8_t numbers[QN_BINS] = {0};
    uint32_t seen[QN_FEW + 1] = {UNSEEN};
    float wide[QN_TILE], value;
    for (int64_t k = 0; k < bins; k++) {
        numbers[keys[k] < QN_ZERO_BIN ? QN_BINS - 1 - keys[k] : keys[k] - QN_ZERO_BIN] = (uint8_t)(k + 1);
        seen[k + 1] = UNSEEN;
    }
    for (int64_t start = 0; start < total; start += QN_TILE) {
        int64_t n = total - start < QN_TILE ? total - start : QN_TILE;
        const float *f = qn_floats_at(x, start, n, wide);
        uint32_t bits, other = 0;
        for (int64_t i = 0; i < n; i++) memcpy(&bits, f + i, sizeof bits), other |= seen[numbers[bits >> 16]] ^ bits;
        for (int64_t i = 0; i < n && other; i++) { /* a new value, or not finite */
            memcpy(&bits, f + i, sizeof bits);
            uint32_t *first = seen + numbers[bits >> 16];
            if (!isfinite(f[i]) || *first == bits) continue;
            if (*first != UNSEEN || first == seen) return false;
            *first = bits;
        }
    }
    few->n = 0;
    for (int64_t k = 0; k < bins; k++) {
        memcpy(&value, seen + k + 1, sizeof value);
        if (few->n && value == few->values[few->n - 1]) few->counts[few->n - 1] += counts[k]; /* -0 and 0 */
        else few->values[few->n] = (double)value + 0.0, few->counts[few->n++] = counts[k];
    }
    return true;
}

bool qn_few_values(const qn_source *x, const uint16_t *keys, const int64_t *counts, int64_t bins, qn_few *few) {
    int64_t total = qn_elements(x);
    uint64_t modes = qn_fp_begin();
    bool many = total >= QN_BINS / 8 && x->type != QN_F64 && bins <= QN_FEW; /* else filling the table costs more */
    bool few_enough = (many && alone_in_bins(x, total, keys, counts, bins, few)) || take_census(x, total, few);
    qn_fp_end(modes);
    return few_enough;
}
