"""Which class packs which weight; what it takes of memory; what it refuses."""

import pickle

import numpy as np
import pytest

import qnumpy as qn

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
