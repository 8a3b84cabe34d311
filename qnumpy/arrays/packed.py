"""PackedWeight: a quantized weight laid out once for products with any number of activations."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check, _core
from .._args import Array
from .._tables import html_facts
from ..dtypes import float_type
from ..granularity import Granularity, PerChannel, PerGroup, PerTensor, normalize_axis
from ..ops.quantize import codes_of, quantize_linear
from ..ops.reduce import ranges
from ..qparams import QParams
from .quantized import QuantizedArray

__all__ = ["PackedWeight", "qmatmul"]

GROUP_SIZES = (16, 32, 64, 128)
_PER = {"row": 0, "tensor": 1, "group": 2}
_FLOAT32, _INT8, _UINT8 = _core.TYPES["float32"], _core.TYPES["int8"], _core.TYPES["uint8"]
_HALF = np.finfo(np.float16)


class PackedWeight:
    """A quantized weight, packed once; ``x @ packed`` multiplies reals by it.

    8-bit weights: x is quantized to 8 bits, the product of the codes is exact, and one pass over each tile of it makes
    ``y = clip(float32(acc) * (Sx * Sw) + bias)``. 4-bit weights in groups: x is quantized to 8 bits in the same groups,
    the sum of ``(qx - Zx)(qw - Zw)`` over each is exact, and
    ``y = clip(sum over groups of float32(acc) * (Sx * Sw) + bias)``.

    Parameters
    ----------
    w : QuantizedArray, shape (K, N)
        int8, uint8, int4 or uint4 per tensor or per channel on the axis of N; int4 or uint4 in groups of 16, 32, 64 or
        128 along K.
    bias : array_like of floats, shape (N,), optional
        Added in float32.
    axis : int, default 0
        The axis of w that is K: 1 for weights of shape (N, K), as PyTorch stores them.
    clip : (low, high), optional
        Bounds of y; None for no bound: ``(0, None)`` is a ReLU. NaN stays NaN.
    per : {"row", "tensor", "group"}, optional
        What shares a scale when x is quantized on the fly: "row" by default; for a weight in groups "group", which
        others do not have.
    symmetric : bool, default True
        Quantize x to int8 around 0, or to uint8 with a zero point.
    activation_bits : {8, 7}
        Codes of x in [-63, 63] or [0, 127] in place of [-127, 127] or [0, 255], as saturating libraries need them; on
        AVX2 more than 64 rows are then up to 1.2 times as fast.
    x_qparams : QParams, optional
        Given parameters of x, per tensor, int8 or uint8; none are then found on the fly.
    out_qparams : QParams, optional
        Return codes with these parameters, per tensor, int8 or uint8, instead of float32.
    scale_dtype : {"float32", "float16"}
        How the scales of groups are stored; float16 rounds them half to even.

    Attributes
    ----------
    shape : tuple of int
        (K, N).
    qparams : QParams
        Of the weight as (K, N).
    bias : ndarray of float32 or None
    nbytes : int
        Bytes of the packed codes, their parameters and sums, and the bias.

    Raises
    ------
    TypeError
        w is no QuantizedArray, or of another type; an option is of another type.
    ValueError
        w is not 2-D or of another granularity; bias, axis or an option does not fit.

    Notes
    -----
    x is used as float32 and rounded half to even, as ``quantize(x, granularity=...)`` does; NaN becomes 0 and takes no
    part in the range. Every float32 operation is rounded once and none is fused, so y has the same bits on every ISA
    and thread count. With x_qparams and out_qparams, 8-bit weights go from codes to codes in integers:
    ``saturate(round_half_even(float32(acc + b) * (Sx * Sw / Sy)) + Zy)``, where b is ``bias / (Sx * Sw)`` rounded half
    to even; otherwise y is quantized. Groups: with G of them y is within ``(G + 2) * 2**-24 * sum(|x| |w|)``, to first
    order, of the product of the dequantized values. Pickled by its codes; immutable, so threads may share it.

    Examples
    --------
    >>> w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    >>> packed = PackedWeight(quantize(w, granularity=PerChannel(1)), bias=[0.0, 0.0, 1.0], clip=(0, None))
    >>> packed
    PackedWeight((4, 3), int8 per channel 1, x int8 per row, bias, clip (0, inf))
    >>> (np.ones((2, 4), np.float32) @ packed).round(2)
    array([[0.  , 0.  , 1.72],
           [0.  , 0.  , 1.72]], dtype=float32)
    """

    __slots__ = (
        "_clip", "_group", "_half", "_input", "_output", "_packed", "_scale", "_zeros", "bias", "qparams", "shape",
    )  # fmt: skip
    __array_ufunc__ = None  # x @ packed reaches us

    shape: tuple[int, int]
    qparams: QParams
    bias: Array | None

    def __init__(
        self,
        w: QuantizedArray,
        *,
        bias: Any = None,
        axis: int = 0,
        clip: tuple[float | None, float | None] = (None, None),
        per: str | None = None,
        symmetric: bool = True,
        activation_bits: int = 8,
        x_qparams: QParams | None = None,
        out_qparams: QParams | None = None,
        scale_dtype: Any = "float32",
    ) -> None:
        self._fill("PackedWeight", w, axis, bias, clip, scale_dtype)
        self._input = _Input.of("PackedWeight", self._group, per, symmetric, activation_bits, x_qparams)
        self._output = None if out_qparams is None else _eight_bits("PackedWeight", "out_qparams", out_qparams)

    def _fill(self, owner: str, w: Any, axis: Any, bias: Any, clip: Any, scale_dtype: Any) -> None:
        """Check and pack the weight."""
        if not isinstance(w, QuantizedArray):
            raise TypeError(_check.must(owner, "w", "a QuantizedArray", _check.typed(w)))
        if w.ndim != 2:
            raise ValueError(_check.must(owner, "w", "2-D", f"shape {w.shape}"))
        codes, self.qparams = _oriented(w, normalize_axis(owner, _check.integer(owner, "axis", axis), 2))
        self.shape = codes.shape
        self._group = _group_size(owner, self.qparams)
        self._zeros = not self.qparams.symmetric  # read once: it looks at every zero point
        kind = float_type(scale_dtype)
        stored = scale_dtype if kind is None else kind.name
        self._half = _args.choice(owner, "scale_dtype", stored, {"float32": 0, "float16": 1}) == 1
        if self._half and not self._group:
            raise ValueError(_check.must(owner, "scale_dtype", "float32 unless w is in groups", "float16"))
        self.bias = None if bias is None else _vector(owner, "bias", bias, self.shape[1])
        self._clip = _bounds(owner, clip)
        plain = _args.plain(codes, self.qparams.code)
        if self._group:
            self._pack_groups(owner, plain)
        else:
            zero = None if not self.qparams.zero_point.any() else self.qparams.zero_point.reshape(-1)
            core = _INT8 if plain.dtype == np.int8 else _UINT8
            self._packed = _core.pack_weights(plain, core, zero)
            self._scale = np.array(np.broadcast_to(self.qparams.scale, self.shape[1:]))

    def _pack_groups(self, owner: str, plain: Array) -> None:
        params, (k, n) = self.qparams, self.shape
        if self._half:
            with np.errstate(over="ignore", under="ignore"):
                scales = params.scale.astype(np.float16)
            if not ((scales >= _HALF.smallest_normal) & np.isfinite(scales)).all():
                got = f"{params.scale.min():g} to {params.scale.max():g}"
                raise ValueError(_check.must(owner, "w", "of scales that float16 holds", got))
            self.qparams = params = QParams(
                scales.astype(np.float32), params.zero_point, params.dtype, params.granularity, params.qmin, params.qmax
            )
            stored: Array = scales.view(np.uint16)
        else:
            stored = params.scale
        signed = params.code.signed
        zeros = (params.zero_point + 8 * signed).astype(np.uint8) if self._zeros else None
        self._packed = _core.weight4_room(k, n, self._group, self._half, zeros is not None)
        codes = np.ascontiguousarray(plain).view(np.uint8)
        _core.weight4_pack(codes, signed, np.ascontiguousarray(stored), zeros, self._packed, k, n, self._group)
        self._scale = np.empty(0, np.float32)  # each group has its own

    @property
    def ndim(self) -> int:
        return 2

    @property
    def nbytes(self) -> int:
        bias = 0 if self.bias is None else self.bias.nbytes
        if self._group:
            return int(self._packed.nbytes) + bias
        return int(_core.packed_info(self._packed)[2]) + self._scale.nbytes + bias

    def unpack(self) -> QuantizedArray:
        """Return the weight, of shape (K, N), as it was packed."""
        code, (k, n) = self.qparams.code, self.shape
        plain = np.empty((k, n), code.storage)
        if not self._group:
            _core.packed_codes(self._packed, plain)
        elif plain.size:
            groups, panels, nibbles = -(-k // self._group), -(-n // 16), 8 * self._group
            fields = self._packed.reshape(panels, groups, -1)[:, :, :nibbles].reshape(panels, groups, -1, 16, 4)
            wide = np.stack([fields & 15, fields >> 4], axis=3)  # panel, group, eight of k, half of it, column, k
            rows = wide.transpose(1, 2, 3, 5, 0, 4).reshape(groups * self._group, panels * 16)[:k, :n]
            plain[...] = rows.astype(np.int8) - (8 if code.signed else 0)
        return QuantizedArray(plain.view(code.dtype), self.qparams)

    def __rmatmul__(self, x: Any) -> Any:
        return self.matmul(x)

    def matmul(self, x: Any, *, out: Any = None) -> Any:
        """Return ``x @ self``.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, or QuantizedArray, shape (..., K)
            Codes must be int8 or uint8, per tensor, per row if x is 2-D, or in the groups of a weight in groups.
        out : ndarray, optional
            Of shape (..., N), float32, or the type of out_qparams; C-contiguous, writable, apart from x.

        Returns
        -------
        ndarray of float32, or QuantizedArray if there are out_qparams

        Raises
        ------
        TypeError
            x or out is of another type.
        ValueError
            The shape of x or out does not fit.
        OverflowError
            A sum of codes does not fit in int32.
        """
        owner = "PackedWeight.matmul"
        if isinstance(x, QuantizedArray):
            return self._of_codes(owner, x, out)
        given = _check.array(owner, "x", x)
        if given.dtype.kind in "iu" and isinstance(x, np.ndarray):
            text = _check.must(owner, "x", "an array of floats or a QuantizedArray", f"dtype {given.dtype}")
            raise TypeError(text + " Use matmul_integer for plain codes.")
        source, _ = _args.real(owner, "x", x)
        rows = self._rows(owner, source.shape)
        y = self._result(owner, out, source)
        with np.errstate(over="ignore"):
            x32 = np.require(source, np.float32, ["C", "A"])
        given_x = self._input.given(owner, x32)
        fused = self._output is not None and not self._group and self._input.scale != 0
        target = y if self._output is None or fused else np.empty(y.shape, np.float32)
        if self._group:
            _core.matmul4(
                self._packed, *self.shape, self._group, self._half, self._zeros, x32, rows, given_x.core,
                given_x.symmetric, given_x.qmin, given_x.qmax, given_x.scale, given_x.zero_point, given_x.per == "row",
                self.bias, *self._clip, target,
            )  # fmt: skip
        else:
            stage = self._stage(owner, given_x.scale if fused else None)
            fits = _core.linear(
                x32, rows, given_x.core, given_x.symmetric, given_x.qmin, given_x.qmax, given_x.scale,
                given_x.zero_point, self._packed, target, stage.core, stage.scale, stage.bias, stage.acc_bias,
                *self._clip, *stage.codes,
            )  # fmt: skip
            _fits(owner, fits)
        return self._finished(owner, target, y)

    def _of_codes(self, owner: str, x: QuantizedArray, out: Any) -> Any:
        params = x.qparams
        by_row = isinstance(params.granularity, PerChannel) and x.ndim == 2 and params.granularity.axis % 2 == 0
        shares = by_row or isinstance(params.granularity, PerTensor) or self._shares_groups(x)
        if _bits(params) != 8 or not shares:
            wanted = f", per row or per group {self._group} on the last axis" if self._group else " or per row"
            got = f"{params.code.name} {params.granularity.describe()}"
            raise TypeError(_check.must(owner, "x", f"of int8 or uint8 per tensor{wanted}", got))
        rows = self._rows(owner, x.shape)
        y = self._result(owner, out, x.codes)
        if self._group:
            return self._of_codes_in_groups(owner, x, rows, y)
        fused = self._output is not None and not by_row
        target = y if self._output is None or fused else np.empty(y.shape, np.float32)
        stage = self._stage(owner, float(params.scale) if fused else None)
        row_scale = np.ones(1, np.float32) if fused else params.scale.reshape(-1)
        zero = params.zero_point.reshape(-1) if params.zero_point.any() else None
        fits = _core.matmul_packed(
            x.codes.reshape(rows, self.shape[0]), params.code.core, zero, self._packed,
            target.reshape(rows, self.shape[1]), stage.core, row_scale, stage.scale, stage.bias, stage.acc_bias,
            *self._clip, *stage.codes,
        )  # fmt: skip
        _fits(owner, fits)
        return self._finished(owner, target, y)

    def _shares_groups(self, x: QuantizedArray) -> bool:
        by = x.qparams.granularity
        return isinstance(by, PerGroup) and by.group_size == self._group and by.axis % x.ndim == x.ndim - 1

    def _of_codes_in_groups(self, owner: str, x: QuantizedArray, rows: int, y: Array) -> Any:
        params = x.qparams
        target = y if self._output is None else np.empty(y.shape, np.float32)
        zero = params.zero_point.reshape(-1) if params.zero_point.any() else None
        _core.matmul4_codes(
            self._packed, *self.shape, self._group, self._half, self._zeros, np.ascontiguousarray(x.codes), rows,
            params.scale.reshape(-1), zero, self.bias, *self._clip, target,
        )  # fmt: skip
        return self._finished(owner, target, y)

    def _rows(self, owner: str, shape: tuple[int, ...]) -> int:
        if not shape or shape[-1] != self.shape[0]:
            raise ValueError(_check.must(owner, "x", f"of shape (..., {self.shape[0]})", f"shape {shape}"))
        return math.prod(shape[:-1])

    def _result(self, owner: str, out: Any, source: Array) -> Array:
        dtype = np.dtype(np.float32) if self._output is None else self._output.code.storage
        return _args.output(owner, out, dtype, (*source.shape[:-1], self.shape[1]), source)

    def _stage(self, owner: str, x_scale: float | None) -> "_Stage":
        """What becomes of the sums: float32, or with the scale of x the codes of out_qparams."""
        out = self._output
        if out is None or x_scale is None:
            return _Stage(_FLOAT32, self._scale, self.bias, None, (0, 0, 0))
        unit = np.float32(x_scale) * self._scale
        acc_bias = None
        if self.bias is not None:
            exact = np.rint(self.bias.astype(np.float64) / unit)
            if not (np.abs(exact) < 2.0**31).all():
                raise OverflowError(_check.must(owner, "bias", "in the range of int32 in units of the sums", "more"))
            acc_bias = exact.astype(np.int32)
        low, high = quantize_linear(np.array(self._clip, np.float32), out.scale, out.zero_point, dtype=out.dtype)
        codes = int(out.zero_point), max(int(low), out.qmin), min(int(high), out.qmax)
        return _Stage(out.code.core, unit / out.scale, None, acc_bias, codes)

    def _finished(self, owner: str, target: Array, y: Array) -> Any:
        out = self._output
        if out is None:
            return y
        if target is not y:
            y[...] = codes_of(owner, target, out)
        return QuantizedArray(y, out)

    def __repr__(self) -> str:
        return f"PackedWeight({', '.join([str(self.shape), *self._describe()])})"

    def _repr_html_(self) -> str:
        weight, *rest = self._describe()
        rows = [("shape", str(self.shape)), ("weight", weight), ("product", ", ".join(rest))]
        rows.append(("bytes", f"{math.prod(self.shape) * 4:,} as float32, {self.nbytes:,} here"))
        return html_facts("PackedWeight", rows)

    def _describe(self) -> list[str]:
        parts = [f"{self.qparams.code.name} {self.qparams.granularity.describe()}", str(self._input)]
        parts += ["bias"] if self.bias is not None else []
        parts += [f"clip ({self._clip[0]:g}, {self._clip[1]:g})"] if self._clip != (-math.inf, math.inf) else []
        return parts + ([f"-> {self._output.code.name}"] if self._output is not None else [])

    def __reduce__(self) -> Any:
        options = {
            "bias": self.bias, "clip": self._clip, "out_qparams": self._output,
            "scale_dtype": "float16" if self._half else "float32", **self._input.options(),
        }  # fmt: skip
        return _unpickled, (self.unpack(), options)


def qmatmul(a: QuantizedArray, b: QuantizedArray, *, bias: Any = None, out_qparams: QParams | None = None) -> Any:
    """Multiply two quantized matrices: an exact product of the codes, brought to reals or codes in the same pass.

    ``y = float32(acc) * (Sa * Sb) + bias``; with out_qparams
    ``saturate(round_half_even(float32(acc + round_half_even(bias / (Sa * Sb))) * (Sa * Sb / Sy)) + Zy)``. Groups: as
    PackedWeight.

    Parameters
    ----------
    a : QuantizedArray of int8 or uint8, shape (..., K)
        Per tensor, or per channel on axis 0 if it is 2-D: a scale for each row; in the groups of b if it has some.
    b : QuantizedArray of int8, uint8, int4 or uint4, shape (K, N)
        Per tensor, or per channel on axis 1: a scale for each column; int4 and uint4 in groups along K as well.
    bias : array_like of floats, shape (N,), optional
    out_qparams : QParams, optional
        Per tensor, int8 or uint8.

    Returns
    -------
    ndarray of float32, or QuantizedArray if there are out_qparams
        Shape (..., N).

    Raises
    ------
    TypeError, ValueError, OverflowError
        As PackedWeight and its matmul.

    Notes
    -----
    Rounds half to even. Where b multiplies more than once, PackedWeight(b) saves the packing.

    Examples
    --------
    >>> a = quantize(np.array([[1.0, 2.0]], np.float32), dtype="uint8", symmetric=False)
    >>> b = quantize(np.array([[0.5, -1.0], [0.25, 1.0]], np.float32))
    >>> qmatmul(a, b).round(2)
    array([[1.01, 1.  ]], dtype=float32)
    """
    owner = "qmatmul"
    if not isinstance(a, QuantizedArray):
        raise TypeError(_check.must(owner, "a", "a QuantizedArray", _check.typed(a)))
    if not isinstance(b, QuantizedArray):
        raise TypeError(_check.must(owner, "b", "a QuantizedArray", _check.typed(b)))
    return PackedWeight(b, bias=bias, out_qparams=out_qparams).matmul(a)


class _Stage(NamedTuple):
    """The output stage of the kernels."""

    core: int
    scale: Array  # of each column
    bias: Array | None
    acc_bias: Array | None  # in units of the sums
    codes: tuple[int, int, int]  # zero point, the smallest and the largest code


@dataclass(frozen=True, slots=True)
class _Input:
    """How x becomes codes. scale 0: found on the fly."""

    per: str
    symmetric: bool
    bits: int
    core: int
    qmin: int
    qmax: int
    scale: float = 0.0
    zero_point: int = 0
    qparams: QParams | None = None

    @classmethod
    def of(cls, owner: str, group: int, per: Any, symmetric: Any, bits: Any, qparams: Any) -> "_Input":
        if per is None:
            per = "group" if group else "row"
        _args.choice(owner, "per", per, _PER if group else {"row": 0, "tensor": 1})
        if _check.integer(owner, "activation_bits", bits) not in (7, 8):
            raise ValueError(_check.must(owner, "activation_bits", "8 or 7", str(bits)))
        if qparams is None:
            qmax = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
            qmin, core = (-qmax, _INT8) if symmetric else (0, _UINT8)
            return cls(per, bool(symmetric), bits, core, qmin, qmax)
        found = _eight_bits(owner, "x_qparams", qparams)
        scale, zero = float(found.scale), int(found.zero_point)
        return cls("tensor", True, 8, found.code.core, found.qmin, found.qmax, scale, zero, found)

    def given(self, owner: str, x: Array) -> "_Input":
        """The same with a scale where all of x shares one; as QParams.from_range computes it."""
        if self.per != "tensor" or self.scale:
            return self
        lowest, highest, _, _ = ranges(owner, x, PerTensor())
        low, high = min(float(lowest), 0.0), max(float(highest), 0.0)
        extent = 2 * max(-low, high) if self.symmetric else high - low
        exact = extent / (self.qmax - self.qmin)
        scale = float(np.float32(1 if extent == 0 else max(exact, _check.TINY)))
        zero = 0 if self.symmetric else min(max(round(self.qmin - low / scale), self.qmin), self.qmax)
        return replace(self, scale=scale, zero_point=zero)

    def options(self) -> dict[str, Any]:
        if self.qparams is not None:
            return {"x_qparams": self.qparams}
        return {"per": self.per, "symmetric": self.symmetric, "activation_bits": self.bits}

    def __str__(self) -> str:
        name = "int8" if self.core == _INT8 else "uint8"
        how = "as given" if self.qparams is not None else f"per {self.per}"
        return f"x {name} {how}" + (" of 7 bits" if self.bits == 7 else "")


def _unpickled(w: QuantizedArray, options: dict[str, Any]) -> PackedWeight:
    return PackedWeight(w, **options)


def _bits(params: QParams) -> int:
    """Of integer codes; 0 of floats."""
    return params.code.bits if params.code.real is None else 0


def _eight_bits(owner: str, name: str, value: Any) -> QParams:
    """Parameters per tensor of a type of 8 bits."""
    if not isinstance(value, QParams):
        raise TypeError(_check.must(owner, name, "a QParams", _check.typed(value)))
    if _bits(value) != 8 or not isinstance(value.granularity, PerTensor):
        raise ValueError(_check.must(owner, name, "of int8 or uint8 per tensor", str(value)))
    return value


def _oriented(w: QuantizedArray, axis: int) -> tuple[Array, QParams]:
    """The codes as (K, N) and their parameters."""
    params = w.qparams
    if axis == 0:
        return w.codes, params
    granularity: Granularity = params.granularity
    if isinstance(granularity, PerChannel):
        granularity = PerChannel(1 - granularity.axis % 2)
    elif isinstance(granularity, PerGroup):
        granularity = PerGroup(granularity.group_size, 1 - granularity.axis % 2)
    turned = QParams(
        params.scale.T, params.zero_point.T, params.dtype, granularity, params.qmin, params.qmax
    )  # fmt: skip
    return w.codes.T, turned


def _group_size(owner: str, params: QParams) -> int:
    """The size of the groups along K, 0 without groups."""
    granularity, bits = params.granularity, _bits(params)
    if isinstance(granularity, PerGroup):
        if bits != 4:
            raise TypeError(_check.must(owner, "w", "of int4 or uint4 in groups", params.code.name))
        if granularity.axis % 2 == 0 and granularity.group_size in GROUP_SIZES:
            return granularity.group_size
    elif bits not in (4, 8):
        raise TypeError(_check.must(owner, "w", "of int8, uint8, int4 or uint4", params.code.name))
    elif isinstance(granularity, PerTensor) or (isinstance(granularity, PerChannel) and granularity.axis % 2 == 1):
        return 0
    wanted = "quantized per tensor, per channel on the axis of N, or in groups of 16, 32, 64 or 128 along K"
    raise ValueError(_check.must(owner, "w", wanted, granularity.describe()))


def _vector(owner: str, name: str, value: Any, n: int) -> Array:
    given = _check.reals(owner, name, value)
    if given.shape != (n,):
        raise ValueError(_check.must(owner, name, f"of shape ({n},)", f"shape {given.shape}"))
    found = np.array(given, np.float32)
    found.flags.writeable = False
    return found


def _bounds(owner: str, clip: Any) -> tuple[float, float]:
    try:
        low, high = clip
        bounds = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    except (TypeError, ValueError):
        raise TypeError(_check.must(owner, "clip", "two bounds, each a number or None", _check.typed(clip))) from None
    if not bounds[0] <= bounds[1]:
        raise ValueError(_check.must(owner, "clip", "a low and a high bound, in this order", _check.typed(clip)))
    return bounds


def _fits(owner: str, fits: bool) -> None:
    if not fits:
        raise OverflowError(_check.must(owner, "every sum of codes", "in the range of int32", "one that is not"))
