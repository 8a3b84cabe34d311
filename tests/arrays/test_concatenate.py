"""concatenate: codes and parameters joined along an axis, and what cannot be joined."""

import numpy as np
import pytest
from refusals import assert_refused, refusals
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy.arrays.mx import MX_FORMATS

SHAPE = (4, 6, 64)
GRANULARITIES = [
    qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-2), qn.PerChannel(2), qn.PerGroup(32), qn.PerGroup(2, 0),
    qn.PerRow(),
]  # fmt: skip


def reals(shape=SHAPE):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("code", ["int8", "uint4", "int2", "float4_e2m1fn"])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_the_parts_of_an_array_join_to_it(granularity, code):
    q = qn.quantize(reals(), dtype=code, granularity=granularity, symmetric=code[0] == "f")
    for axis, cut in ((0, 2), (1, 1), (1, 5), (2, 32), (-1, 32), (-3, 2)):
        index = [slice(None)] * 3
        parts = []
        for part in (slice(0, cut), slice(cut, cut), slice(cut, None)):
            index[axis] = part
            parts.append(q[tuple(index)])
        joined = qn.concatenate(parts, axis)
        assert joined == q, (axis, cut)
        assert_same_bits(joined.dequantize(), q.dequantize())


@pytest.mark.parametrize("name", MX_FORMATS)
def test_blocks(name):
    q = qn.quantize(reals(), dtype=name)
    assert qn.concatenate([q[:1], q[1:]]) == q
    assert qn.concatenate([q[..., :32], q[..., 32:]], -1) == q
    assert qn.concatenate((q[:, 2:], q[:, :2]), 1) == q[:, [2, 3, 4, 5, 0, 1]]


@pytest.mark.parametrize("code", ["int4", "uint2"])
def test_rows_that_end_inside_a_byte(code):
    q = qn.quantize(reals((3, 7)), dtype=code)
    for cut in range(8):
        assert qn.concatenate([q[:, :cut], q[:, cut:]], 1) == q


def rows():
    q, other = qn.quantize(reals()), qn.quantize(reals() * 2)
    want = "concatenate: arrays must be"
    kinds = f"{want} a sequence of QuantizedArray or MXArray; got"
    yield lambda: qn.concatenate(q), TypeError, f"{kinds} a QuantizedArray"
    yield lambda: qn.concatenate([q, 1]), TypeError, f"{kinds} 1"
    offsets, book = qn.weights.offsets(reals((2, 32))), qn.weights.codebook(reals((2, 32)))
    yield lambda: qn.concatenate([offsets, offsets]), TypeError, f"{kinds} an OffsetArray"
    yield lambda: qn.concatenate([book, book]), TypeError, f"{kinds} a CodebookArray"
    yield lambda: qn.concatenate([]), ValueError, f"{want} at least one array; got none"
    blocks = qn.quantize(reals(), dtype="mxfp4")
    yield lambda: qn.concatenate([q, blocks]), TypeError, f"{want} of one class; got QuantizedArray and MXArray"
    zero = qn.quantize(np.float32(1))
    yield lambda: qn.concatenate([zero, zero]), ValueError, f"{want} of one dimension or more; got a 0-d array"
    yield lambda: qn.concatenate([q], "0"), TypeError, "concatenate: axis must be an integer; got '0'"
    yield lambda: qn.concatenate([q], 3), ValueError, "concatenate: axis must be in [-3, 2]; got 3"
    shapes = f"{want} of one shape but for axis 0; got (4, 6, 64) and (4, 5, 64)"
    yield lambda: qn.concatenate([q, q[:, 1:]]), ValueError, shapes
    equal = f"{want} of equal parameters, because those per tensor do not lie along axis 0; got different ones"
    yield lambda: qn.concatenate([q, other]), ValueError, equal
    int4 = qn.quantize(reals(), dtype="int4")
    schemes = f"{want} of one type, range of codes and granularity; got {q.qparams} and {int4.qparams}"
    yield lambda: qn.concatenate([q, int4]), ValueError, schemes
    groups = qn.quantize(reals(), granularity=qn.PerGroup(4, 1))
    cut = f"{want} of whole groups of 4 along axis 1, but for the last; got a length of 6"
    yield lambda: qn.concatenate([groups, groups], 1), ValueError, cut
    short = qn.quantize(reals((2, 40)), dtype="mxfp4")
    cut = f"{want} of whole groups of 32 along axis 1, but for the last; got a length of 40"
    yield lambda: qn.concatenate([short, short], 1), ValueError, cut
    nv, double = (qn.quantize(reals((2, 32)) * k, dtype="nvfp4") for k in (1, 2))
    names = " and ".join(sorted(f"nvfp4, {part.tensor_scale}" for part in (nv, double)))
    yield lambda: qn.concatenate([nv, double]), ValueError, f"{want} of one format and tensor_scale; got {names}"


@refusals(rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
