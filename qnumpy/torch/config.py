"""How the layers of a model are quantized, and which of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from .. import _args, _check
from .._typing import DType, Symmetric
from ..arrays.mx import MX_FORMATS
from ..dtypes import CODE_TYPES, CodeType
from ..granularity import Granularity, PerChannel, PerGroup, PerRow, PerTensor
from ..observers import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver, Observer
from ..ops.rounding import check_damping
from ..qparams import QParams, check_scheme

__all__ = ["Config", "codes_in_bytes"]

Mode = Literal["dynamic", "static", "weights"]
Method = Literal["minmax", "mse", "hqq", "gptq", "offsets"]
Technique = Literal["minmax", "moving_average", "mse", "entropy", "percentile"]

_MODES = {"dynamic": 0, "static": 1, "weights": 2}
_METHODS = {"minmax": 0, "mse": 1, "hqq": 2, "gptq": 3, "offsets": 4}
_TECHNIQUES = {"minmax": 0, "moving_average": 1, "mse": 2, "entropy": 3, "percentile": 4}
_TYPES = {name: code for name, code in CODE_TYPES.items() if code.bits <= 8}
_GROUP = 32
_LISTED = 8  # names in a message
_LEAST_BLOCK = 16  # inputs that fill a register; fewer take a pass over x of their own


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the layers of a model are quantized.

    Parameters
    ----------
    mode : {"dynamic", "static", "weights"}
        "dynamic": each row of x gets its range when it comes; "static": observers choose one range from data;
        "weights": the rounding of the weights takes x as exact, and x is quantized for the product alone.
    dtype : str or dtype, default "int8"
        Of the weights: an integer type of at most 8 bits, a float type of 8 or 4 bits, or a format of blocks such as
        "mxfp4". x is quantized where the codes are integers, and stays float32 where they are floats.
    granularity : PerChannel(0), PerGroup or PerTensor, optional
        Of the weights, (outputs, inputs). The default is PerChannel(0), below 8 bits PerGroup(32).
    symmetric : bool or "full", optional
        Of the weights. The default is True, below 8 bits False; False for the method "offsets".
    method : {"minmax", "mse", "hqq", "gptq", "offsets"}, optional
        How the weights are rounded, as in `qnumpy.weights.quantize_layers`. "gptq" needs data: the model runs again,
        layer after layer. The default is "minmax", below 8 bits "mse".
    observer : {"minmax", "moving_average", "mse", "entropy", "percentile"}
        How the mode "static" chooses the range of x.
    x_symmetric : bool, default False
        Quantize x to int8 around 0, or to uint8 with a zero point.
    x_granularity : PerRow, PerTensor or PerGroup, optional
        Of x, as in PackedWeight; the mode "static" has PerTensor().
    activation_bits : int, default 8
        Of x: 8 or 7 as in PackedWeight, in the mode "static" from 2 to 8.
    smooth : bool, default False
        Move outliers of channels of x into the weights, where data show that it lowers the error.
    hadamard : bool, optional
        Rotate x, and the weights with it. By default in the mode "dynamic", where codes are integers and each
        rotation mixes at least 16 inputs.
    damping : float, default 0.3
        Of the method "gptq", as in `qnumpy.weights.gptq`.
    qat : {"fake_quantize", "lsq"}
        What `prepare_qat` trains: weights and x in observed ranges, or also the scales.
    include, exclude : str or iterable of str, optional
        Patterns of names of modules or of their classes, as the shell's: ``"encoder.*"``, ``"Conv2d"``. Without
        include every layer of a known type is quantized.
    overrides : dict of str to Config or None, optional
        Other configurations for layers that match a pattern; None leaves them as they are. The first match counts.

    Raises
    ------
    ValueError
        mode is unknown.
    TypeError
        dtype is no type of codes of at most 8 bits.
    TypeError, ValueError
        granularity is none of those, or lies along another axis.
    ValueError
        symmetric or method does not suit dtype, or observer is unknown.
    TypeError
        x_symmetric, smooth or hadamard is neither True nor False.
    TypeError, ValueError
        x_granularity or activation_bits is none of those, or another one than the mode "static" has.
    ValueError
        damping is no number in [0, 1000000]; qat is unknown.
    TypeError
        include or exclude are no patterns; overrides is no dict of patterns to Config or None.
    ValueError
        An override has patterns of its own.

    Examples
    --------
    >>> Config(dtype="int4", method="gptq", exclude="lm_head").granularity
    PerGroup(group_size=32, axis=-1)
    """

    mode: Mode = "dynamic"
    dtype: DType = "int8"
    granularity: Granularity | None = None
    symmetric: Symmetric | None = None
    method: Method | None = None
    observer: Technique = "minmax"
    x_symmetric: bool = False
    x_granularity: Granularity | None = None
    activation_bits: int = 8
    smooth: bool = False
    hadamard: bool | None = None
    damping: float = 0.3
    qat: Literal["fake_quantize", "lsq"] = "fake_quantize"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    overrides: Mapping[str, "Config | None"] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _args.choice("Config", "mode", self.mode, _MODES)
        code = None if isinstance(self.dtype, str) and self.dtype in MX_FORMATS else _code(self.dtype)
        self._set("dtype", self.dtype if code is None else code.name)
        self._set("granularity", self._weight_granularity(code))
        narrow = code is not None and code.real is None and code.bits < 8
        symmetric = (not narrow and self.method != "offsets") if self.symmetric is None else self.symmetric
        self._set("symmetric", symmetric)
        self._set("method", ("mse" if narrow else "minmax") if self.method is None else self.method)
        self._check_rounding(code)
        _args.choice("Config", "observer", self.observer, _TECHNIQUES)
        for name in ("x_symmetric", "smooth", "hadamard"):
            if getattr(self, name) is not None or name != "hadamard":
                self._set(name, _check.flag("Config", name, getattr(self, name)))
        self._check_x()
        self._set("damping", check_damping("Config", self.damping))
        _args.choice("Config", "qat", self.qat, {"fake_quantize": 0, "lsq": 1})
        for name in ("include", "exclude"):
            self._set(name, _patterns(name, getattr(self, name)))
        self._set("overrides", _overrides(self.overrides))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _weight_granularity(self, code: CodeType | None) -> Granularity | None:
        given: Any = self.granularity
        if code is None:
            if given is not None:
                wanted = f"left out for {self.dtype!r}, whose blocks are given"
                raise ValueError(_check.must("Config", "granularity", wanted, _check.typed(given)))
            return None
        if given is None:
            return PerGroup(_GROUP) if code.bits < 8 else PerChannel(0)
        if not isinstance(given, PerTensor | PerChannel | PerGroup):
            wanted = "PerTensor(), PerChannel(0) or PerGroup(group_size)"
            raise TypeError(_check.must("Config", "granularity", wanted, _check.typed(given)))
        if (isinstance(given, PerChannel) and given.axis not in (0, -2)) or (
            isinstance(given, PerGroup) and given.axis not in (1, -1)
        ):
            wanted = "PerChannel(0) or PerGroup(group_size, -1), of weights (outputs, inputs)"
            raise ValueError(_check.must("Config", "granularity", wanted, _check.typed(given)))
        return given

    def _check_rounding(self, code: CodeType | None) -> None:
        _args.choice("Config", "method", self.method, _METHODS)
        integers = code is not None and code.real is None
        if code is not None and not (integers and self.symmetric == "full"):
            check_scheme("Config", code, self.symmetric)  # type: ignore[arg-type]  # it tells of what is no bool
        if not integers and self.method != "minmax":
            raise ValueError(_check.must("Config", "method", f"'minmax' for {self.dtype}", repr(self.method)))
        if self.method == "offsets" and self.symmetric is not False:
            raise ValueError(_check.must("Config", "symmetric", "False for the method 'offsets'", repr(self.symmetric)))
        grouped = isinstance(self.granularity, PerGroup)
        if self.method == "offsets" and not grouped:
            got = _check.typed(self.granularity)
            raise ValueError(_check.must("Config", "granularity", "PerGroup for the method 'offsets'", got))
        if self.method == "gptq" and isinstance(self.granularity, PerTensor):
            wanted = "PerChannel(0) or PerGroup for the method 'gptq'"
            raise ValueError(_check.must("Config", "granularity", wanted, "PerTensor()"))

    def _check_x(self) -> None:
        given = self.x_granularity
        if given is not None and not isinstance(given, PerRow | PerTensor | PerGroup):
            wanted = "PerRow(), PerTensor() or PerGroup(group_size)"
            raise TypeError(_check.must("Config", "x_granularity", wanted, _check.typed(given)))
        if self.mode == "static" and not (given is None or isinstance(given, PerTensor)):
            wanted = "PerTensor() or None for the mode 'static'"
            raise ValueError(_check.must("Config", "x_granularity", wanted, _check.typed(given)))
        bits = _check.integer("Config", "activation_bits", self.activation_bits)
        allowed = range(2, 9) if self.mode == "static" else (8, 7)
        if bits not in allowed:
            wanted = "in [2, 8] for the mode 'static'" if self.mode == "static" else "8 or 7"
            raise ValueError(_check.must("Config", "activation_bits", wanted, str(bits)))

    # ---- which layers ----

    def of(self, name: str, module: nn.Module, *owners: tuple[str, nn.Module]) -> "Config | None":
        """Return the configuration of a layer; None for one that is left as it is.

        Parameters
        ----------
        name : str
        module : Module
        *owners : tuple of str and Module
            Names and modules whose part the layer is: patterns that match them match it.

        Returns
        -------
        Config or None
        """
        places = ((name, module), *owners)
        for place in places:
            for pattern, config in self.overrides.items():
                if _matches(pattern, *place):
                    return config
        if self.include is not None and not _any_matches(self.include, places):
            return None
        return None if _any_matches(self.exclude or (), places) else self

    def check_patterns(self, owner: str, model: nn.Module, parts: Mapping[str, nn.Module] | None = None) -> None:
        """Raise ValueError if a pattern matches no module of a model, and none of the parts that it will have."""
        modules = {**dict(model.named_modules(remove_duplicate=False)), **(parts or {})}
        for parameter in ("include", "exclude", "overrides"):
            for pattern in getattr(self, parameter) or ():
                if not any(_matches(pattern, name, module) for name, module in modules.items()):
                    classes = dict.fromkeys(type(module).__name__ for module in modules.values())
                    names = [*classes, *filter(None, modules)]
                    close = [name for name in names if pattern.strip("*").lower() in name.lower()] or names
                    more = f" and {len(close) - _LISTED} more" if len(close) > _LISTED else ""
                    wanted = "patterns that each match a module's name or class"
                    sentence = _check.must(owner, f"config.{parameter}", wanted, repr(pattern))
                    raise ValueError(f"{sentence} There are {', '.join(map(repr, close[:_LISTED]))}{more}.")

    # ---- what follows for a layer ----

    @property
    def code(self) -> CodeType | None:
        """The type of codes of the weights; None for a format of blocks."""
        return CODE_TYPES.get(str(self.dtype))

    @property
    def quantizes_x(self) -> bool:
        """Whether the codes of the weights are integers, which multiply codes of x."""
        return self.code is not None and self.code.real is None

    def rotates(self, block: int) -> bool:
        """Whether x is rotated where a rotation mixes `block` inputs."""
        if self.hadamard is None:
            return self.mode == "dynamic" and self.quantizes_x and block >= _LEAST_BLOCK
        return self.hadamard

    @property
    def dtype_of_x(self) -> str:
        """The type of codes of x, whose levels `codes_in_bytes` brings to int8 or uint8."""
        return f"{'int' if self.x_symmetric else 'uint'}{self.activation_bits}"

    def observer_of_x(self) -> Observer:
        """Return an observer of x for the mode "static"."""
        options: Any = {"dtype": self.dtype_of_x, "symmetric": self.x_symmetric}
        if self.observer == "minmax":
            return MinMaxObserver(**options)
        if self.observer == "moving_average":
            return MovingAverageMinMaxObserver(**options)
        return HistogramObserver(self.observer, **options)

    def options_of_x(self) -> dict[str, Any]:
        """Return the options of PackedWeight for x where its range is not known before."""
        if not self.quantizes_x:
            return {}
        options: dict[str, Any] = {"symmetric": self.x_symmetric, "activation_bits": self.activation_bits}
        return options if self.x_granularity is None else {**options, "x_granularity": self.x_granularity}


def codes_in_bytes(params: QParams) -> QParams:
    """Return parameters with the same levels whose codes are int8 or uint8."""
    name = "int8" if params.code.signed else "uint8"
    return QParams(params.scale, params.zero_point, name, params.granularity, params.qmin, params.qmax)


def _code(dtype: Any) -> CodeType:
    return _args.code("Config", dtype, _TYPES, MX_FORMATS)


def _patterns(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    patterns = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)
    if not all(isinstance(pattern, str) for pattern in patterns):
        wanted = "names of modules or classes, with * for any text"
        raise TypeError(_check.must("Config", name, wanted, _check.typed(value)))
    return patterns


def _overrides(value: Any) -> dict[str, Config | None]:
    wanted = "a dict of patterns to Config or None"
    if not isinstance(value, Mapping):
        raise TypeError(_check.must("Config", "overrides", wanted, _check.typed(value)))
    for pattern, config in value.items():
        if not isinstance(pattern, str):
            raise TypeError(_check.must("Config", "overrides", wanted, f"the key {_check.typed(pattern)}"))
        if not (config is None or isinstance(config, Config)):
            raise TypeError(_check.must("Config", f"overrides[{pattern!r}]", "a Config or None", _check.typed(config)))
        if config is not None and (config.include is not None or config.exclude is not None or config.overrides):
            wanted = "a Config without include, exclude and overrides"
            raise ValueError(_check.must("Config", f"overrides[{pattern!r}]", wanted, "one with them"))
    return dict(value)


def _any_matches(patterns: Iterable[str], places: Sequence[tuple[str, nn.Module]]) -> bool:
    return any(_matches(pattern, *place) for pattern in patterns for place in places)


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    return pattern == name or fnmatchcase(name, pattern) or fnmatchcase(type(module).__name__, pattern)
