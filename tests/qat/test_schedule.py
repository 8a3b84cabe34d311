"""The schedule: which type and whether frozen, epoch by epoch."""

import re

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import qat

X = np.linspace(-1, 1, 101, dtype=np.float32)


def seen(*arguments, **options):
    quantizer = qat.LearnedScale(*arguments, **options)
    quantizer(X)
    return quantizer


def test_types_by_epoch():
    schedule, quantizer = qat.Schedule({2: "int4", 0: "int8", 5: "int2"}), seen("int8")
    got = []
    for epoch in range(7):
        schedule.begin_epoch(epoch, [quantizer])
        got.append(quantizer.dtype)
    assert got == ["int8", "int8", "int4", "int4", "int4", "int2", "int2"]
    assert not quantizer.frozen


def test_before_the_first_epoch_of_the_table_the_type_stays():
    schedule, quantizer = qat.Schedule({3: "int4"}), seen("int16")
    schedule.begin_epoch(2, [quantizer])
    assert quantizer.dtype == "int16"


def test_training_that_continues_later_is_in_the_right_epoch():
    quantizer = seen("int8")
    qat.Schedule({0: "int8", 3: "int6", 5: "int3"}).begin_epoch(100, [quantizer])
    assert quantizer.dtype == "int3"


def test_unsigned_quantizers_get_the_unsigned_type():
    quantizers = [seen("uint8", symmetric=False), seen("int8")]
    qat.Schedule({1: "int4"}).begin_epoch(1, quantizers)
    assert [quantizer.dtype for quantizer in quantizers] == ["uint4", "int4"]


def test_the_same_type_again_changes_no_scale():
    quantizer = seen("int4")
    before = quantizer.scale.copy()
    for epoch in range(3):
        qat.Schedule({0: "int4"}).begin_epoch(epoch, [quantizer])
    assert_same_bits(quantizer.scale, before)


def test_freeze():
    quantizer, simulated = seen("int8"), qat.FakeQuantize()
    simulated(X)
    schedule = qat.Schedule(freeze=3)
    schedule.begin_epoch(2, [quantizer, simulated])
    assert not quantizer.frozen
    assert simulated.observes
    schedule.begin_epoch(3, [quantizer, simulated])
    assert quantizer.frozen
    assert not simulated.observes
    assert quantizer.dtype == "int8"


def test_a_quantizer_with_an_observer_keeps_its_type():
    simulated = qat.FakeQuantize(qn.MinMaxObserver(dtype="int8"))
    qat.Schedule({0: "int4"}).begin_epoch(1, [simulated])
    simulated(X)
    assert simulated.qparams().dtype == np.int8


def test_nothing_to_do():
    quantizer = seen("int8")
    qat.Schedule().begin_epoch(9, iter([quantizer]))
    qat.Schedule({0: "int4"}, freeze=0).begin_epoch(0, [])
    assert (quantizer.dtype, quantizer.frozen) == ("int8", False)


@pytest.mark.parametrize(
    ("arguments", "error", "want"),
    [
        ({"dtypes": ["int4"]}, TypeError, "dtypes must be a mapping of epochs to types; got ['int4']."),
        ({"dtypes": {"1": "int4"}}, TypeError, "dtypes must be an integer; got '1'."),
        ({"dtypes": {-1: "int4"}}, ValueError, "dtypes must be at least 0; got -1."),
        ({"freeze": -2}, ValueError, "freeze must be at least 0; got -2."),
        ({"freeze": True}, TypeError, "freeze must be an integer; got True."),
    ],
)
def test_refusals(arguments, error, want):
    with pytest.raises(error, match=f"^Schedule: {re.escape(want)}$"):
        qat.Schedule(**arguments)


def test_more_refusals():
    with pytest.raises(TypeError, match=r"^Schedule: dtype must be .*; got 'float32'\. qnumpy"):
        qat.Schedule({0: "float32"})
    with pytest.raises(ValueError, match=r"^Schedule\.begin_epoch: epoch must be at least 0; got -1\.$"):
        qat.Schedule().begin_epoch(-1, [])
