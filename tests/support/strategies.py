"""What the tests of the kernels run over: dtypes, shapes with their granularity, memory layouts, hard values."""

import tempfile
from typing import NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import qnumpy as qn
from qnumpy.dtypes import INTEGER_TYPES, code_type

SOURCES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
CODES = list(INTEGER_TYPES)
CONVENTIONS = ["onnx", "guide", "torch", "tflite"]
METHODS = ["float", "fixed", "fixed_double"]
ROWS = [name for name, supported in qn.show_config()["isas"].items() if supported]
SIZES = range(71)  # every tail of every vector length, and one full four-vector store

# Scales with an exact reciprocal, with an inexact one, and the one of the FBGEMM example.
SCALES = [0.5, 0.125, 4.0, 1.1, 0.7, 1 / 3, 0.00214854861]


class Grid(NamedTuple):
    """A shape with one free length n, and where its parameters stand."""

    shape: tuple
    axis: int | None = None
    block_size: int | None = None

    def of(self, n):
        return tuple(n if length == "n" else length for length in self.shape)

    @property
    def granularity(self):
        if self.axis is None:
            return qn.PerTensor()
        return qn.PerChannel(self.axis) if self.block_size is None else qn.PerGroup(self.block_size, self.axis)

    @property
    def where(self):
        return {"axis": self.axis, "block_size": self.block_size}

    def params_shape(self, n):
        return self.granularity.params_shape(self.of(n))


GRIDS = {
    "tensor": Grid(("n",)),
    "tensor-3d": Grid((2, "n", 3)),
    "channel-first": Grid((3, "n"), 0),
    "channel-first-of-n": Grid(("n", 3), 0),
    "channel-middle": Grid((2, "n", 3), 1),
    "channel-last": Grid((3, "n"), -1),
    "group-1": Grid((2, "n"), -1, 1),
    "group-last": Grid((3, "n"), -1, 5),
    "group-last-32": Grid((2, "n"), 1, 32),
    "group-first": Grid(("n", 3), 0, 7),
    "group-middle": Grid((2, "n", 3), -2, 16),
}


def f_order(x):
    return np.asfortranarray(x)


def strided(x):
    wide = np.zeros([2 * length for length in x.shape], x.dtype)
    view = wide[(slice(1, None, 2),) * x.ndim]
    view[...] = x
    return view


def reversed_(x):
    every = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[every])[every]


def big_endian(x):
    return x.astype(x.dtype.newbyteorder(">"))


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
    return raw[1:].view(x.dtype).reshape(x.shape) if x.size else x


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def rolled(x):
    """Axes in another order than memory: neither C nor Fortran."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1)


def memory_mapped(x):
    if not x.size:
        return x
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=(x.nbytes,))
    mapped[:] = np.frombuffer(x.tobytes(), np.uint8)
    return mapped.view(x.dtype).reshape(x.shape)


LAYOUTS = {
    "c": np.ascontiguousarray,
    "f": f_order,
    "strided": strided,
    "reversed": reversed_,
    "rolled": rolled,
    "big-endian": big_endian,
    "unaligned": unaligned,
    "read-only": read_only,
    "memory-mapped": memory_mapped,
}


def scales(rng, shape):
    return rng.choice(np.array(SCALES, np.float32), shape).astype(np.float32)


def zero_points(rng, shape, code):
    """Any code, odd ones and the two ends more often."""
    anything = rng.integers(code.qmin, code.qmax + 1, shape)
    hard = rng.choice([code.qmin, code.qmax, min(code.qmin + 3, code.qmax)], shape)
    return np.where(rng.random(shape) < 0.5, anything, hard).astype(np.int32)


def reals(rng, shape, scale, zero, code, source):
    """Values of the whole code range and a little more: plain ones, ties, and what is not finite or hardly a number."""
    low, high = code.qmin - zero, code.qmax - zero
    margin = 1 + (high - low) // 4
    steps = rng.integers(low - margin, high + margin + 1, shape)
    x = scale.astype(np.float64) * (steps + rng.choice([0.5, 0.5, 0.0, 0.49, 0.51, 0.123], shape))
    odd = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38, 65504.0, 1e300, -1e-300]
    x = np.where(rng.random(shape) < 0.12, rng.choice(odd, shape), x)
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(source)


def case(grid, n, code, source, seed=0):
    """One problem: x, scale and zero_point of `grid` with the free length n."""
    rng = np.random.default_rng([seed, n])
    code = code_type(code)
    shape, params = grid.of(n), grid.params_shape(n)
    scale, zero = scales(rng, params), zero_points(rng, params, code)
    from qnumpy.testing import spread

    each = [spread(p, shape, grid.axis, grid.block_size) for p in (scale, zero.astype(np.int64))]
    return reals(rng, shape, *each, code, source), scale, zero


def assert_same_bits(got, want, about=""):
    """Equal dtype, shape and bytes; NaN and the sign of zero count."""
    assert got.dtype == want.dtype, f"{about}: dtype {got.dtype}, not {want.dtype}"
    assert got.shape == want.shape, f"{about}: shape {got.shape}, not {want.shape}"
    as_bytes = f"u{got.dtype.itemsize}"
    left, right = (np.atleast_1d(np.ascontiguousarray(a)).view(as_bytes) for a in (got, want))
    if not np.array_equal(left, right):
        bad = np.flatnonzero(left != right)
        shown = ", ".join(f"[{k}] {got.flat[k]!r} not {want.flat[k]!r}" for k in bad[:5])
        raise AssertionError(f"{about}: {bad.size} of {left.size} differ: {shown}")


# ---- Hypothesis ----

codes = st.sampled_from(CODES)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
normal_scales = st.floats(min_value=2.0**-126, max_value=float(np.finfo(np.float32).max), width=32)
moderate_scales = st.floats(min_value=2.0**-20, max_value=2.0**20, width=32)
