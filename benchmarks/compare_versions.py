"""Compares the results of two installed versions of qnumpy: thousands of calls of the public API, hashed.

Run: ``python benchmarks/compare_versions.py OLD_PYTHON NEW_PYTHON``, or as ``python -m benchmarks.compare_versions``

OLD_PYTHON and NEW_PYTHON are interpreters that have one version each. Both run this file on inputs of fixed seeds,
outside the checkout, and print a line ``name sha256`` for each call. A name consists of an area, the instruction set
(for the calls that depend on it) and the arguments. The interpreter that compares needs NumPy and ml_dtypes.

The hash of an array covers dtype, shape and bytes in C order; that of an object covers its public arrays and figures;
that of an exception covers its type. The results must be equal; a call that one version lacks counts as a difference
("absent"). Differences in three areas are printed and not counted: "errors", the messages of exceptions; "texts", the
text of reports and representations; "retired", functions that later versions lack. The exit status is 1 if a result
differs.
"""

# ruff: noqa: B023  the caller calls each lambda before the loop continues

import argparse
import hashlib
import importlib
import inspect
import itertools
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

CHILD = sys.argv[1:] == ["--child"]
qn: Any = importlib.import_module("qnumpy") if CHILD else None

Array = np.ndarray[Any, Any]
Call = tuple[str, Callable[[], Any]]
UNCOUNTED = ("errors", "retired", "texts")  # areas whose differences do not fail

INTEGERS = ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
FLOAT_CODES = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn")
CODES = INTEGERS + FLOAT_CODES
REALS = ("float32", "float64", "float16", "bfloat16")
FORMATS = (*REALS, *FLOAT_CODES, "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn")
BLOCKS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "nvfp4")
METHODS = ("minmax", "mse", "entropy", "percentile")
CONVENTIONS = ("onnx", "guide", "torch", "tflite")
BOTH = (False, True)

# ---- names and parameters that moved between versions ----

HOMES = ("", "weights", "reports")


class AbsentError(Exception):
    """This version has no such name."""


touched: set[str] = set()


def api(name: str) -> Any:
    """A public object of the top level, or of a module that holds specialists' names."""
    touched.add(name)
    for home in HOMES:
        module = getattr(qn, home, None) if home else qn
        if hasattr(module, name):
            return getattr(module, name)
    raise AbsentError(name)


def method(value: Any, name: str, *args: Any) -> Any:
    if not hasattr(value, name):
        raise AbsentError(name)
    return getattr(value, name)(*args)


def figure(observer: Any, name: str) -> Any:
    """A figure of a histogram: a method of the observer, or of its sketch."""
    if hasattr(observer, name) or not hasattr(observer, "sketch"):
        return method(observer, name)
    if name == "curve":
        code = qn.QParams(1.0, 0, observer.dtype).code
        kind = {"symmetric": observer.symmetric, "method": observer.method, "percentile": observer.percentile}
        return observer.sketch.curve(code, **kind)
    return method(observer.sketch, name)


def dynamic(x: Any, per: str, **kind: Any) -> Any:
    """Quantize with parameters for each row. Their shape depends on the version, so they are returned flat."""
    if hasattr(qn, "PerRow"):
        touched.update(("dynamic_quantize", "PerRow"))
        q = qn.quantize(x, granularity=qn.PerRow() if per == "row" else qn.PerTensor(), **kind)
    else:
        q = api("dynamic_quantize")(x, per=per, **kind)
    return q.codes, q.scale.reshape(-1), q.zero_point.reshape(-1), q.dequantize()


def packed(w: Any, per: str | None = None, **options: Any) -> Any:
    """A PackedWeight; `per` is the granularity of x: "row", "tensor" or "group"."""
    cls = api("PackedWeight")
    if per is not None and "per" in inspect.signature(cls).parameters:
        options["per"] = per
    elif per is not None:
        group = partial(qn.PerGroup, w.granularity.group_size) if per == "group" else None
        options["x_granularity"] = {"row": qn.PerRow, "tensor": qn.PerTensor, "group": group}[per]()
    return cls(w, **options)


def parameters_round_trip(path: str, params: Mapping[str, Any]) -> Any:
    """Write parameters as JSON and read them, by functions of their own or by save and load."""
    touched.update(("save_qparams", "load_qparams"))
    save, load = (
        getattr(qn, name, None) or getattr(qn, name.split("_")[0]) for name in ("save_qparams", "load_qparams")
    )
    save(path, params)
    return load(path)


# ---- hashes ----


def parts(value: Any) -> Iterator[bytes]:
    """The parts of a result, as bytes."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        yield from parts(value.tolist())
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        yield f"{array.dtype.newbyteorder('=').name}{array.shape}".encode()
        yield array.astype(array.dtype.newbyteorder("="), order="C").tobytes()
    elif isinstance(value, Mapping) and not isinstance(value, qn.Calibration):
        for key in value:
            yield repr(key).encode()
            yield from parts(value[key])
    elif isinstance(value, (tuple, list)):
        yield f"[{len(value)}]".encode()
        for item in value:
            yield from parts(item)
    elif hasattr(value, "dtype") and hasattr(value, "qmin"):  # QParams
        by = value.granularity
        yield repr((np.dtype(value.dtype).name, type(by).__name__, by.axis, by.group_size)).encode()
        yield repr((value.qmin, value.qmax)).encode()
        yield from parts((value.scale, value.zero_point, value.symmetric, value.levels, value.nbytes, value.range()))
    elif hasattr(value, "codes"):  # QuantizedArray, MXArray
        yield from parts(value.codes)
        yield from parts(
            value.qparams if hasattr(value, "qparams") else (value.scales, value.tensor_scale, value.format)
        )
        yield from parts((value.scale, value.levels, value.nbytes, value.dequantize()))
    elif hasattr(value, "unpack"):  # PackedWeight
        yield from parts((value.shape, value.qparams, value.bias, value.unpack(), value.nbytes))
    elif hasattr(value, "to_dict"):  # the figures of a report; its sentences are texts
        yield from parts(figures(value.to_dict()))
    elif hasattr(value, "to_records"):
        yield from parts(figures(value.to_records()))
    else:
        yield repr(value).encode()


def figures(value: Any) -> Any:
    """A report without its sentences; of a granularity its axis and group size alone."""
    if isinstance(value, Mapping) and value and set(value) <= {"kind", "axis", "group_size"}:
        return value.get("axis"), value.get("group_size")
    if isinstance(value, Mapping):
        return {key: figures(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [figures(item) for item in value]
    return "a sentence" if isinstance(value, str) and " " in value else value


def digest(value: Any) -> str:
    total = hashlib.sha256()
    for part in parts(value):
        total.update(str(len(part)).encode())
        total.update(part)
    return total.hexdigest()


# ---- inputs ----


def generator(*key: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def typed(x: Array, name: str) -> Array:
    return x.astype(getattr(ml_dtypes, name, None) or name)


def reals(shape: Any, kind: str = "float32", *, hard: bool = False, seed: int = 0) -> Array:
    """Normal numbers with outliers; hard ones include NaN, infinities, both zeros, ties and subnormals."""
    rng = generator(shape, seed)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-3, 4, shape))
    if hard and x.size:
        values = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 0.5, 1.5, -2.5, 127.5, 3e38, -3e38, 65520]
        x.reshape(-1)[rng.integers(0, x.size, 3 * len(values))] = np.repeat(values, 3)
    with np.errstate(all="ignore"):
        return typed(x, kind)


def integers(shape: Any, kind: str, seed: int = 0) -> Array:
    info = ml_dtypes.iinfo(getattr(ml_dtypes, kind, None) or kind)  # type: ignore[no-untyped-call]
    high = min(int(info.max), (1 << 63) - 1)
    return typed(generator(shape, kind, seed).integers(int(info.min), high, shape, endpoint=True), kind)


def patterns(kind: str) -> Array:
    """Every bit pattern of a format of at most 16 bits, else random ones and the neighbours of ties."""
    dtype = typed(np.zeros(0), kind).dtype
    if dtype.itemsize <= 2:
        bits = {"float6_e2m3fn": 6, "float6_e3m2fn": 6, "float4_e2m1fn": 4}.get(kind, 8 * dtype.itemsize)
        return np.arange(1 << bits, dtype=f"u{dtype.itemsize}").view(dtype)
    rng = generator(kind)
    random = rng.integers(0, 1 << 8 * dtype.itemsize, 8192, dtype=f"u{dtype.itemsize}").view(dtype)
    ties = (rng.integers(-4096, 4096, 8192) / 8 * np.exp2(rng.integers(-30, 20, 8192).astype(float))).astype(dtype)
    with np.errstate(all="ignore"):
        return np.concatenate([random, ties, np.nextafter(ties, dtype.type(9e9)), np.nextafter(ties, dtype.type(-9e9))])


def layouts(x: Array) -> dict[str, Array]:
    """The same values in different memory layouts."""
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    order = (*range(1, x.ndim), 0)
    result = {
        "C": x,
        "F": np.asfortranarray(x),
        "strided": wide[..., ::2],
        "negative": np.flip(np.flip(x).copy()),
        "unaligned": unaligned,
        "readonly": frozen,
        "permuted": np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order)),
    }
    if x.dtype.kind in "fiu" and x.dtype.isbuiltin == 1:
        result["big-endian"] = x.astype(x.dtype.newbyteorder(">"))
    return result


def granularities() -> dict[str, Any]:
    return {
        "tensor": api("PerTensor")(),
        "channel0": api("PerChannel")(0),
        "channel-1": api("PerChannel")(-1),
        "group5": api("PerGroup")(5),
        "group16axis0": api("PerGroup")(16, 0),
    }


def linear_parameters(shape: tuple[int, ...], code: str, axis: int | None, block: int | None) -> tuple[Array, Array]:
    """Scale and zero point as the functions with ONNX's names take them."""
    size: tuple[int, ...] = ()
    if axis is not None:
        size = (shape[axis],)
        if block is not None:
            size = tuple(-(-n // block) if d == axis % len(shape) else n for d, n in enumerate(shape))
    rng = generator(shape, code, axis, block)
    scale = np.asarray(rng.uniform(0.003, 0.3, size), np.float32)
    limits = (0, 0) if code in FLOAT_CODES else (int(integers(64, code).min()), int(integers(64, code).max()))
    return scale, np.asarray(rng.integers(limits[0], limits[1] + 1, size), np.int32)


# ---- the calls; areas in ONCE do not depend on the instruction set ----

GRIDS = {"tensor": (None, None), "channel": (1, None), "last": (-1, None), "block": (-1, 4), "block0": (0, 3)}


def area_quantize_linear() -> Iterator[Call]:
    quantize, shape = api("quantize_linear"), (7, 5, 9)
    for code, (grid, (axis, block)), kind in itertools.product(CODES, GRIDS.items(), REALS):
        scale, zero = linear_parameters(shape, code, axis, block)
        place = {"dtype": code, "axis": axis, "block_size": block}
        x = reals(shape, kind, hard=True)
        for convention in CONVENTIONS if code in INTEGERS[:4] or kind == "float32" else CONVENTIONS[:1]:
            if code in FLOAT_CODES and convention != "onnx":
                continue
            options = {**place, "convention": convention}
            yield f"{code}/{grid}/{kind}/{convention}", lambda: quantize(x, scale, zero, **options)
        if kind == "float32":
            for layout, stored in layouts(x).items():
                yield f"{code}/{grid}/{layout}", lambda: quantize(stored, scale, zero, **place)
    for n, code in itertools.product((0, 1, 15, 16, 17, 31, 33, 63, 65, 70, 300), ("int8", "uint16", "int4")):
        yield f"{code}/length{n}", lambda: quantize(reals(n), 0.05, 1, dtype=code)
    yield "scalar", lambda: quantize(1.0, 0.1)
    yield "list", lambda: quantize([1.0, 2.5], 0.5, np.int8(3))
    yield "out", lambda: quantize(reals((9, 9)), 0.1, dtype="int8", out=np.empty((9, 9), np.int8))
    yield "nan", lambda: quantize([np.nan], 0.1, on_nan="raise")
    big = reals((600, 700))
    rows = linear_parameters(big.shape, "int8", 0, None)
    for count in (1, 2):
        with api("threads")(count):
            yield f"large/{count}", lambda: quantize(big, *rows, dtype="int8", axis=0)


def area_dequantize_linear() -> Iterator[Call]:
    dequantize, shape = api("dequantize_linear"), (7, 5, 9)
    for code, (grid, (axis, block)), kind in itertools.product((*CODES, "int32"), GRIDS.items(), REALS):
        q = typed(reals(shape), code) if code in FLOAT_CODES else integers(shape, code)
        scale, zero = linear_parameters(shape, code, axis, block)
        zero_point = None if code == "int32" else zero
        place = {"axis": axis, "block_size": block}
        yield f"{code}/{grid}/{kind}", lambda: dequantize(q, scale, zero_point, dtype=kind, **place)
        if kind == "float32":
            for layout, stored in layouts(q).items():
                yield f"{code}/{grid}/{layout}", lambda: dequantize(stored, scale, zero_point, **place)


def area_dynamic() -> Iterator[Call]:
    for kind, shape in itertools.product(REALS, ((0,), (1,), (70,), (6, 33), (3, 4, 20))):
        x, hard = reals(shape, kind), typed(np.clip(np.nan_to_num(reals(shape)), -9, 9), kind)
        yield f"linear/{kind}/{shape}", lambda: api("dynamic_quantize_linear")(x)
        for per, code, symmetric in itertools.product(("row", "tensor"), ("int8", "uint8", "int16", "uint4"), BOTH):
            options = {"dtype": code, "symmetric": symmetric}
            yield f"{per}/{kind}/{shape}/{code}/{symmetric}", lambda: dynamic(hard, per, **options)


def area_quantize() -> Iterator[Call]:
    quantize, choose = api("quantize"), api("choose_qparams")
    x = reals((6, 35))
    for code, (name, by), symmetric in itertools.product(CODES, granularities().items(), BOTH):
        options = {"dtype": code, "granularity": by, "symmetric": symmetric}
        for how in METHODS:
            yield f"{code}/{name}/{symmetric}/{how}", lambda: quantize(x, method=how, **options)
        yield f"choose/{code}/{name}/{symmetric}", lambda: choose(x, method="percentile", percentile=90, **options)
    for kind, (name, by), how in itertools.product(REALS, granularities().items(), METHODS):
        finite = typed(np.where(np.abs(y := reals((6, 35), hard=True)) > 1e30, 0, y), kind)
        for layout, stored in layouts(finite).items():
            yield f"{kind}/{name}/{how}/{layout}", lambda: quantize(stored, granularity=by, method=how)
    for block, kind, shape in itertools.product(BLOCKS, REALS, ((70,), (3, 64), (2, 3, 33), (0, 5))):
        for hard in BOTH:
            values = reals(shape, kind, hard=hard and block != "nvfp4")
            yield f"{block}/{kind}/{shape}/{hard}", lambda: quantize(values, dtype=block)
    for block, kind in itertools.product(BLOCKS, REALS):
        yield f"{block}/to/{kind}", lambda: api("dequantize")(quantize(reals((4, 70)), dtype=block), dtype=kind)
        for layout, stored in layouts(reals((4, 70), kind)).items():
            yield f"{block}/{kind}/{layout}", lambda: quantize(stored, dtype=block)
    yield "dequantize/bfloat16", lambda: api("dequantize")(quantize(x), dtype="bfloat16")
    yield "slice", lambda: quantize(x, granularity=api("PerGroup")(5))[1:4, 5:20]
    yield "mx/slice", lambda: quantize(reals((4, 96)), dtype="mxfp4")[1:3, 32:64]
    yield "mx/init", lambda: api("MXArray")(*(lambda q: (q.codes, q.scales, q.format))(quantize(x, dtype="mxfp4")))
    yield "pickle", lambda: [pickle.loads(pickle.dumps(quantize(x, dtype=code))) for code in ("int4", "mxfp4", "nvfp4")]
    yield "init", lambda: api("QuantizedArray")(quantize(x).codes, quantize(x).qparams)


def area_fake_quantize() -> Iterator[Call]:
    fake, x = api("fake_quantize"), reals((6, 35))
    for code, (name, by), symmetric in itertools.product(CODES, granularities().items(), BOTH):
        try:
            params = api("choose_qparams")(x, dtype=code, granularity=by, symmetric=symmetric)
        except ValueError:  # a float code that is not symmetric
            continue
        for kind, convention in itertools.product(REALS, CONVENTIONS if code in INTEGERS else CONVENTIONS[:1]):
            values = reals((6, 35), kind, hard=True)
            yield f"{code}/{name}/{symmetric}/{kind}/{convention}", lambda: fake(values, params, convention=convention)
        for layout, stored in layouts(x).items():
            yield f"{code}/{name}/{symmetric}/{layout}", lambda: fake(stored, params)


def area_requantize() -> Iterator[Call]:
    requantize = api("requantize")
    acc = integers((12, 21), "int32")
    accs = {"wide": acc, "narrow": acc >> 16, "ties": (acc >> 20) * 2 + 1}
    for code, how, (name, values) in itertools.product(INTEGERS, ("float", "fixed", "fixed_double"), accs.items()):
        for axis in (None, 0, 1):
            rng = generator(code, how, axis)
            multiplier = rng.uniform(1e-6, 0.9, () if axis is None else acc.shape[axis])
            zero = 1 if axis is None else rng.integers(0, 2, acc.shape[axis])
            options = {"dtype": code, "axis": axis, "method": how}
            yield f"{code}/{how}/{name}/{axis}", lambda: requantize(values, multiplier, zero, **options)
        yield f"{code}/{how}/{name}/half", lambda: requantize(values, 0.5, dtype=code, method=how)
        for layout, stored in layouts(values).items():
            yield f"{code}/{how}/{name}/{layout}", lambda: requantize(stored, 0.01, dtype=code, method=how)


def area_cast() -> Iterator[Call]:
    cast = api("cast")
    for source, target in itertools.product(FORMATS, FORMATS):
        x = patterns(source)
        for overflow in ("inf", "saturate", "raise"):
            yield f"{source}/{target}/{overflow}", lambda: cast(x, target, overflow=overflow)
        tame = typed(np.exp2(generator(source).integers(-2, 2, 40).astype(float)), source)
        yield f"{source}/{target}/tame", lambda: cast(tame, target, overflow="raise")
        sample = x[:: max(1, x.size // 4096)]
        yield f"{source}/{target}/stochastic", lambda: cast(sample, target, rounding="stochastic", seed=7)
    for source, target in itertools.product(REALS, FORMATS):
        for layout, stored in layouts(reals((5, 4, 9), source, hard=True)).items():
            yield f"{source}/{target}/{layout}", lambda: cast(stored, target)
            yield f"{source}/{target}/{layout}/stochastic", lambda: cast(stored, target, rounding="stochastic", seed=3)


def area_min_max() -> Iterator[Call]:
    for kind, (name, by), hard in itertools.product(REALS, granularities().items(), BOTH):
        for layout, stored in layouts(reals((6, 35), kind, hard=hard)).items():
            yield f"{kind}/{name}/{hard}/{layout}", lambda: api("min_max")(stored, by)
        yield f"{kind}/{name}/{hard}/raise", lambda: api("min_max")(stored, by, on_nonfinite="raise")


def area_retired() -> Iterator[Call]:
    """Functions that later versions lack."""
    for kind, (name, by) in itertools.product(REALS, granularities().items()):
        yield f"abs_max/{kind}/{name}", lambda: api("abs_max")(reals((6, 35), kind, hard=True), by)


def area_pack() -> Iterator[Call]:
    pack, unpack = api("pack"), api("unpack")
    for code, shape in itertools.product(("int4", "uint4", "int2", "uint2"), ((0,), (1,), (17,), (4, 33), (3, 5, 8))):
        for axis in range(-len(shape), len(shape)):
            codes, n = integers(shape, code), shape[axis]
            for layout, q in layouts(codes).items():
                yield f"{code}/{shape}/{axis}/{layout}", lambda: pack(q, code, axis)
            yield f"{code}/{shape}/{axis}/unpack", lambda: unpack(pack(codes, code, axis), code, n, axis)


def area_matmul() -> Iterator[Call]:
    matmul, qmatmul = api("matmul_integer"), api("qmatmul")
    sizes = ((1, 1, 1), (1, 70, 33), (5, 17, 16), (4, 64, 48), (33, 100, 65), (70, 257, 31), (3, 0, 4), (130, 300, 96))
    for left, right, (m, k, n) in itertools.product(("int8", "uint8", "int16"), ("int8", "uint8", "int16"), sizes):
        a, b = integers((m, k), left), integers((k, n), right)
        if "int16" in (left, right):
            a, b = a // 64, b // 64
        name = f"{left}/{right}/{m},{k},{n}"
        yield name, lambda: matmul(a, b)
        za, zb = (1, 2) if left == right else (generator(m).integers(0, 9, m), generator(n).integers(0, 9, n))
        yield f"{name}/zeros", lambda: matmul(a, b, za, zb)
        yield f"{name}/transposed", lambda: matmul(np.asfortranarray(a), np.asfortranarray(b), None, 3)
        yield f"{name}/vector", lambda: matmul(a[0], b)
    for layout, stored in layouts(integers((3, 9, 40), "int8")).items():
        yield f"stack/{layout}", lambda: matmul(stored, integers((40, 12), "int8"))
        yield f"stacks/{layout}", lambda: matmul(stored, integers((3, 40, 12), "uint8"), 1, 2)
    yield "overflow", lambda: matmul(np.full((1, 140000), -128, np.int8), np.full((140000, 1), -128, np.int8))
    yield "long", lambda: matmul(integers((2, 140000), "int8"), integers((140000, 3), "uint8"))
    for count in (1, 2):
        with api("threads")(count):
            yield f"large/{count}", lambda: matmul(integers((256, 512), "int8"), integers((512, 256), "int8"))
    for kind, into in itertools.product(
        ("float16", "bfloat16", "float32", "int8", "int16"), (None, "float32", "float16")
    ):
        a, b = (integers(s, kind) if "int" in kind else reals(s, kind) for s in ((2, 5, 40), (40, 7)))
        yield f"matmul/{kind}/{into}", lambda: api("matmul")(a, b, accumulate=into)
        yield f"matmul/{kind}/{into}/dot", lambda: api("matmul")(a[0, 0], b[:, 0], accumulate=into)
        yield f"accumulate_dot/{kind}/{into}", lambda: api("accumulate_dot")(a, b, into)
        hard = reals((4, 60), kind, hard=True)
        yield f"accumulate_dot/{kind}/{into}/hard", lambda: api("accumulate_dot")(hard, a[0, 0])
        yield f"accumulator/{kind}/{into}", lambda: api("accumulator")(kind)
    for left, right, symmetric in itertools.product(("int8", "uint8"), ("int8", "uint8"), BOTH):
        by_row, by_column = api("PerChannel")(0), api("PerChannel")(1)
        for name, left_by, right_by in (("tensor", None, None), ("channels", by_row, by_column)):
            qa = api("quantize")(reals((9, 40)), dtype=left, symmetric=symmetric, granularity=left_by)
            qb = api("quantize")(reals((40, 11)), dtype=right, symmetric=symmetric, granularity=right_by)
            out = api("QParams").from_range(-9, 9, dtype=left, symmetric=symmetric)
            label = f"{left}/{right}/{symmetric}/{name}"
            yield f"qmatmul/{label}", lambda: qmatmul(qa, qb)
            yield f"qmatmul/{label}/bias", lambda: qmatmul(qa, qb, bias=reals(11), out_qparams=out)
            yield f"qlinear/{label}", lambda: api("qlinear_matmul")(
                qa.codes, qa.scale, qa.zero_point, qb.codes, qb.scale, qb.zero_point, out.scale,
                out.zero_point.astype(left)
            )  # fmt: skip


def area_conv() -> Iterator[Call]:
    conv, qconv = api("conv2d_integer"), api("qlinear_conv2d")
    steps: tuple[dict[str, Any], ...] = (
        {}, {"strides": 2}, {"padding": 1}, {"padding": (2, 1), "dilations": 2}, {"strides": (1, 2), "padding": 2},
    )  # fmt: skip
    kernels = ((4, 3, 3), (7, 1, 1), (2, 5, 2))
    for left, right, (m, kh, kw), options in itertools.product(("int8", "uint8"), ("int8", "uint8"), kernels, steps):
        for groups in (1, 2) if m % 2 == 0 else (1,):
            x, w = integers((2, 6, 13, 17), left), integers((m, 6 // groups, kh, kw), right)
            full = {**options, "groups": groups}
            name = f"{left}/{right}/{m},{kh},{kw}/{'/'.join(f'{k}={v}' for k, v in full.items())}".replace(" ", "")
            yield name, lambda: conv(x, w, **full)
            yield f"{name}/zeros", lambda: conv(x, w, 3, generator(m).integers(0, 5, m), **full)
            bias = integers(m, "int32") >> 12
            scale = generator(m).uniform(0.001, 0.1, m).astype(np.float32)
            x_zero, w_zero, y_zero = np.ones((), left), np.zeros((), right), np.zeros((), left)
            yield f"{name}/qlinear", lambda: qconv(x, 0.02, x_zero, w, scale, w_zero, 0.5, y_zero, bias, **full)
    for layout, stored in layouts(integers((2, 4, 9, 9), "uint8")).items():
        yield f"layout/{layout}", lambda: conv(stored, integers((3, 4, 3, 3), "int8"), 7, padding=1)


def area_packed() -> Iterator[Call]:
    quantize, out = api("quantize"), api("QParams").from_range(-20, 20)
    columns = {"tensor": api("PerTensor")(), "channel": api("PerChannel")(1)}
    eight = ("int8", "uint8", "int4", "uint4")
    kinds: list[tuple[str, str, Any]] = [(name, code, by) for name, by in columns.items() for code in eight]
    kinds += [(f"group{g}", code, api("PerGroup")(g, 0)) for g in (16, 32, 64, 128) for code in ("int4", "uint4")]
    x_qparams = api("QParams").from_range(-4, 5, dtype="uint8", symmetric=False)
    for (name, code, by), symmetric, (k, n) in itertools.product(kinds, BOTH, ((70, 33), (128, 64), (1, 1))):
        w = quantize(reals((k, n)), dtype=code, granularity=by, symmetric=symmetric)
        groups = name.startswith("group")
        options: dict[str, dict[str, Any]] = {
            "plain": {},
            "bias": {"bias": reals(n), "clip": (0, 6)},
            "tensor": {"per": "tensor", "symmetric": False},
            "group" if groups else "row": {"per": "group" if groups else "row", "symmetric": False},
            "seven": {"activation_bits": 7},
            "fixed": {"x_qparams": x_qparams},
            "codes": {"x_qparams": x_qparams, "out_qparams": out, "bias": reals(n), "clip": (0, None)},
            "out": {"out_qparams": out},
        }
        if groups:
            options["half"] = {"scale_dtype": "float16"}
            options["by row"] = {"per": "row"}
        for option, keywords in options.items():
            label = f"{code}/{name}/{symmetric}/{k},{n}/{option}"
            yield f"{label}/packed", lambda: packed(w, **keywords)
            for rows, kind in ((1, "float32"), (5, "float16"), (70, "float32")):
                yield f"{label}/{rows},{kind}", lambda: reals((rows, k), kind) @ packed(w, **keywords)
        turned = quantize(np.ascontiguousarray(reals((k, n)).T), dtype=code)
        yield f"{code}/{name}/{symmetric}/{k},{n}/turned", lambda: reals((2, 4, k)) @ packed(turned, axis=1)
        for by_x in (api("PerTensor")(), api("PerChannel")(0)):
            x = quantize(reals((6, k)), dtype="uint8", symmetric=symmetric, granularity=by_x)
            yield f"{code}/{name}/{symmetric}/{k},{n}/of codes {by_x}", lambda: packed(w).matmul(x)
        yield f"{code}/{name}/{symmetric}/{k},{n}/pickle", lambda: pickle.loads(pickle.dumps(packed(w, bias=reals(n))))
    for layout, stored in layouts(reals((5, 6, 64))).items():
        yield f"layout/{layout}", lambda: stored @ packed(quantize(reals((64, 20)), granularity=api("PerChannel")(1)))


def area_saturation() -> Iterator[Call]:
    for left, right, (m, k, n) in itertools.product(
        ("int8", "uint8"), ("int8", "uint8"), ((1, 1, 1), (5, 33, 17), (9, 64, 32), (2, 0, 3))
    ):
        a, b = integers((m, k), left), integers((k, n), right)
        name = f"{left}/{right}/{m},{k},{n}"
        simulate, fields = partial(api("simulate_saturation"), a, b), ("product", "error", "pairs", "safe", "share")
        yield name, simulate
        yield f"{name}/arrays", lambda: [getattr(simulate(), field) for field in fields]
        yield f"{name}/safe", lambda: api("safe_weights")(b)
        yield f"{name}/safe/axis1", lambda: api("safe_weights")(a, axis=1)
    for code, symmetric, (name, by) in itertools.product(("int8", "uint8"), BOTH, granularities().items()):
        params = api("choose_qparams")(reals((6, 35)), dtype=code, symmetric=symmetric, granularity=by)
        yield f"reduce_range/{code}/{symmetric}/{name}", lambda: api("reduce_range")(params)


def observer_kinds() -> Iterator[tuple[str, Callable[[], Any]]]:
    schemes = itertools.product(("int8", "uint4", "float8_e4m3fn"), BOTH, granularities().items())
    for code, symmetric, (name, by) in schemes:
        if code in FLOAT_CODES and not symmetric:
            continue
        options = {"dtype": code, "symmetric": symmetric, "granularity": by}
        label = f"{code}/{symmetric}/{name}"
        yield f"MinMaxObserver/{label}", partial(api("MinMaxObserver"), **options)
        yield f"MovingAverage/{label}", partial(api("MovingAverageMinMaxObserver"), 0.1, **options)
        for how in METHODS[1:]:
            yield f"Histogram/{how}/{label}", partial(api("HistogramObserver"), how, 99, **options)


def area_observers() -> Iterator[Call]:
    batches = [reals((6, 35), kind, hard=True, seed=at) for at, kind in enumerate(REALS)]
    learned = ("min_", "max_", "count_", "nan_", "infinite_")
    estimates = ("error", "coverage", "mse", "mean_square", "apart", "curve", "bins")
    for label, create in observer_kinds():
        single = create()
        for batch in batches:
            single.observe(batch)
        yield f"{label}/qparams", lambda: single.qparams()
        yield f"{label}/range", lambda: single.range()
        yield f"{label}/learned", lambda: [getattr(single, name) for name in learned]
        for name in estimates if "Histogram" in label else ():
            yield f"{label}/{name}", lambda: figure(single, name)
        if "Average" not in label:
            yield f"{label}/merged", lambda: create().observe(batches[0]).merge(create().observe(batches[1])).qparams()
            yield f"{label}/refused", lambda: create().observe(batches[0]).merge(create().observe(reals((3, 2))))
        yield f"{label}/json", lambda: type(single).from_json(single.to_json()).qparams()
        yield f"{label}/pickle", lambda: pickle.loads(pickle.dumps(single)).qparams()
        yield f"{label}/nothing", lambda: create().qparams()
        yield f"{label}/texts", lambda: text(single)
    for n in (1, 40, 70000):
        for values, x in {"normal": reals(n), "few": np.round(reals(n)), "zero": np.zeros(n, np.float32)}.items():
            for how in METHODS:
                yield f"{values}/{n}/{how}", lambda: api("HistogramObserver")().observe(x).qparams(how)


def area_calibrate() -> Iterator[Call]:
    tap, w = api("tap"), reals((8, 4)).astype(np.float64)

    def run(x: Array) -> dict[str, Array]:
        tap("hidden", np.maximum((x[..., None] * w).sum(-2), 0))
        return {"x": x, "y": (x[..., None] * w).sum(-2) * 3}

    batches = [reals((16, 8), kind, seed=at).astype(np.float64) for at, kind in enumerate(REALS)]
    for label, create in observer_kinds():
        if "group16" in label:
            continue
        result = api("calibrate")(run, batches, create(), progress=False)
        yield f"{label}/qparams", lambda: dict(result)
        yield f"{label}/report", lambda: result.report()
        yield f"{label}/json", lambda: dict(api("Calibration").from_json(result.to_json()))
        if "Average" not in label:
            half = [api("calibrate")(run, part, create(), progress=False) for part in (batches[:2], batches[2:])]
            yield f"{label}/merge", lambda: dict(half[0].merge(half[1]))
        if "tensor" in label:
            yield f"{label}/texts", lambda: text(result.report())
    many = [reals((16, 8), seed=at % 3) for at in range(40)]
    yield "patience", lambda: api("calibrate")(run, many, patience=4, progress=False).batches
    with api("observing")() as watched:
        run(batches[0])
    yield "observing", lambda: dict(watched)


def area_reports() -> Iterator[Call]:
    compare, quantize, x = api("compare"), api("quantize"), reals((6, 35), hard=True)
    finite = np.where(np.isfinite(x), np.clip(x, -50, 50), 0)
    tables: list[Any] = []
    for code, (name, by) in itertools.product((*CODES, *BLOCKS), granularities().items()):
        options = {} if code in BLOCKS else {"granularity": by}
        q = quantize(finite, dtype=code, **options)
        for per_channel, values in itertools.product(BOTH, (finite, x)):
            label = f"{code}/{name}/{per_channel}/{values is x}"
            options = {"name": "w", "per_channel": per_channel, **({"axis": 1} if per_channel else {})}
            yield f"compare/{label}", lambda: compare(values, q, **options)
            yield f"compare/{label}/records", lambda: figures(compare(values, q, **options).to_records())
        yield f"compare/{code}/{name}/texts", lambda: text(compare(x, q, name="w"))
        tables.append(compare(finite, q))
    bias = ("bias", (3,), "float32", 12, "it is 1-D")
    yield "table", lambda: api("ReportTable")([*tables, api("Report").kept(*bias)])
    yield "table/totals", lambda: repr(api("ReportTable")(tables).totals)
    yield "table/texts", lambda: text(api("ReportTable")(tables))
    yield "compare/arrays", lambda: compare(finite, finite.astype(np.float16))
    for source, target in itertools.product(REALS, FORMATS):
        values = patterns(source)[::7] if source != "float64" else reals((90, 9), source, hard=True)
        yield f"float_report/{source}/{target}", lambda: api("float_report")(values, target)
        tame = reals((6, 9), source)
        yield f"float_report/{source}/{target}/tame", lambda: api("float_report")(tame, target, name="w")
        yield f"float_report/{source}/{target}/texts", lambda: text(api("float_report")(values, target))
    yield "float_table", lambda: api("FloatReportTable")([api("float_report")(reals((6, 9)), name) for name in FORMATS])
    for name in ("FloatReport", "Saturation", "Bits"):
        yield f"class/{name}", lambda: api(name).__name__
    for kind in (*FORMATS, *INTEGERS, "int32", "uint64"):
        values = patterns(kind)[:300] if "float" in kind else integers(90, kind)
        shown = api("bits")(values)
        for field in ("sign", "exponent", "mantissa", "fields"):
            yield f"bits/{kind}/{field}", lambda: getattr(shown, field)
        yield f"bits/{kind}/records", lambda: [list(record.values()) for record in shown.to_records()]
        yield f"bits/{kind}/texts", lambda: text(shown)


def area_weights() -> Iterator[Call]:
    for kind, power_of_two in itertools.product(REALS, BOTH):
        w1, w2, x = reals((12, 20), kind), reals((20, 9), kind, seed=1), reals((30, 20), kind, seed=2)
        label, two, equalize = f"{kind}/{power_of_two}", {"power_of_two": power_of_two}, api("cross_layer_equalize")
        yield f"{label}/equalize", lambda: tuple(equalize(w1, w2, reals(20, kind), **two))
        yield f"{label}/axes", lambda: tuple(equalize(w1.T, w2.T, axis1=0, axis2=1, **two))
        for alpha in (0.0, 0.5, 0.8, 1.0):
            yield f"{label}/smooth/{alpha}", lambda: tuple(api("smoothquant")(x, w2, alpha=alpha, **two))
        q = api("quantize")(w2, dtype="int4", granularity=api("PerChannel")(1))
        xq = typed(np.round(x.astype(float)), kind)
        yield f"{label}/bias", lambda: api("correct_bias")(x, w2, q, reals(9, kind))
        yield f"{label}/bias/xq", lambda: api("correct_bias")(x, w2, q, xq=xq)
        for code in ("int8", "uint4", "float8_e4m3fn"):
            alphas = partial(api("smoothquant_alpha"), x, w2, [0.2, 0.5, 0.7], dtype=code)
            yield f"{label}/alpha/{code}", lambda: tuple(alphas())


def area_qparams() -> Iterator[Call]:
    params = api("QParams")
    ranges = ((-1, 1), (0, 0), (-3, 0.5), (2, 5), (0, 1e-40), (-1e30, 3e37), (-1e-3, 7e4))
    for code, symmetric, (low, high) in itertools.product(CODES, BOTH, ranges):
        create: Callable[[], Any] = lambda: params.from_range(low, high, dtype=code, symmetric=symmetric)  # noqa: E731
        label = f"{code}/{symmetric}/{low},{high}"
        yield label, create
        yield f"{label}/dict", lambda: params.from_dict(create().to_dict())
        yield f"{label}/pickle", lambda: pickle.loads(pickle.dumps(create()))
        yield f"{label}/texts", lambda: text(create())
    for name, by in granularities().items():
        yield f"shape/{name}", lambda: (by.params_shape((6, 35)), by.axis, by.group_size)


def area_files() -> Iterator[Call]:
    folder = tempfile.mkdtemp(dir=".")
    arrays: dict[str, Any] = {f"real/{kind}": reals((4, 9), kind, hard=True) for kind in REALS}
    arrays |= {f"codes/{code}": integers((3, 7), code) for code in INTEGERS}
    for code, (name, by) in itertools.product(CODES, granularities().items()):
        arrays[f"{code}/{name}"] = api("quantize")(reals((6, 35)), dtype=code, granularity=by)
    arrays |= {code: api("quantize")(reals((6, 70)), dtype=code) for code in BLOCKS}
    params = {name: value.qparams for name, value in arrays.items() if hasattr(value, "qparams")}
    for suffix in (".safetensors", ".npz"):
        for name, value in arrays.items():
            path = os.path.join(folder, f"{zlib.crc32(name.encode())}{suffix}")
            yield f"{suffix}/{name}", lambda: (api("save")(path, {"w": value}), api("load")(path))[1]
        whole = os.path.join(folder, f"all{suffix}")
        yield f"{suffix}/all", lambda: (api("save")(whole, arrays), api("load")(whole))[1]
        yield f"{suffix}/broken", lambda: (Path(whole).write_bytes(b"1234"), api("load")(whole))[1]
    yield "qparams", lambda: parameters_round_trip(os.path.join(folder, "params.json"), params)


def area_machine() -> Iterator[Call]:
    yield "isa", lambda: api("isa")()
    yield "threads", lambda: (api("set_num_threads")(1), api("num_threads")())
    yield "config", lambda: sorted(api("show_config")())
    yield "FileFormatError", lambda: [kind.__name__ for kind in api("FileFormatError").__mro__]
    yield "CalibrationError", lambda: [kind.__name__ for kind in api("CalibrationError").__mro__]
    yield "UnsupportedISAError", lambda: [kind.__name__ for kind in api("UnsupportedISAError").__mro__]
    yield "unknown", lambda: api("set_isa")("no such thing")


def area_dask() -> Iterator[Call]:
    try:
        import dask
        import dask.array as da
        import dask.bag as db

        import qnumpy.dask as qd
    except ImportError:
        return
    dask.config.set(scheduler="synchronous")
    for kind, (name, by), code in itertools.product(("float32", "float16"), granularities().items(), ("int8", "uint4")):
        x = da.from_array(reals((6, 35), kind), chunks=(4, 10))
        for how in METHODS:
            options = {"dtype": code, "granularity": by, "symmetric": code == "int8", "method": how}
            choose: Callable[[], Any] = lambda: qd.choose_qparams(x, **options)  # noqa: E731
            label = f"{kind}/{name}/{code}/{how}"
            yield label, choose
        yield f"{label}/quantize", lambda: qd.quantize(x, choose()).compute()
        yield f"{label}/dequantize", lambda: qd.dequantize(qd.quantize(x, choose()), choose()).compute()
        yield f"{label}/compare", lambda: qd.compare(x, qd.quantize(x, choose()), choose())
    bag = db.from_sequence([reals((5, 4), seed=at) for at in range(6)], npartitions=3)
    for label, create in observer_kinds():
        if "MinMax" in label and "group" not in label:
            yield f"observe/{label}", lambda: qd.observe(bag, create()).qparams()
            yield f"calibrate/{label}", lambda: dict(qd.calibrate(lambda v: {"x": v}, bag, create()))
    path = os.path.join(tempfile.mkdtemp(dir="."), "w.safetensors")
    api("save")(path, {"w": reals((5, 4))})
    yield "from_safetensors", lambda: dict(qd.calibrate(dict, qd.from_safetensors(path)))


def area_errors() -> Iterator[Call]:
    """Every function with a bad value in the place of one argument; the messages are compared."""
    x, q8, w = reals((6, 8)), integers((6, 8), "int8"), integers((8, 6), "int8")
    params, weight = api("QParams").from_range(-1, 1), api("quantize")(reals((8, 6)), granularity=api("PerChannel")(1))
    image, kernel = integers((1, 2, 5, 5), "int8"), integers((2, 2, 3, 3), "int8")
    qx = api("quantize")(x)
    good: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
        "quantize_linear": ((x, 0.1, 0), ("dtype", "axis", "block_size", "convention", "on_nan", "out")),
        "dequantize_linear": ((q8, 0.1, 0), ("axis", "block_size", "dtype", "out")),
        "dynamic_quantize_linear": ((x,), ()),
        "fake_quantize": ((x, params), ("convention", "out")),
        "requantize": ((integers((3, 4), "int32"), 0.1, 0), ("dtype", "axis", "method", "out")),
        "quantize": ((x,), ("qparams", "dtype", "granularity", "method")),
        "choose_qparams": ((x,), ("dtype", "granularity", "method", "percentile")),
        "dequantize": ((qx,), ("dtype", "out")),
        "cast": ((x, "float16"), ("overflow", "rounding", "seed", "out")),
        "min_max": ((x,), ("granularity", "on_nonfinite")),
        "pack": ((q8 & 7, "int4", -1), ()),
        "unpack": ((q8.view(np.uint8), "int4", 16, -1), ()),
        "matmul_integer": ((q8, w, 0, 0), ("out",)),
        "matmul": ((x, reals((8, 3))), ("accumulate",)),
        "accumulate_dot": ((x, reals((8, 3)), "float32"), ()),
        "accumulator": (("int8",), ()),
        "qmatmul": ((qx, weight), ("bias", "out_qparams")),
        "qlinear_matmul": ((q8, 0.1, np.int8(0), w, 0.1, np.int8(0), 0.1, np.int8(0)), ()),
        "conv2d_integer": ((image, kernel, 0, 0), ("strides", "padding", "dilations", "groups", "out")),
        "qlinear_conv2d": ((image, 0.1, np.int8(0), kernel, 0.1, np.int8(0), 0.1, np.int8(0)), ("strides", "groups")),
        "simulate_saturation": ((q8, w), ()),
        "safe_weights": ((w,), ("axis",)),
        "reduce_range": ((params,), ()),
        "PackedWeight": ((weight,), ("bias", "axis", "clip", "activation_bits", "x_qparams", "scale_dtype")),
        "QParams": ((np.float32(0.1), np.int32(0)), ("dtype", "granularity", "qmin", "qmax")),
        "QuantizedArray": ((qx.codes, params), ()),
        "MinMaxObserver": ((), ("dtype", "granularity", "on_nonfinite")),
        "MovingAverageMinMaxObserver": ((0.1,), ("dtype", "granularity")),
        "HistogramObserver": (("mse", 99.9), ("dtype", "granularity")),
        "compare": ((x, qx), ("name", "axis")),
        "float_report": ((x, "float16"), ("name",)),
        "bits": ((x,), ()),
        "cross_layer_equalize": ((x, reals((8, 3))), ("bias", "axis1", "axis2")),
        "smoothquant": ((x, reals((8, 3))), ("alpha", "axis")),
        "smoothquant_alpha": ((x, reals((8, 3))), ("alphas", "axis", "dtype")),
        "correct_bias": ((x, reals((8, 3)), reals((8, 3))), ("bias", "xq", "axis")),
        "calibrate": ((dict, [{"x": x}]), ("observers", "patience", "tolerance")),
        "tap": (("x", x), ()),
        "PerChannel": ((0,), ()),
        "PerGroup": ((4, -1), ()),
        "set_num_threads": ((1,), ()),
        "load": (("missing.npz",), ()),
    }
    bad = {
        "text": "nonsense", "object": {}, "minus": -7, "half": 0.5, "nan": float("nan"), "large": 1 << 40,
        "complex": np.ones(3, complex), "shape": np.ones((2, 3, 1), np.float32), "codes": np.ones((5, 7), np.int8),
    }  # fmt: skip
    for name, (args, options) in good.items():
        for (label, value), at in itertools.product(bad.items(), (*range(len(args)), *options)):
            if isinstance(at, int):
                yield f"{name}/{at}/{label}", lambda: api(name)(*args[:at], value, *args[at + 1 :])
            else:
                yield f"{name}/{at}/{label}", lambda: api(name)(*args, **{at: value})


def text(value: Any) -> str:
    return f"{value}\n{value!r}\n{method(value, '_repr_html_')}"


ONCE = ("retired", "qparams", "files", "machine", "dask", "errors", "calibrate", "weights")
AREAS = {name.removeprefix("area_"): value for name, value in list(globals().items()) if name.startswith("area_")}

# ---- the child: runs the calls ----


def sentence(error: BaseException) -> str:
    """Type and message on one line, without folders and addresses, which differ between two runs."""
    message = f"{type(error).__name__}: {error}".replace(os.getcwd(), ".")
    return " ".join(re.sub(r"tmp\w{8}|0x[0-9a-f]+", "...", message).split())


def to_the_end(calls: Iterator[Call]) -> Iterator[Call]:
    """The calls of an area; if their preparation fails, the error is the last result."""
    try:
        yield from calls
    except Exception as error:
        message = sentence(error)
        yield "stopped", lambda: message


def run(prefix: str, calls: Iterator[Call]) -> None:
    """Print the hash of each call before the next is prepared: the lambdas of an area read variables of its loop."""
    for label, call in to_the_end(calls):
        name, refused, message = f"{prefix}/{label}".replace(" ", ""), False, ""
        try:
            value = call()
            result = digest(value)
            if label == "stopped":
                message = value
                print(f"# {name}: {value}", file=sys.stderr)
            if label.endswith("texts"):
                name, message = f"texts/{name}", " ".join(value.split())
        except AbsentError:
            result = "absent"
        except Exception as error:
            result, message, refused = digest(f"raises {type(error).__name__}"), sentence(error), True
        if prefix == "errors":
            refused, result = False, digest(message)
        print(name, result, message)
        if refused:
            print(f"errors/{name}", digest(message), message)


def child() -> None:
    warnings.simplefilter("ignore")
    print(f"# qnumpy {qn.__version__} of {os.path.dirname(qn.__file__)}", file=sys.stderr)
    best, rows = qn.isa(), []
    for name in ("scalar", "avx2", best):
        try:
            qn.set_isa(name)
        except qn.UnsupportedISAError:
            continue
        if name not in rows:
            rows.append(name)
    start = time.perf_counter()
    for area, calls in AREAS.items():
        for row in rows[-1:] if area in ONCE else rows:
            qn.set_isa(row)
            run(area if area in ONCE else f"{area}/{row}", calls())
        print(f"# {time.perf_counter() - start:6.1f} s after {area}", file=sys.stderr)
    missing = set(qn.__all__) - touched
    if missing:
        print(f"# never called: {', '.join(sorted(missing))}", file=sys.stderr)


# ---- the parent: compares ----


def results(python: str, path: str) -> tuple[dict[str, str], dict[str, str]]:
    """Hash and message of every call of one version, run outside the checkout."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    for name in [name for name in environment if name.startswith("QNUMPY_") or name == "PYTHONPATH"]:
        del environment[name]
    if path:
        environment["PYTHONPATH"] = os.path.abspath(path)
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(Path(__file__).resolve()), "--child"]
        child = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    hashes, messages = {}, {}
    for line in child.stdout.splitlines():
        name, result, *rest = line.split(" ", 2)
        if name in hashes:
            raise SystemExit(f"Two calls have the name {name}.")
        hashes[name], messages[name] = result, rest[0] if rest else ""
    return hashes, messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="the interpreter that has the old version")
    parser.add_argument("new", help="the interpreter that has the new version")
    for side in ("old", "new"):
        parser.add_argument(f"--{side}-path", default="", help=f"PYTHONPATH of the {side} one, which is built in place")
    parser.add_argument("--show", type=int, default=40, help="differences that are printed of an area")
    options = parser.parse_args()
    with ThreadPoolExecutor(2) as pool:
        sides = pool.map(results, (options.old, options.new), (options.old_path, options.new_path))
        (old, old_messages), (new, new_messages) = sides
    names = sorted(old.keys() | new.keys())
    failed = 0
    for area in sorted({name.split("/")[0] for name in names}, key=lambda area: (area in UNCOUNTED, area)):
        own = [name for name in names if name.split("/")[0] == area]
        if area == "errors":  # a call that only one version refuses counts as a result
            own = [name for name in own if name in old and name in new]
        different = [name for name in own if old.get(name, "absent") != new.get(name, "absent")]
        print(f"{area:<20} {len(own):>6} calls  {len(different):>5} differ")
        for name in different[: options.show]:
            absent = [side for side, hashes in (("old", old), ("new", new)) if hashes.get(name, "absent") == "absent"]
            print(f"    {name}" + (f": absent in the {absent[0]} version" if absent else ""))
            if old_messages.get(name) or new_messages.get(name):
                for side, messages in (("old", old_messages), ("new", new_messages)):
                    print(f"        {side}: {messages.get(name, '')[:300]}")
        failed += 0 if area in UNCOUNTED else len(different)
    total = sum(name.split("/")[0] not in UNCOUNTED for name in names)
    print(f"{total} results, {failed} differ.")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    if CHILD:
        child()
    else:
        main()
