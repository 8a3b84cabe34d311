/* The contract of every kernel, and the table that kernel_list.h fills.
 *
 * Common to all: pointers and element counts, no Python, no allocation, no state. Inputs and outputs do not overlap.
 * n may be 0. Pointers need no more than the alignment of their type. The caller has set round-to-nearest-even and
 * cleared flush-to-zero (qn_fp_begin). Every ISA row gives the same bits as the scalar one. p->rows > 1 is for
 * quantize_f32_<T>, dequantize_<T>_f32, fake_quantize_f32 and requantize_i32_<T>.
 *
 * quantize_f32_<T>(x[n], q[n], p)
 *   NaN -> Z. Otherwise, by p->convention, with / and * in float32 and rne = round half to even:
 *     ONNX    saturate(rne(x / S) + Z)           ONNX QuantizeLinear
 *     GUIDE   saturate(rne(x / S + Z))           x / S rounded, then + Z rounded, then rne
 *     TORCH   saturate(rne(x * (1 / S)) + Z)     PyTorch quantize_per_tensor
 *     TFLITE  saturate(away(x / S) + Z)          away = round half away from zero
 *   saturate = clamp to [p->qmin, p->qmax]; infinities saturate. |Z| <= 65535.
 *   With p->exact_inverse the ONNX quotient of a run is fma(x, i, x * j), i + j = 1/S, |x| clamped to 1024 S: it rounds
 *   as the division does for every scale mantissa and every 8-bit boundary (csrc/tests/prove_division.c).
 * quantize_f64_i32: the same in float64; codes stay int32.
 * narrow_i32_<T>: int32 codes already in range to T.
 * dequantize_<T>_f32(q[n], x[n], p): (float)(q - Z) * S, one float32 rounding (two for |q - Z| > 2^24).
 *   i4, u4, i2, u2: one code to a byte; only the low 4 or 2 bits are read.
 * fake_quantize_f32: dequantize(quantize(x)), bit for bit.
 * fake_quantize_inside_f32(x[n], y[n], inside[n], n, p): the same y; inside is 1 where the code lies in [qmin, qmax]
 *   before it saturates, else 0, and 0 for NaN. One row.
 * keep_f32(g[n], inside[n], y[n], n, stream): g where inside is 1, +0 where it is 0.
 * gradient_f32(x[n], g[n], dx[n], n, p, sums): dx as keep_f32 of the above. Extends the sums: error by g * (step - v)
 *   of what lies inside, where step is the code less Z, v is x / S, by TORCH x * (1 / S), their difference is rounded
 *   to float32, and the product is exact in float64; below and above by g. Each has 16 partial sums (element i in sum
 *   i % 16) that are added in halves. Reads the first parameter alone. The payload of a NaN is any.
 * gradient_columns_f32(x[n], g[n], dx[n], n, p, error[n], below[n], above[n]): the same for one row whose elements have
 *   their own parameters; adds to the sums of each element.
 * requantize_i32_<T>(acc[n], q[n], p): saturate(rne((float)acc * M) + Z), M = p->scale.
 * requantize_fixed_i32: M = m * 2^-s, m = p->multiplier in [2^30, 2^31), s = p->shift in 1..62; codes stay int32
 *     FIXED         saturate(((acc * m + 2^(s-1)) >> s) + Z) in 64 bits, one rounding, ties toward +infinity
 *     FIXED_DOUBLE  gemmlowp: high = round((acc << left) * m / 2^31), then a rounding right shift, ties away from zero
 * min_max_<f>(x[n], r): extends r by the finite elements; counts NaN and infinities instead of taking them.
 * min_max_columns_<f>(x, rows, stride, n, r[n]): the same for each of n columns of x[rows][stride].
 * count_f32(x[n], shift, ways, counts[2^(32 - shift)][ways]): adds 1 to one of the counters of bin (bits of x) >>
 *   shift, ways 1 or 4. Only the sum of the ways is specified. NaN and infinities are counted by their bits. n < 2^32.
 * count_columns_f32(x, rows, stride, n, shift, table, counts[n][table]): the same for each of n columns, one way.
 * sort_columns_<T>(keys[n][QN_COLUMNS], n): each column in rising order; float64 without NaN and -0.
 * truncate_f64_f32(x[n], y[n]): rounds toward zero; keeps infinities and NaN.
 * error_sums_f32(x[n], y[n], e): extends e; eight partial sums (element i in sum i % 8), added pairwise. A NaN makes
 *   the noise NaN and leaves the peak alone.
 * codes_seen_8(codes[n], seen[256]): sets seen[code] to 1 for every code.
 * widen_image_rows(p), dot_rows(d): the formulas stand beside their structs; sums modulo 2^32.
 * grouped_panels(w, panel, panels, x, first, last, y[panels][rows][16]): for each row i, each group g of [first, last)
 *   in this order, and each column j: y = y + (float)s * (x->scales[i][g] * scale[g][j]), each step rounded to float32,
 *   none fused; s is the exact sum over the group of (code_x - zero_point_x) * (code_w - zero_point_w).
 * float_panel(w, panel, k, depth, to[depth][16]): the numbers (float)code * scale of rows [k, k + depth), rounded once,
 *   level * scale of codes with tables;
 *   k is a multiple of QN_UNIT from the start of its group. A NaN may become any number.
 * float_rows(x[rows][k], k, first, last, rows, packed[rows * k]): packs elements [first, last) of the rows for
 *   multiply_floats of the same ISA row, whose private layout it is.
 * multiply_floats(t): y = fma(x[i][k], w[k][j], y) for rising k, each rounded once. The payload of a NaN is any.
 * multiply_float_row(w, panel, panels, x[k], y[panels][16]): the same from y = 0, for one row and the numbers of
 *   float_panel; only if w->plain: scales times 2^(127 - bias), or 2^(15 - bias) of 6 and 4 bits, are finite.
 * saturate_pairs_u8s8(a[k], b[k][stride], k, stride, n, sum[n], error[n], pairs[n]): for each pair of neighbours in k
 *   and each column j, e = a0 * b0[j] + a1 * b1[j], and c = e clamped to int16, as vpmaddubsw does. sum += c,
 *   error += c - e, pairs += c != e. An odd last element pairs with 0. k <= 65536.
 * unsafe_pairs_i8(b[k][stride], k, stride, n, pairs[n]): counts the pairs that some a0, a1 in 0..255 would saturate.
 * widen_<T>_f32(h[n], x[n], p), narrow_f32_<T>(x[n], h[n], n, p): T of float_list.h, one code to an element. Widening
 *   is exact and reads no bits above a code's; of p it reads only `stream`. Narrowing rounds half to even, once.
 *     beyond the largest   infinity; NaN where T has none; the largest where T has no NaN. p->saturate: the largest,
 *                          for infinities too
 *     NaN                  quiet, its sign and the top of its payload kept where T has them; FINITE: zero, sign flipped
 *     zero                 keeps its sign but in FNUZ
 *     SCALE (e8m0fnu)      ties go up; 0 < x <= 2^-127 becomes 2^-127, then x < 1.5 * 2^-126 becomes 2^-126; negative
 *                          numbers and 0 become NaN, or the smallest number with p->saturate
 *     p->stochastic        up when the fraction exceeds random bits of (p->seed, p->index + i); below the smallest
 *                          normal number the fraction is read to 30 - mantissa places. Beyond the largest: to nearest.
 * narrow_f64_f32, widen_f32_f64, copy_<T>_<T>: the CPU's own conversion; p->saturate and p->stochastic (32 places) as
 *   above.
 * odd_f64_f32: rounds to odd: an inexact value becomes the neighbour whose last bit is 1. A second rounding of it to a
 *   narrower type gives the same number as one rounding of the float64.
 * divide_<f>, multiply_f32(x[n], y[n], p): x / S and x * S, one IEEE operation each.
 * block_max_f32(x[n], most[ceil(n / block)]): the largest finite magnitude of each block, 0 if there is none; NaN if
 *   the block has a NaN.
 * hadamard_f32(x[size], y[size], h): each block of x times its factors, then H of the block; inverse: H, then the
 *   factors. H is the Kronecker product of the symmetric Hadamard matrices of orders h->order and block / order; the
 *   twin in qnumpy/testing has the order of the additions. y may be x. The payload of a NaN is any.
 * gelu_f32(x[n], y[n], n): y = (0.5 x) (1 + e), each step rounded, where e = c P(c c) / Q(c c) held in [-1, 1], with
 *   the coefficients of layers_body.h by Horner's rule, and c is x held in [-QN_GELU_END, QN_GELU_END]. y may be x.
 * add_norm_f32(p): sum = x + residual; y = ((sum - mean) inverse) gamma + beta, mean = total(sum) / n, inverse =
 *   1 / sqrt(total((sum - mean)^2) / n + epsilon), each step rounded; a total has 16 partial sums (element i in sum
 *   i % 16) that are added in halves.
 * float_error_<f>(x[n], y[n], limits, e): extends e; y is x after conversion to another type and back. Everything is
 *   exact except the relative errors, each of which is rounded to 2^-30.
 * multiply_add_<T>(a, w[n], y[n], n): y = round(y + a w): the exact value is rounded once, half to even, to T, and y
 *   stores it as float32. Overflow gives infinity; every NaN gets the same bits.
 * pack_1, unpack_u1: the same of bits.
 * pack_<bits>: codes of so many bits side by side, first code in the low bits, the last byte padded with zero bits.
 * unpack_<T>: the inverse; signed types sign-extend into the byte. They read the bytes of n codes and no more.
 * hamming_rows(rows[n][bytes], n, query[bytes], bytes, distances[n]): the bits that differ. bytes < 2^28.
 * first_below(distances[n], limit, n, index): the first index of a distance < limit, n if there is none.
 * score_sums(sums[n], scale[n], offset[n] or NULL, factor, scores[n], n): (double)sum * (factor * scale) + offset, each
 *   step rounded to float64, none fused.
 * first_above(scores[n], least, n, index): the first index of a score > least, n if there is none.
 * dot_f64(x[n], y[n], n, total): the sum of the exact products x y in float64, in 16 partial sums (element i in sum
 *   i % 16) that are added in halves.
 *
 * Integer products; docs/matmul.md proves that no step overflows. Sums are modulo 2^32. qn_types.h describes the tile
 * and the head of matmul.c panels and slivers. Buffers of packed codes are 64-byte aligned; numbers of quartets are
 * even.
 * matmul_tiling(t): the tiles and routes that the driver takes with this ISA row.
 * left_pairs(l), left_bytes(l), left_words(l), left_parts(l): pack rows of A for multiply_pairs*; multiply_u8 and
 *   multiply_u7; multiply_words; one row for multiply_parts.
 *   The layout of a sliver is private to each ISA row; its elements beyond l->k contribute 0 to every product.
 *   start is 0, or minus the sums of Winograd's products of pairs; sum is that of a - zero. Bytes are int8, or uint8
 *   less 128; pairs have the zero point subtracted.
 * right_bytes(b[4 quartets][16 panels], ...): packs panels, each byte XOR flip. right_turned(b[16][4 quartets], ...):
 *   packs one panel from the transpose.
 * right_sums: for each column sum += u, pairs += -(u0 - 128)(u1 - 128) - (u2 - 128)(u3 - 128), u the stored bytes.
 * right_widen(panel, wide): the panel as multiply_pairs_wide reads it, 128 bytes a quartet.
 * multiply_*(t): c[r][j] = row_start[r] + column_start[j] + (add ? c[r][j] : 0) + sum over k of a b, where b is
 *   u - 128 with pairs; u with parts, u8 (any byte) and u7 (bytes 0..127); a word with words.
 * left_quads(l): bytes a of uint8, a + center of int8; center beyond k. Byte less center is the a of multiply_quads and
 *   of add_excess.
 * left_turned(packed, quartets, rows, turned, step): turned[k][row] = the bytes that left_quads packed, for whole
 *   bands of rows.
 * right_quads(panel, quartets, less, center, quads): for each two quartets their 128 codes u - less as int8, then
 *   -center times the sums of their quads (excess.h) as int16, modulo 2^16: columns 0-15, for each the quad of codes 0
 *   and 1, then that of codes 2 and 3.
 * multiply_quads(t): like multiply_*, plus more; t->right is an output of right_quads. No pair a b + a' b' and no quad
 *   may exceed int16.
 * add_excess(x): sums[r][column] = (add ? sums[r][column] : 0) + sum over the excess e of the pass of
 *   (turned[k][r] - center) e.
 * sweep, dots(t): c[r][j] += sum over k of a[r][k] b; |a| <= 255. They read nothing beyond k and columns of b.
 * add_outer: c[r][j] += x[r] y[j].
 * finish_f32(f): min(max((float)acc * (row_scale * column_scale) + bias, lo), hi), one rounding each; NaN stays.
 * finish_i8, finish_u8(f): saturate(rne((float)acc * (row_scale * column_scale)) + Z).
 */
#ifndef QN_KERNELS_H
#define QN_KERNELS_H

#include "isa_list.h"
#include "kernel_list.h"
#include "qn_types.h"

typedef struct {
#define QN_MEMBER(kind, name, arguments, ...) void(*name) arguments;
    QN_KERNEL_LIST(QN_MEMBER)
#undef QN_MEMBER
} qn_table;

enum {
#define QN_COUNT(kind, name, arguments, ...) QN_INDEX_##name,
    QN_KERNEL_LIST(QN_COUNT)
#undef QN_COUNT
        QN_KERNEL_COUNT
};

_Static_assert(sizeof(qn_table) == QN_KERNEL_COUNT * sizeof(void (*)(void)), "one pointer a kernel, nothing else");

#define QN_DECLARE(name, target, detector) extern const qn_table qn_row_##name;
QN_ISA_LIST(QN_DECLARE)
#undef QN_DECLARE

#endif
