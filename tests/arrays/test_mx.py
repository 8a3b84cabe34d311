"""MXArray: blocks against the NumPy twin, against torchao's blocks, and against the words of the specification."""

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from refusals import REALS, Q, X, assert_refused, refusals
from strategies import LAYOUTS, ROWS, SOURCES, assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin
from qnumpy.arrays.mx import MX_FORMATS
from qnumpy.dtypes import float_type
from qnumpy.testing.floats import unpacked

TORCHAO = Path(__file__).parents[1] / "fixtures" / "mx_torchao.npz"
POWERS = [name for name, mx in MX_FORMATS.items() if not mx.has_tensor_scale]


def hard(shape, source, seed=0, spread=8):
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread, (*shape[:-1], 1))
    x = np.where(rng.random(shape) < 0.3, np.round(x * 4) / 4, x)  # ties
    x = np.where(rng.random(shape) < 0.03, rng.choice([0.0, -0.0, np.inf, -np.inf, 1e-42]), x)
    x = np.where(rng.random(shape) < 0.003, np.nan, x)
    with np.errstate(over="ignore"):
        return x.astype(source)


def twin_of(x, q):
    format = MX_FORMATS[q.format]
    types = float_type(x.dtype), q.element, format.scale
    held, scales = twin.quantize_blocks(x, *types, q.group_size, q.tensor_scale)
    return unpacked(held, q.element, x.shape[-1]), scales


def assert_like_twin(x, name, about=""):
    q = qn.quantize(x, dtype=name)
    codes, scales = twin_of(x, q)
    assert_same_bits(q.scales, scales, about)
    assert_same_bits(q.codes, codes, about)
    return q


@pytest.mark.parametrize("name", MX_FORMATS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_size(source, name):
    for n in [*range(71), 2048, 2050, 4097]:
        x = hard((3, n), SOURCES[source])
        if (source, name) == ("float64", "nvfp4"):
            assert_nearest_quotients(x, f"n = {n}")
        else:
            assert_like_twin(x, name, f"n = {n}")


def assert_nearest_quotients(x, about):
    """NVFP4 divides float64 as float32: the nearest code, except within 2^-22 of a tie, where no quotient of x lies."""
    q = qn.quantize(x, dtype="nvfp4")
    _, scales = twin_of(x, q)
    assert_same_bits(q.scales, scales, about)
    each = np.repeat(q.scales.astype(np.float64) * q.tensor_scale, 16, -1)[..., : x.shape[-1]]
    with np.errstate(invalid="ignore"):
        quotient = x / each
    assert_same_bits(q.codes, qn.cast(quotient, "float4_e2m1fn", overflow="saturate"), about)


@pytest.mark.parametrize("name", MX_FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, name):
    x = hard((4, 5, 70), np.float32)
    want = assert_like_twin(x, name)
    got = qn.quantize(LAYOUTS[layout](x), dtype=name)
    assert got == want
    assert got.codes.flags.c_contiguous


@pytest.mark.parametrize("name", MX_FORMATS)
def test_threads_and_rows_do_not_show(name):
    x = hard((40, 7777), np.float32)
    with qn.threads(2):
        want = qn.quantize(x, dtype=name)
    values = want.dequantize()
    active = qn.isa()
    try:
        for row in ROWS:
            qn.set_isa(row)
            with qn.threads(1):
                assert qn.quantize(x, dtype=name) == want
                assert_same_bits(want.dequantize(), values)
    finally:
        qn.set_isa(active)


@pytest.mark.parametrize("name", MX_FORMATS)
def test_against_torchao(name):
    with np.load(TORCHAO) as fixture:
        x = fixture["nvfp4.x" if name == "nvfp4" else "x"]
        codes, scales = fixture[f"{name}.codes"], fixture[f"{name}.scales"]
        unit = fixture["nvfp4.tensor_scale"]
    q = qn.quantize(x, dtype=name)
    assert name != "nvfp4" or q.tensor_scale == unit
    np.testing.assert_array_equal(q.scales.view(np.uint8), scales)
    np.testing.assert_array_equal(q.codes.view(np.uint8), codes)


@pytest.mark.parametrize("name", POWERS)
def test_the_words_of_the_specification(name):
    """Section 6.3: the scale is the largest power of two in the block over that of the element type; then each element
    is the nearest of its type, clamped."""
    mx = MX_FORMATS[name]
    largest = float(ml_dtypes.finfo(mx.element.dtype).max)
    top = np.floor(np.log2(largest))
    x = hard((20, 64), np.float32)
    x[~np.isfinite(x)] = 1
    q = qn.quantize(x, dtype=name)
    blocks = x.reshape(20, 2, 32).astype(np.float64)
    most = np.abs(blocks).max(-1)
    np.testing.assert_array_equal(q.scale, 2.0 ** (np.floor(np.log2(most)) - top))
    with np.errstate(over="ignore", invalid="ignore"):
        element = (blocks / q.scale[..., None].astype(np.float64)).astype(np.float32)  # exact
    clamped = np.clip(element, -largest, largest).astype(mx.element.dtype).reshape(20, 64)
    assert_same_bits(q.codes, clamped)


@pytest.mark.parametrize("name", MX_FORMATS)
def test_dequantize(name):
    q = qn.quantize(hard((3, 77), np.float32), dtype=name)
    scale = np.repeat(q.scale, q.group_size, -1)[:, :77]
    want = q.codes.astype(np.float32) * scale
    for dtype in SOURCES.values():
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_array_equal(q.dequantize(dtype), want.astype(dtype))
    if name in POWERS:  # exact: a power of two
        np.testing.assert_array_equal(want.astype(np.float64), q.codes.astype(np.float64) * scale.astype(np.float64))
    np.testing.assert_array_equal(np.asarray(q), want)
    np.testing.assert_array_equal(qn.dequantize(q), want)
    out = np.empty((3, 77), np.float32)
    assert q.dequantize(out=out) is out


@pytest.mark.parametrize("name", MX_FORMATS)
def test_what_a_format_holds_comes_back(name):
    """Every element times a scale is its own nearest."""
    mx = MX_FORMATS[name]
    codes = np.arange(1 << mx.element.bits).astype(np.uint8).view(mx.element.dtype)
    values = codes[np.isfinite(codes.astype(np.float32))].astype(np.float32)
    values = np.resize(values, (len(values), 64)) * np.float32(0.125)
    values[:, ::8] = float(mx.element.largest) / 8  # every block has the largest
    if name == "nvfp4":
        values *= 448 * 8  # a scale of 448, that of the tensor 1
    np.testing.assert_array_equal(qn.quantize(values, dtype=name).dequantize(), values)


@pytest.mark.parametrize("name", MX_FORMATS)
def test_what_is_not_finite(name):
    block = MX_FORMATS[name].group_size
    x = np.ones((4, 2 * block), np.float32)
    x[0, 3], x[1, 3], x[2, : 2 * block] = np.nan, -np.inf, np.inf
    back = qn.quantize(x, dtype=name).dequantize()
    assert np.isnan(back[0, :block]).all()  # the block, and no other
    assert np.isfinite(back[0, block:]).all()
    q = qn.quantize(x, dtype=name)
    assert q.codes[1, 3] == -MX_FORMATS[name].element.largest  # saturated
    np.testing.assert_array_equal(np.delete(back[1], 3), 1)
    assert (q.codes[2] == MX_FORMATS[name].element.largest).all()  # with nothing finite: the smallest scale
    assert q.scales.view(np.uint8)[2].tolist() == [1 if name == "nvfp4" else 0] * 2


def test_ends_of_the_scales():
    tiny = qn.quantize(np.full(32, 1e-45, np.float32), dtype="mxfp4")
    assert float(tiny.scale[0]) == 2.0**-127
    huge = qn.quantize(np.full(32, np.finfo(np.float32).max), dtype="mxfp4")
    assert float(huge.scale[0]) == 2.0**125
    assert np.isfinite(huge.dequantize()).all()
    assert qn.quantize(np.zeros(16, np.float32), dtype="nvfp4").tensor_scale == 1
    assert not qn.quantize(np.zeros((3, 40), np.float32), dtype="mxfp6_e2m3").dequantize().any()


@pytest.mark.parametrize("name", MX_FORMATS)
def test_empty(name):
    for shape in ((0,), (0, 64), (3, 0), (2, 0, 5)):
        q = qn.quantize(np.zeros(shape, np.float32), dtype=name)
        assert q.shape == q.dequantize().shape == shape
        assert str(shape) in repr(q)


@pytest.mark.parametrize("name", MX_FORMATS)
def test_as_an_object(name, tmp_path):
    x = hard((6, 70), np.float32)
    x[~np.isfinite(x)] = 0
    q = qn.quantize(x, dtype=name)
    assert pickle.loads(pickle.dumps(q)) == q
    assert q == qn.MXArray(q.codes, q.scales, name, q.tensor_scale)
    assert q != qn.quantize(-x, dtype=name)
    assert q != 3
    with pytest.raises(TypeError):
        q + 1  # nothing dequantizes silently
    whole = q.dequantize()
    for key in (
        2,
        slice(1, 5),
        (slice(None), slice(32, 70)),
        (..., slice(0, 64)),
        (slice(None, None, -2), slice(64, None)),
    ):
        part = q[key]
        np.testing.assert_array_equal(part.dequantize(), whole[key])
        assert part.format == name
    assert [row.shape for row in q] == [(70,)] * 6
    for suffix in ("npz", "safetensors"):
        path = tmp_path / f"w.{suffix}"
        qn.save(path, {"w": q, "row": q[0]})
        back = qn.load(path)
        assert back["w"] == q
        assert back["row"] == q[0]
    assert q.format in q._repr_html_()
    assert q.nbytes == 6 * -(-70 * q.element.bits // 8) + q.scales.nbytes + (4 if name == "nvfp4" else 0)


@pytest.mark.parametrize("name", MX_FORMATS)
def test_compare(name):
    x = np.random.default_rng(0).standard_normal((33, 200)).astype(np.float32)
    q = qn.quantize(x, dtype=name)
    report = qn.compare(x, q, per_channel=True)
    error = x.astype(np.float64) - q.dequantize()
    assert report.mse == pytest.approx(np.mean(error**2), rel=1e-12)
    assert report.max_abs_error == np.abs(error).max()
    assert (report.dtype, report.granularity) == (name, f"per group {q.group_size}")
    assert report.nbytes_after == q.nbytes
    assert report.codes_used == len(np.unique(q.codes.view(np.uint8))) <= report.levels
    scale = np.repeat(q.scale, q.group_size, -1)[:, :200].astype(np.float64)
    assert report.clipped == np.mean(np.abs(x) > scale * q.element.overflow)
    assert len(report.channels) == 33


def test_more_bits_are_closer():
    x = np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32)
    figures = {name: qn.compare(x, qn.quantize(x, dtype=name)).sqnr_db for name in MX_FORMATS}
    assert figures["mxfp4"] < figures["nvfp4"] < figures["mxfp6_e3m2"] < figures["mxfp8_e4m3"]


def block_rows():
    """MXArray and the formats of quantize."""
    q = qn.quantize(np.ones((2, 64), np.float32), dtype="mxfp4")
    names = "mxfp8_e4m3, mxfp8_e5m2, mxfp6_e2m3, mxfp6_e3m2, mxfp4 or nvfp4"
    for value in ("mxfp5", None, 4, ["mxfp4"]):
        fine = f"MXArray: format must be {names}; got {value!r}"
        yield lambda v=value: qn.MXArray(q.codes, q.scales, v), ValueError, fine
    fine = "MXArray: codes must be an array of float4_e2m1fn; got dtype int8"
    yield lambda: qn.MXArray(Q, q.scales, "mxfp4"), TypeError, fine
    fine = "MXArray: scales must be an array of float8_e8m0fnu; got dtype float32"
    yield lambda: qn.MXArray(q.codes, q.scale, "mxfp4"), TypeError, fine
    yield (
        lambda: qn.MXArray(q.codes[0, 0], q.scales, "mxfp4"),
        ValueError,
        "MXArray: codes must be at least 1-D; got a 0-d array",
    )
    fine = "MXArray: scales must be of shape (2, 2); got shape (2,)"
    yield lambda: qn.MXArray(q.codes, q.scales[0], "mxfp4"), ValueError, fine
    fine = "MXArray: tensor_scale must be left out for mxfp4; got 1.0"
    yield lambda: qn.MXArray(q.codes, q.scales, "mxfp4", 1.0), ValueError, fine
    nv = qn.quantize(np.ones(32, np.float32), dtype="nvfp4")
    fine = "MXArray: tensor_scale must be given for nvfp4; got None"
    yield lambda: qn.MXArray(nv.codes, nv.scales, "nvfp4"), ValueError, fine
    fine = "MXArray: tensor_scale must be positive, finite and normal in float32; got 0"
    yield lambda: qn.MXArray(nv.codes, nv.scales, "nvfp4", 0), ValueError, fine
    fine = "MXArray: tensor_scale must be one number; got shape (2,)"
    yield lambda: qn.MXArray(nv.codes, nv.scales, "nvfp4", [1, 1]), ValueError, fine
    whole = "MXArray: index must be whole blocks of 32 on the last axis; got"
    for key in (3, slice(1, 33), slice(0, 31), slice(None, None, 2)):
        yield lambda k=key: q[:, k], ValueError, f"{whole} {key!r}"
    keys = "integers, slices, None, ... and arrays of integers or booleans"
    yield lambda: q["a"], TypeError, f"MXArray: index must be of {keys}; got 'a'"
    moved = "MXArray.transpose: axes must be such that the last axis, that of the blocks, stays last; got (1, 0)"
    yield lambda: q.T, ValueError, moved
    shapes = "MXArray.reshape: shape must be one that the parameters of shape (2, 64), blocks of 32, follow"
    yield lambda: q.reshape(4, 2, 16), ValueError, f"{shapes}; got (4, 2, 16)"
    yield lambda: q.dequantize("int8"), TypeError, f"MXArray.dequantize: dtype must be {REALS}; got 'int8'"
    yield (
        lambda: np.asarray(q, copy=False),
        ValueError,
        "MXArray: copy must be None or True; got False. Dequantizing always copies",
    )
    yield (
        lambda: qn.quantize(1.0, dtype="mxfp4"),
        ValueError,
        "quantize: x must be at least 1-D for mxfp4; got a 0-d array",
    )
    yield lambda: qn.quantize(Q, dtype="nvfp4"), TypeError, f"quantize: x must be an array of {REALS}; got dtype int8"
    for options in ({"granularity": qn.PerTensor()}, {"symmetric": False}):
        got = {"granularity": None, "symmetric": None} | options
        got = f"granularity={got['granularity']}, symmetric={got['symmetric']}, method=None"
        fine = f"quantize: granularity, symmetric and method must be left at their defaults for mxfp4; got {got}"
        yield lambda g=options: qn.quantize(X, dtype="mxfp4", **g), ValueError, fine
    fine = "quantize: x must be of a range that float32 holds; got 1e+300"
    yield lambda: qn.quantize(np.array([1e300]), dtype="nvfp4"), ValueError, fine


@refusals(block_rows())
def test_refusals(call, exception, message):
    assert_refused(call, exception, message)
