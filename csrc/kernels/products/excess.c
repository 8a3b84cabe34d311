#include "excess.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAIR_LIMIT = 128,   /* 255 * 128 < 32768 */
    QUAD_LIMIT = 255,   /* 128 * 255 < 32768 */
    EXCESS_LIMIT = 127, /* of one entry: int8 */
    PASS_LIMIT = 255,   /* sum of a column's |excess| in a pass: 128 * 255 again */
    PAIR_COST = 4,      /* of a pair of entries, in units of one product; measured, like the next two */
    PASS_COST = 8,      /* of a pass, for each column */
    PERCENT = 7,        /* of all products: the gain of quads over Winograd's pairs */
};

typedef struct {
    uint16_t k;
    int8_t e;
} entry;

typedef struct {
    int64_t count[QN_PANEL];
    entry *list[QN_PANEL]; /* [3 kblock]: a quad has three entries at most, two quartets have two quads */
} panel_entries;

int64_t qn_even_kblock(int64_t quartets, int64_t most) {
    int64_t kblocks = most < quartets ? (quartets + most - 1) / most : 1, each = (quartets + kblocks - 1) / kblocks;
    return each + each % 2;
}

void qn_excess_free(qn_excess *r) {
    if (!r) return;
    free(r->first), free(r->passes), free(r->pairs), free(r);
}

int64_t qn_excess_bytes(const qn_excess *r, int64_t panels) {
    int64_t kblocks = panels * r->kblocks;
    return (int64_t)sizeof *r + (kblocks + 1) * 4 + r->first[kblocks] * (int64_t)sizeof *r->passes +
           r->pair_count * (int64_t)sizeof *r->pairs;
}

static int magnitude(int s) { return s < 0 ? -s : s; }

/* Clips the quad of one column whose codes are s[place[0..3]]; k is that of the first code. */
static void split_quad(const int8_t *s, int16_t k, int column, panel_entries *c) {
    static const int place[4] = {0, 1, QN_QUARTET, QN_QUARTET + 1}, step[4] = {0, 1, 4, 5};
    int code[4], over = -QUAD_LIMIT;
    entry *to = c->list[column] + c->count[column];
    for (int i = 0; i < 4; i++) code[i] = s[place[i]];
    for (int i = 0; i < 4; i += 2) {
        int sum = code[i] + code[i + 1], e = sum > PAIR_LIMIT ? sum - PAIR_LIMIT : sum + PAIR_LIMIT;
        if (magnitude(sum) <= PAIR_LIMIT) continue;
        int at = magnitude(code[i]) > magnitude(code[i + 1]) ? i : i + 1;
        code[at] -= e, *to++ = (entry){(uint16_t)(k + step[at]), (int8_t)e};
    }
    for (int i = 0; i < 4; i++) over += magnitude(code[i]);
    while (over > 0) {
        int at = 0;
        for (int i = 1; i < 4; i++)
            if (magnitude(code[i]) > magnitude(code[at])) at = i;
        int e = over < EXCESS_LIMIT ? over : EXCESS_LIMIT;
        if (e > magnitude(code[at])) e = magnitude(code[at]);
        over -= e;
        if (code[at] < 0) e = -e;
        code[at] -= e, *to++ = (entry){(uint16_t)(k + step[at]), (int8_t)e};
    }
    c->count[column] = to - c->list[column];
}

/* Clips the quads of two quartets of 16 columns. */
static void split_quartets(const uint8_t *panel, uint8_t less, int64_t k, panel_entries *c) {
    int8_t s[2 * QN_QUARTET];
    uint8_t bad[QN_QUARTET / 2];
    for (int i = 0; i < 2 * QN_QUARTET; i++) s[i] = (int8_t)(panel[i] - less);
    for (int i = 0; i < QN_QUARTET / 2; i++) {
        const int16_t s0 = s[2 * i], s1 = s[2 * i + 1], s2 = s[QN_QUARTET + 2 * i], s3 = s[QN_QUARTET + 2 * i + 1];
        bad[i] = (abs(s0 + s1) > PAIR_LIMIT) | (abs(s2 + s3) > PAIR_LIMIT) |
                 (abs(s0) + abs(s1) + abs(s2) + abs(s3) > QUAD_LIMIT);
    }
    for (int i = 0; i < QN_QUARTET / 2; i++)
        if (bad[i]) split_quad(s + 2 * i, (int16_t)(k + i % 2 * 2), i / 2, c);
}

/* Resizes an array to `wanted` elements. With `room`, its size so far, it grows by half at least, so that it grows
 * seldom. */
static bool resize(void **array, int64_t *room, int64_t elements, size_t size) {
    if (room && elements <= *room) return true;
    int64_t count = room ? elements + *room / 2 : elements;
    void *memory = realloc(*array, (size_t)count * size + 1);
    if (!memory) return false;
    *array = memory;
    if (room) *room = count;
    return true;
}

/* Moves as many entries of a column as one pass may hold into pairs; the others move to the front of the list. */
static int take(entry *list, int64_t *count, qn_excess_pair *to, int16_t *sum) {
    int64_t kept = 0;
    int total = 0, n = 0;
    bool half = false; /* the last pair has one entry */
    for (int64_t i = 0; i < *count; i++) {
        const entry x = list[i];
        if (total + magnitude(x.e) > PASS_LIMIT) {
            list[kept++] = x;
            continue;
        }
        total += magnitude(x.e), *sum = (int16_t)(*sum + x.e);
        half = half && magnitude(to[n - 1].excess[0] + x.e) <= PAIR_LIMIT;
        if (half) to[n - 1].k[1] = x.k, to[n - 1].excess[1] = x.e;
        else to[n++] = (qn_excess_pair){{x.k, x.k}, {x.e, 0}};
        half = !half;
    }
    *count = kept;
    return n;
}

/* Makes passes until no entry is left. Columns are sorted by count, so that the trip count of the inner loop changes
 * slowly and the branch predictor follows it. */
static bool make_passes(qn_excess *r, int64_t room[2], uint32_t *passes, panel_entries *c) {
    for (;; ++*passes) {
        int64_t left = 0;
        for (int j = 0; j < QN_PANEL; j++) left += c->count[j];
        if (!left) return true;
        if (!resize((void **)&r->passes, room, *passes + 1, sizeof *r->passes) ||
            !resize((void **)&r->pairs, room + 1, r->pair_count + QN_PANEL * PASS_LIMIT, sizeof *r->pairs))
            return false;
        qn_excess_pass *pass = r->passes + *passes;
        qn_excess_pair pairs[QN_PANEL][PASS_LIMIT];
        int16_t sum[QN_PANEL] = {0};
        int count[QN_PANEL], place = 0;
        for (int j = 0; j < QN_PANEL; j++) count[j] = take(c->list[j], &c->count[j], pairs[j], sum + j);
        *pass = (qn_excess_pass){.first = (uint32_t)r->pair_count};
        for (int n = 0; place < QN_PANEL; n++)
            for (int j = 0; j < QN_PANEL; j++) {
                if (count[j] != n) continue;
                pass->column[place] = (uint8_t)j, pass->count[place] = (uint8_t)n, pass->sum[place++] = sum[j];
                memcpy(r->pairs + r->pair_count, pairs[j], (size_t)n * sizeof **pairs), r->pair_count += n;
            }
    }
}

bool qn_excess_make(const uint8_t *panel, int64_t panels, int64_t quartets, uint8_t less, int64_t kblock,
                    qn_excess **result) {
    qn_excess *r = calloc(1, sizeof *r);
    if (!r) return false;
    r->kblock = qn_even_kblock(quartets, kblock), r->kblocks = (quartets + r->kblock - 1) / r->kblock;
    r->first = malloc((size_t)(panels * r->kblocks + 1) * sizeof *r->first);
    panel_entries c;
    entry *lists = malloc((size_t)(QN_PANEL * 3 * r->kblock) * sizeof *lists);
    const int64_t each = quartets * QN_QUARTET * PERCENT / 100; /* cost allowed to a panel */
    int64_t room[2] = {0};
    uint32_t passes = 0;
    bool fits = r->first && lists, pays = true;
    for (int64_t p = 0; fits && pays && p < panels; p++)
        for (int64_t b = 0; fits && b < r->kblocks; b++) {
            r->first[p * r->kblocks + b] = passes;
            for (int j = 0; j < QN_PANEL; j++) c.list[j] = lists + j * 3 * r->kblock, c.count[j] = 0;
            int64_t begin = b * r->kblock, end = begin + r->kblock < quartets ? begin + r->kblock : quartets;
            for (int64_t g = begin; g < end; g += 2)
                split_quartets(panel + (p * quartets + g) * QN_QUARTET, less, (g - begin) * 4, &c);
            fits = make_passes(r, room, &passes, &c);
            /* stop when the panels so far cost a quarter more than their share */
            int64_t share = p + 1 + panels / 4 < panels ? p + 1 + panels / 4 : panels;
            pays = r->pair_count * PAIR_COST + passes * QN_PANEL * PASS_COST <= each * share;
        }
    free(lists);
    fits = fits && resize((void **)&r->passes, NULL, passes, sizeof *r->passes) &&
           resize((void **)&r->pairs, NULL, r->pair_count, sizeof *r->pairs);
    if (fits && pays) r->first[panels * r->kblocks] = passes, *result = r;
    else qn_excess_free(r);
    return fits;
}

void qn_excess_take(const qn_excess *r, int64_t number, int32_t center, uint8_t *quads) {
    for (uint32_t n = r->first[number]; n < r->first[number + 1]; n++) {
        const qn_excess_pass *pass = r->passes + n;
        const qn_excess_pair *e = r->pairs + pass->first;
        for (int j = 0; j < QN_PANEL; j++)
            for (int i = 0; i < pass->count[j]; i++, e++)
                for (int h = 0; h < 2; h++) {
                    uint8_t *two = quads + e->k[h] / 8 * QN_QUADS, *code = two + pass->column[j] * 4 + e->k[h] % 4;
                    uint16_t *offset = (uint16_t *)(void *)(two + 2 * QN_QUARTET + (code - two) / 2 * 2);
                    code[e->k[h] / 4 % 2 * QN_QUARTET] -= (uint8_t)e->excess[h];
                    *offset = (uint16_t)(*offset + center * e->excess[h]);
                }
    }
}
