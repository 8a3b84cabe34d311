"""The granularities: shapes, grids and slices of their parameters, and how they compare, print and travel."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qnumpy as qn
from qnumpy.granularity import Granularity
from qnumpy.testing import spread

ALL = [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-2), qn.PerGroup(32), qn.PerGroup(5, 0), qn.PerRow()]


@pytest.mark.parametrize(
    ("granularity", "shape", "want"),
    [
        (qn.PerTensor(), (), ()),
        (qn.PerTensor(), (0, 3), ()),
        (qn.PerTensor(), (4096, 768), ()),
        (qn.PerChannel(0), (4096, 768), (4096,)),
        (qn.PerChannel(-1), (4096, 768), (768,)),
        (qn.PerChannel(1), (2, 0, 3), (0,)),
        (qn.PerGroup(32), (4096, 768), (4096, 24)),
        (qn.PerGroup(32), (10, 70), (10, 3)),
        (qn.PerGroup(100), (10, 70), (10, 1)),
        (qn.PerGroup(1, 0), (10, 70), (10, 70)),
        (qn.PerGroup(4, -2), (3, 9, 2), (3, 3, 2)),
        (qn.PerGroup(4), (3, 0), (3, 0)),
        (qn.PerRow(), (8, 128, 768), (8, 128)),
        (qn.PerRow(), (5,), ()),
        (qn.PerRow(), (3, 0), (3,)),
    ],
)
def test_params_shape(granularity, shape, want):
    assert granularity.params_shape(shape) == want


@pytest.mark.parametrize("granularity", [qn.PerChannel(2), qn.PerChannel(-3), qn.PerGroup(4, 2), qn.PerGroup(4, -3)])
def test_params_shape_of_an_axis_that_is_not_there(granularity):
    owner = type(granularity).__name__
    with pytest.raises(ValueError, match=rf"^{owner}: axis must be in \[-2, 1\]; got {granularity.axis}\.$"):
        granularity.params_shape((4, 5))
    with pytest.raises(
        ValueError, match=rf"^{owner}: axis must be left out for a 0-d array; got {granularity.axis}\.$"
    ):
        granularity.params_shape(())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 12), st.data())
def test_parameters_cover_the_array(shape, size, data):
    shape, axis = tuple(shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    for granularity in (qn.PerTensor(), qn.PerChannel(axis), qn.PerGroup(size, axis)):
        params = np.arange(np.prod(granularity.params_shape(shape), dtype=int)).reshape(granularity.params_shape(shape))
        each = spread(params, shape, *granularity.axis_block)
        assert each.shape == shape
        if each.size:  # every parameter serves an element
            assert set(each.ravel().tolist()) == set(params.ravel().tolist())


@st.composite
def granularities_and_shapes(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    axis, size = draw(st.integers(-len(shape), len(shape) - 1)), draw(st.integers(1, 6))
    return draw(st.sampled_from([qn.PerTensor(), qn.PerChannel(axis), qn.PerGroup(size, axis), qn.PerRow()])), shape


def each_parameter(granularity, shape):
    """The parameters as numbers from 0 up, and the number of the parameter of each element."""
    params = np.arange(math.prod(granularity.params_shape(shape))).reshape(granularity.params_shape(shape))
    everything = tuple(slice(0, length) for length in shape)
    return params, np.broadcast_to(granularity.expand(params, everything), shape)


@given(granularities_and_shapes())
def test_grid_and_counts_agree_with_each_element(case):
    granularity, shape = case
    params, each = each_parameter(granularity, shape)
    outer, channels, inner, block = granularity.grid(shape)
    assert outer * channels * inner == each.size
    assert granularity.counts(shape).shape == params.shape
    if not each.size:
        assert not granularity.counts(shape).any()
        return
    assert granularity.counts(shape).ravel().tolist() == np.bincount(each.ravel(), minlength=params.size).tolist()
    o, c, i = np.indices((outer, channels, inner))
    blocks = -(-channels // block) if block else channels
    index = (o * blocks + c // block) * inner + i if block else c  # what csrc/README.md says of the grid
    assert index.ravel().tolist() == each.ravel().tolist()


@given(granularities_and_shapes(), st.randoms())
def test_a_transpose_keeps_the_parameter_of_each_element(case, random):
    granularity, shape = case
    order = list(range(len(shape)))
    random.shuffle(order)
    params, each = each_parameter(granularity, shape)
    permuted, moved = granularity.permuted(tuple(order), shape), granularity.permute(params, tuple(order))
    transposed = tuple(shape[d] for d in order)
    if each.size:
        assert moved.shape == permuted.params_shape(transposed)
        everything = tuple(slice(0, length) for length in transposed)
        again = np.broadcast_to(permuted.expand(moved, everything), transposed)
        assert np.array_equal(again, each.transpose(order))
    assert moved.flags.c_contiguous
    assert np.array_equal(granularity.unpermute(moved, tuple(order)), params)


def test_rows_need_an_axis():
    for call in (qn.PerRow().params_shape, qn.PerRow().grid, qn.PerRow().counts):
        with pytest.raises(
            ValueError, match=r"^PerRow: granularity must be PerTensor\(\) for a 0-d array; got PerRow\(\)\.$"
        ):
            call(())


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_dictionaries(granularity):
    values = granularity.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert Granularity.from_dict(values) == granularity
    wrong = [None, "tensor", [], {}, {"kind": "other"}, {**values, "more": 1}, {**values, "kind": "channels"}]
    wrong += [{name: value for name, value in values.items() if name != left_out} for left_out in values]
    for other in wrong:
        with pytest.raises(TypeError, match=r"^somebody: granularity must be what Granularity\.to_dict returns; got "):
            Granularity.from_dict(other, "somebody")


def test_onnx_names():
    pairs = [granularity.axis_block for granularity in ALL if granularity != qn.PerRow()]
    assert pairs == [(None, None), (0, None), (-2, None), (-1, 32), (0, 5)]
    with pytest.raises(NotImplementedError):
        _ = qn.PerRow().axis_block


def test_fields_of_any_integer_type():
    assert qn.PerChannel(np.int64(1)) == qn.PerChannel(1)
    assert type(qn.PerGroup(np.uint8(32), np.int32(-1)).group_size) is int
    assert qn.PerGroup(32).axis == -1
    assert qn.PerGroup(group_size=32, axis=0) == qn.PerGroup(32, 0)


def test_equality_and_hash():
    for k, one in enumerate(ALL):
        for m, other in enumerate(ALL):
            assert (one == other) == (k == m)
    assert len({*ALL, *map(copy.deepcopy, ALL)}) == len(ALL)
    assert qn.PerTensor() != None  # noqa: E711
    assert qn.PerChannel(0) != 0


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_repr_pickle_and_copies(granularity):
    assert isinstance(granularity, Granularity)
    assert eval(repr(granularity), vars(qn).copy()) == granularity
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(granularity, protocol)) == granularity
    assert copy.copy(granularity) == copy.deepcopy(granularity) == granularity


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_frozen(granularity):
    for name in ("axis", "group_size", "other"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(granularity, name, 1)


def test_axis_and_group_size_are_none_where_there_is_none():
    """As Granularity's docstring says."""
    assert (qn.PerTensor().axis, qn.PerTensor().group_size) == (None, None)
    assert qn.PerChannel(1).group_size is None


def test_the_base_class_is_none_itself():
    for call in (lambda: Granularity().params_shape((2,)), lambda: Granularity().grid((2,))):
        with pytest.raises(NotImplementedError):
            call()
