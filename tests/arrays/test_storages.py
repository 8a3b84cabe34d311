"""Which class packs which weight; what it takes of memory; what it refuses."""

import pickle
import tracemalloc

import numpy as np
import pytest

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.dtypes import code_type

F32 = np.float32
W = np.random.default_rng(4).standard_normal((48, 32)).astype(F32)


@pytest.mark.parametrize("granularity", [qn.PerChannel(0), qn.PerRow(), qn.PerGroup(16, 1), qn.PerGroup(32, -1)])
def test_the_layout_of_pytorch_names_axis(granularity):
    """A weight (N, K) with a scale for each output: of int4 in groups, or per channel on axis 0."""
    dtype = "int4" if isinstance(granularity, qn.PerGroup) else "int8"
    q = qn.quantize(W, dtype=dtype, granularity=granularity)
    with pytest.raises(ValueError, match=r"\. Use axis=1 if w is of shape \(N, K\), as PyTorch stores weights\.$"):
        qn.PackedWeight(q)
    with pytest.raises(ValueError, match=r"Use b\.T if b is of shape \(N, K\)") as caught:
        qn.qmatmul(qn.quantize(W), q)
    assert "PackedWeight" not in str(caught.value)
    assert (np.ones((2, 32), F32) @ qn.PackedWeight(q, axis=1)).shape == (2, 48)


def test_the_other_way_round_names_axis_0():
    q = qn.quantize(W, granularity=qn.PerChannel(1))
    with pytest.raises(ValueError, match=r"got per channel 1\. Use axis=0 if w is of shape \(K, N\)\.$"):
        qn.PackedWeight(q, axis=1)


@pytest.mark.parametrize("options", [{}, {"dtype": "int4", "granularity": qn.PerGroup(16, 0)}])
def test_a_pickle_gives_the_same_products(options):
    packed = qn.PackedWeight(qn.quantize(W, **options), bias=np.ones(32))
    copy = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(np.eye(48, dtype=F32) @ copy, np.eye(48, dtype=F32) @ packed)
    assert repr(copy) == repr(packed)
    assert copy.nbytes == packed.nbytes


STORED = {
    f"{dtype} {granularity.describe()}": (dtype, granularity)
    for dtype in ("int8", "uint8", "int4", "uint4", "int2", "uint2")
    for granularity in (qn.PerTensor(), qn.PerChannel(1), qn.PerGroup(16, 0), qn.PerGroup(128, 0))
}
# Codes that are stored in wider fields.
STORED |= {
    f"{dtype} {granularity.describe()}": (dtype, granularity)
    for dtype in ("int7", "uint7", "uint6", "int5", "int3", "uint3")
    for granularity in (qn.PerChannel(1), qn.PerGroup(32, 0))
}


def stored(name, shape=(200, 33), seed=5):
    dtype, granularity = STORED[name]
    w = np.random.default_rng(seed).standard_normal(shape).astype(F32)
    return qn.quantize(w, dtype=dtype, granularity=granularity, symmetric=dtype.startswith("int"))


@pytest.mark.parametrize("name", STORED)
def test_there_and_back(name):
    """unpack() returns what was packed, and so does a pickle; the repr names it."""
    q = stored(name)
    packed = qn.PackedWeight(q, bias=np.ones(33), clip=(0, None))
    assert packed.unpack() == q
    assert packed.unpack().codes.dtype == q.codes.dtype
    assert packed.qparams == q.qparams
    assert pickle.loads(pickle.dumps(packed)).unpack() == q
    assert repr(packed).startswith(f"PackedWeight((200, 33), {name},")
    assert qn.PackedWeight(packed.unpack()).unpack() == q


@pytest.mark.parametrize("name", STORED)
def test_products_are_those_of_the_twin(name, row):
    """Rows up to and beyond the kernels' limits; x of int8 and uint8, per tensor, per row and in groups; codes out."""
    q = stored(name)
    size = q.qparams.granularity.group_size
    bias, out = np.linspace(-9, 9, 33, dtype=F32), qn.QParams(0.3, 7)
    for m in (1, 2, 4, 5, 9, 130):
        x = np.random.default_rng(m).standard_normal((m, 200)).astype(F32)
        by = [qn.PerTensor(), qn.PerRow(), *([] if size is None else [qn.PerGroup(size, 1)])]
        for granularity in by:
            for dtype, symmetric in (("int8", True), ("uint8", False)):
                xq = qn.quantize(x, dtype=dtype, symmetric=symmetric, granularity=granularity)
                np.testing.assert_array_equal(xq @ qn.PackedWeight(q, bias=bias), twin.qmatmul(xq, q, bias=bias))
                y = qn.qmatmul(xq, q, bias=bias, out_qparams=out)
                np.testing.assert_array_equal(y.codes, twin.qmatmul(xq, q, bias=bias, out_qparams=out))


@pytest.mark.parametrize("dtype", ["uint8", "uint7", "uint5", "uint4", "uint3", "uint2"])
@pytest.mark.parametrize("granularity", [qn.PerChannel(1), qn.PerGroup(16, 0)], ids=str)
def test_the_middle_of_unsigned_codes(dtype, granularity):
    """The zero points of a symmetric scheme, which are not the middle of wider fields."""
    q = qn.quantize(W, dtype=dtype, granularity=granularity)
    packed = qn.PackedWeight(q)
    assert packed.unpack() == q
    xq = qn.quantize(W.T, granularity=qn.PerRow())
    np.testing.assert_array_equal(xq @ packed, twin.qmatmul(xq, q))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["int8 per group 16 on axis 0", "int2 per group 128 on axis 0", "int2 per channel 1",
                                  "uint4 per tensor"])  # fmt: skip
def test_threads_do_not_change_it(name, threads):
    q = stored(name, (1200, 900))
    packed, rng = qn.PackedWeight(q), np.random.default_rng(2)
    for m in (1, 4, 70):
        xq = qn.quantize(rng.standard_normal((m, 1200)).astype(F32), granularity=qn.PerRow())
        with qn.threads(threads):
            np.testing.assert_array_equal(xq @ packed, twin.qmatmul(xq, q))


@pytest.mark.parametrize("name", STORED)
def test_nbytes_counts_all_bytes(name):
    """A code takes its bits, or the next of 4 and 8: 1/8, 1/4 or 1/2 of a byte more or less; beside it only parameters
    and sums. NumPy reports its own arrays to tracemalloc, so no array beside those of nbytes exists."""
    dtype, granularity = STORED[name]
    k, n = 2048, 512
    q = stored(name, (k, n))
    bits = next(field for field in (2, 4, 8) if field >= code_type(dtype).bits)
    tracemalloc.start()
    packed = qn.PackedWeight(q)
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    parameters = packed.nbytes - k * n * bits // 8
    size = granularity.group_size
    expected = n * 32 if size is None else k // size * n * (4 if dtype.startswith("int") else 5)
    assert 0 < parameters <= expected + 0.11 * k * n * (bits == 8)  # 8 bits: the excess of quads too
    assert traced < 20_000 + (8 * n if size is None else 0)


def test_int4_of_a_column_takes_half_a_byte():
    """1536 x 384 of int4: 294,912 bytes of codes."""
    packed = qn.PackedWeight(qn.quantize(np.ones((1536, 384), F32), dtype="int4", granularity=qn.PerChannel(1)))
    assert 294_912 < packed.nbytes < 310_000
