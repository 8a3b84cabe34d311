#include "half_quadratic.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum { TURNS = 20, NEWTON_STEPS = 2, BIAS = 4000 /* makes 3 e positive */ };
static const double BETA = 10, GROWTH = 1.01;

/* x^-0.3 of a positive normal x = m 2^e, within 1e-9 of it: Newton's method for y^-10 = m^3 from a polynomial. */
static double power(double x) {
    /* 2^(-k / 10) */
    static const double tenths[] = {
        1.0,
        0.93303299153680741598,
        0.87055056329612413914,
        0.81225239635623552261,
        0.75785828325519904117,
        0.70710678118654752440,
        0.65975395538644712969,
        0.61557220667245814225,
        0.57434917749851750340,
        0.53588673126814658211,
    };
    int64_t bits, fraction = ((int64_t)1 << 52) - 1;
    double m;
    memcpy(&bits, &x, sizeof bits);
    const int e = (int)(bits >> 52) - 1022;
    bits = (bits & fraction) | (int64_t)1022 << 52;
    memcpy(&m, &bits, sizeof m);                                     /* in [1/2, 1) */
    double cube = m * m * m, y = 1.6614 - m * (1.0687 - m * 0.4088); /* within 1.6e-3 of m^-0.3 */
    for (int i = 0; i < NEWTON_STEPS; i++) {
        double y2 = y * y, y4 = y2 * y2;
        y = y * (1.1 - 0.1 * cube * (y4 * y4 * y2));
    }
    const int tenth = 3 * e + BIAS, whole = tenth / 10;
    bits = (int64_t)(1023 + BIAS / 10 - whole) << 52;
    memcpy(&m, &bits, sizeof m); /* 2^-floor(3 e / 10) */
    return y * tenths[tenth - 10 * whole] * m;
}

/* A level is scale (q - zero) + offset; the parameter that the turns fit is the offset if there is one, else the scale.
 */
typedef struct {
    float scale, offset;
    int32_t zero, qmin, qmax;
    bool has_offset;
} grid;

static double steps_of(const grid *g, float w) {
    float t = (g->has_offset ? w - g->offset : w) / g->scale;
    float low = (float)(g->qmin - g->zero), high = (float)(g->qmax - g->zero);
    return (double)rintf(t > low ? t < high ? t : high : low);
}

/* Returns sum |w - level|^p in units, and in *next the grid whose free parameter is fitted to w less the outlier part.
 */
static double turn(const float *w, int64_t n, double unit, double beta, const grid *g, grid *next) {
    const double scale = (double)g->scale / unit, offset = g->has_offset ? (double)g->offset / unit : 0;
    double error = 0, sum = 0, energy = 0, count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(w[i]) <= FLT_MAX)) continue;
        double r = steps_of(g, w[i]), e = (double)w[i] / unit - offset - r * scale, size = fabs(e);
        if (size >= DBL_MIN) {
            double slope = power(size);
            error += size * slope;
            e = copysign(fmin(size, slope / beta), e); /* without the outlier part */
        }
        sum += g->has_offset ? e : r * (e + r * scale);
        energy += r * r, count++;
    }
    *next = *g;
    if (g->has_offset) next->offset = (float)(unit * (offset + sum / count));
    else if (sum > 0) next->scale = (float)(unit * (sum / energy));
    return error;
}

/* Replaces a grid by the best one of the turns. */
static void split(const float *w, int64_t n, grid *best) {
    const double unit = (double)best->scale;
    double beta = BETA, least = INFINITY;
    grid g = *best, next;
    for (int i = 0; i < TURNS && g.scale >= FLT_MIN && g.scale <= FLT_MAX && fabsf(g.offset) <= FLT_MAX; i++) {
        double error = turn(w, n, unit, beta, &g, &next);
        if (!(error < least)) break;
        least = error, *best = g, g = next, beta *= GROWTH;
    }
}

void qn_half_quadratic_grid(const float *w, int64_t n, const qn_levels *levels, float *scale, int32_t *zero) {
    qn_grid_search(w, NULL, n, levels, scale, zero);
    grid g = {*scale, 0, *zero, levels->qmin, levels->qmax, false};
    split(w, n, &g);
    *scale = g.scale;
}

void qn_half_quadratic_offset(const float *w, int64_t n, int32_t qmin, int32_t qmax, float *scale, float *offset) {
    qn_offset_search(w, NULL, n, qmin, qmax, scale, offset);
    grid g = {*scale, *offset, 0, qmin, qmax, true};
    split(w, n, &g);
    *offset = g.offset;
}
