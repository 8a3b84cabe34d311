/* Codes and scales of the rows of a matrix against the exact objective (level - w) h (level - w)^T of each row. */
#ifndef QN_DESCENT_H
#define QN_DESCENT_H

#include <stdbool.h>
#include <stdint.h>

#include "codebook.h"

typedef struct {
    const float *w;       /* [rows][columns] */
    const double *h;      /* [columns][columns], symmetric */
    const int16_t *codes; /* [rows][columns] */
    const float *scale;   /* [rows][groups] */
    const int32_t *zero;  /* alike; level = scale (code - zero), rounded once to float32 */
    int64_t rows, columns, group;
    const qn_books *books; /* the levels in place of code - zero, or NULL */
} qn_rounded;

/* Every sum runs over the columns in their order, in float64. Every row is on its own. false: no memory. */

/* The objective of each row: sum over j of e_j (2 sum over i < j of e_i h_ji + e_j h_jj), e = level - w. */
bool qn_rounding_objective(const qn_rounded *r, double *objective);

/* Passes over the columns of each row. The code of a column becomes the one of least objective, the others unchanged,
 * if that lowers it by more than 2^-30 of what the change alone costs; columns whose h_jj is not positive keep theirs.
 * Ends after a sweep without a change, or after `sweeps`. */
bool qn_descend(const qn_rounded *r, int32_t qmin, int32_t qmax, int64_t sweeps, int16_t *codes);

/* The scales of least objective for these codes: a step from those of r along the solution of the normal equations, cut
 * so that no scale changes by more than a factor 4 or leaves the normal numbers. A row keeps its scales if the step
 * gains no more than the rounding of levels to float32 may cost. */
bool qn_refit_scales(const qn_rounded *r, float *scale);

/* Solves a x = right side for a positive matrix [n][n], whose upper triangle becomes its factor; x replaces the right
 * side. An unknown whose pivot is lost to rounding, of which its element of the diagonal tells, becomes zero. */
void qn_solve_positive(double *a, double *x, const double *diagonal, int64_t n);

#endif
