"""qnumpy.torch.Config: defaults that follow from the type, patterns, and what it refuses."""

import copy
import pickle
import re

import pytest
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config

pytestmark = pytest.mark.peers


def exactly(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("int8", qn.PerChannel(0), True, "minmax")),
        ({"dtype": "int4"}, ("int4", qn.PerGroup(32), False, "mse")),
        ({"dtype": "uint8"}, ("uint8", qn.PerChannel(0), True, "minmax")),
        ({"dtype": "float8_e4m3fn"}, ("float8_e4m3fn", qn.PerChannel(0), True, "minmax")),
        ({"dtype": "mxfp4"}, ("mxfp4", None, True, "minmax")),
        ({"dtype": "int4", "method": "offsets"}, ("int4", qn.PerGroup(32), False, "offsets")),
        ({"dtype": "int4", "symmetric": "full"}, ("int4", qn.PerGroup(32), "full", "mse")),
        ({"method": "offsets", "granularity": qn.PerGroup(64)}, ("int8", qn.PerGroup(64), False, "offsets")),
    ],
)
def test_defaults_follow_from_the_type(given, expected):
    config = Config(**given)
    assert (config.dtype, config.granularity, config.symmetric, config.method) == expected


def test_codes_of_floats_multiply_x_as_it_is():
    assert Config().quantizes_x
    assert not Config(dtype="mxfp4").quantizes_x
    assert not Config(dtype="float8_e5m2").quantizes_x
    assert Config(dtype="float8_e5m2").options_of_x() == {}


def test_is_a_value():
    config = Config(include="a*", overrides={"b": Config(dtype="int4"), "c": None})
    assert config.include == ("a*",)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        assert hash(other) == hash(config)
    with pytest.raises(AttributeError):
        config.mode = "static"


def test_patterns_select_by_name_and_class():
    linear, conv = nn.Linear(2, 2), nn.Conv1d(1, 1, 1)
    assert Config().of("a.b", linear) is not None
    for pattern in ("a.b", "a.*", "Lin*", "Linear", "[ab].?"):
        assert Config(include=pattern).of("a.b", linear) is not None
        assert Config(exclude=["x", pattern]).of("a.b", linear) is None
    assert Config(include="Linear").of("a.b", conv) is None
    assert Config(include="*", exclude="Conv*").of("a.b", conv) is None


def test_the_first_override_that_matches_counts():
    narrow = Config(dtype="int4")
    config = Config(include="b.*", overrides={"a.0": None, "a.*": narrow})
    assert config.of("a.0", nn.Linear(2, 2)) is None
    assert config.of("a.1", nn.Linear(2, 2)) is narrow
    assert config.of("b.1", nn.Linear(2, 2)) is config
    assert config.of("c", nn.Linear(2, 2)) is None


CODES = (
    "int8, uint8, int7, uint7, int6, uint6, int5, uint5, int4, uint4, int3, uint3, int2, uint2, float8_e4m3fn, "
    "float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, float4_e2m1fn, mxfp8_e4m3, mxfp8_e5m2, mxfp6_e2m3, mxfp6_e3m2, "
    "mxfp4 or nvfp4"
)
REFUSED = [
    ({"mode": "qat"}, ValueError, "mode must be one of 'dynamic', 'static', 'weights'; got 'qat'."),
    ({"dtype": "int16"}, TypeError, f"dtype must be {CODES}; got 'int16'."),
    ({"granularity": 32}, TypeError, "granularity must be PerTensor(), PerChannel(0) or PerGroup(group_size); got 32."),
    (
        {"granularity": qn.PerChannel(1)},
        ValueError,
        "granularity must be PerChannel(0) or PerGroup(group_size, -1), of weights (outputs, inputs); got "
        "PerChannel(axis=1).",
    ),
    (
        {"dtype": "mxfp4", "granularity": qn.PerGroup(32)},
        ValueError,
        "granularity must be left out for 'mxfp4', whose blocks are given; got PerGroup(group_size=32, axis=-1).",
    ),
    (
        {"method": "awq"},
        ValueError,
        "method must be one of 'minmax', 'mse', 'hqq', 'gptq', 'offsets'; got 'awq'.",
    ),
    ({"dtype": "nvfp4", "method": "gptq"}, ValueError, "method must be 'minmax' for nvfp4; got 'gptq'."),
    ({"symmetric": 1}, TypeError, "symmetric must be True or False; got 1."),
    (
        {"dtype": "float8_e5m2", "symmetric": False},
        ValueError,
        "symmetric must be True for float8_e5m2, which has no zero point; got False.",
    ),
    (
        {"dtype": "int4", "method": "offsets", "symmetric": True},
        ValueError,
        "symmetric must be False for the method 'offsets'; got True.",
    ),
    (
        {"method": "offsets"},
        ValueError,
        "granularity must be PerGroup for the method 'offsets'; got PerChannel(axis=0).",
    ),
    (
        {"method": "gptq", "granularity": qn.PerTensor()},
        ValueError,
        "granularity must be PerChannel(0) or PerGroup for the method 'gptq'; got PerTensor().",
    ),
    (
        {"observer": "best"},
        ValueError,
        "observer must be one of 'minmax', 'moving_average', 'mse', 'entropy', 'percentile'; got 'best'.",
    ),
    ({"x_symmetric": None}, TypeError, "x_symmetric must be True or False; got None."),
    ({"smooth": 0.5}, TypeError, "smooth must be True or False; got 0.5."),
    ({"hadamard": "yes"}, TypeError, "hadamard must be True or False; got 'yes'."),
    (
        {"x_granularity": qn.PerChannel(0)},
        TypeError,
        "x_granularity must be PerRow(), PerTensor() or PerGroup(group_size); got PerChannel(axis=0).",
    ),
    (
        {"mode": "static", "x_granularity": qn.PerRow()},
        ValueError,
        "x_granularity must be PerTensor() or None for the mode 'static'; got PerRow().",
    ),
    ({"activation_bits": 4}, ValueError, "activation_bits must be 8 or 7; got 4."),
    ({"activation_bits": 8.0}, TypeError, "activation_bits must be an integer; got 8.0."),
    ({"damping": -1}, ValueError, "damping must be in [0, 1000000]; got -1."),
    ({"include": 3}, TypeError, "include must be names of modules or classes, with * for any text; got 3."),
    (
        {"exclude": ["a", None]},
        TypeError,
        "exclude must be names of modules or classes, with * for any text; got ['a', None].",
    ),
    ({"overrides": ["a"]}, TypeError, "overrides must be a dict of patterns to Config or None; got ['a']."),
    ({"overrides": {1: None}}, TypeError, "overrides must be a dict of patterns to Config or None; got the key 1."),
    ({"overrides": {"a": "int4"}}, TypeError, "overrides['a'] must be a Config or None; got 'int4'."),
    (
        {"overrides": {"a": Config(exclude="b")}},
        ValueError,
        "overrides['a'] must be a Config without include, exclude and overrides; got one with them.",
    ),
]


@pytest.mark.parametrize(("given", "error", "sentence"), REFUSED)
def test_refuses(given, error, sentence):
    with pytest.raises(error, match=exactly(f"Config: {sentence}")):
        Config(**given)


def test_patterns_must_match_a_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    Config(include="1.*", exclude=["ReLU", "1.1"], overrides={"0": None}).check_patterns("convert", model)
    expected = (
        "convert: config.exclude must be patterns that each match a module's name or class; got 'linear_2'. There are "
        "'Sequential', 'Linear', 'ReLU', '0', '1', '1.0', '1.1'."
    )
    with pytest.raises(ValueError, match=exactly(expected)):
        Config(exclude="linear_2").check_patterns("convert", model)
    close = (
        "convert: config.overrides must be patterns that each match a module's name or class; got 'linea*'. There are "
        "'Linear'."
    )
    with pytest.raises(ValueError, match=exactly(close)):
        Config(overrides={"linea*": None}).check_patterns("convert", model)
