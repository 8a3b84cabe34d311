"""The base class of the observers: configuration, counts, the state contract, text and storage."""

import json
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

import numpy as np

from .. import _args, _check
from .._tables import html_facts
from .._typing import Array, DType, Float64Array, Int64Array, OnNonfinite, RealLike
from ..dtypes import CODE_TYPES, CodeType, FloatType
from ..errors import CalibrationError
from ..granularity import Granularity, PerRow, PerTensor
from ..ops.histogram import Sketch
from ..ops.reduce import extremes
from ..qparams import QParams, check_scheme

__all__ = ["Observer", "Rangeless", "observer_for", "observers_by_method"]


class Batch(NamedTuple):
    """Figures of an array for each parameter: extremes, and counts of finite, NaN and infinite elements."""

    min: Float64Array
    max: Float64Array
    finite: Int64Array
    nan: Int64Array
    infinite: Int64Array


class Observer:
    """Base of the observers: reads arrays one after the other and chooses the parameters of their quantized form.

    The constructor stores its arguments. `observe` adds to the state. Its attributes end in an underscore: `min_`,
    `max_` (float64), `count_`, `nan_`, `infinite_` (int64), each of the shape of the parameters. `qparams` does not
    change it.

    Parameters
    ----------
    dtype : str or dtype, default "int8"
        The code type to choose parameters for.
    granularity : PerTensor, PerChannel or PerGroup, default PerTensor()
    symmetric : bool, default True
    on_nonfinite : {"ignore", "raise"}
        NaN and infinities are counted and left out, or refused.

    Raises
    ------
    ValueError
        on_nonfinite is unknown.
    TypeError
        dtype is no code type.
    ValueError
        symmetric is False for codes that are floats.
    TypeError
        granularity is no granularity.
    ValueError
        granularity is PerRow: batches have any number of rows, so no parameter belongs to one.

    Examples
    --------
    >>> import qnumpy as qn
    >>> observer = qn.MinMaxObserver(dtype="int8")
    >>> _ = observer.observe(np.array([-1.0, 12.7], np.float32))
    >>> observer.qparams()
    QParams(int8, per tensor, scale=0.1, zero_point=0)
    """

    mergeable: ClassVar[bool] = True
    methods: ClassVar[tuple[str, ...]] = ()  # `observer_for` and the command line find the class by these
    covers_all: ClassVar[bool] = False  # whether the range holds every finite element
    chooses_range: ClassVar[bool] = True  # False: it learns of the data what is no range, so it has no parameters
    _kinds: ClassVar[dict[str, type["Observer"]]] = {}
    _learned: ClassVar[tuple[str, ...]] = ("min_", "max_", "count_", "nan_", "infinite_")

    min_: Float64Array
    max_: Float64Array
    count_: Int64Array
    nan_: Int64Array
    infinite_: Int64Array

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Observer._kinds[cls.__name__] = cls

    def __init__(
        self,
        *,
        dtype: DType = "int8",
        granularity: Granularity | None = None,
        symmetric: bool = True,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        owner = type(self).__name__
        _args.choice(owner, "on_nonfinite", on_nonfinite, {"ignore": 0, "raise": 1})
        code = _args.code(owner, dtype, CODE_TYPES)
        check_scheme(owner, code, symmetric)
        self.dtype = code.name
        self.granularity = _granularity(owner, PerTensor() if granularity is None else granularity)
        self.symmetric = bool(symmetric)
        self.on_nonfinite = on_nonfinite

    # ---- the state contract ----

    def observe(self, x: RealLike) -> Self:
        """Learn from an array.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16
            Per tensor of any shape, else with as many channels or groups as before. An empty array changes nothing.

        Returns
        -------
        Observer
            Itself.

        Raises
        ------
        TypeError
            x is not real.
        ValueError
            x does not have the axis of the granularity.
        ValueError
            The channels or groups are not as many as before.
        ValueError
            x is not finite, where on_nonfinite is "raise". An array that is refused changes nothing.
        """
        owner = f"{type(self).__name__}.observe"
        source, float_type = _args.real(owner, "x", x)
        shape = self.granularity.params_shape(source.shape)
        if self._seen and shape != self.min_.shape:
            wanted = f"an array with parameters of shape {self.min_.shape}, as before"
            raise ValueError(_check.must(owner, "x", wanted, f"{shape} from shape {source.shape}"))
        if source.size == 0:
            return self
        batch = self._read(source, float_type)
        if self.on_nonfinite == "raise" and (batch.nan.any() or batch.infinite.any()):
            got = f"{int(batch.nan.sum())} NaN and {int(batch.infinite.sum())} infinities"
            raise ValueError(_check.must(owner, "x", 'finite when on_nonfinite is "raise"', got))
        self._learn(batch)
        return self

    def qparams(self) -> QParams:
        """Choose the parameters for the observed data.

        Returns
        -------
        QParams
            QParams.from_range of `range()`.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        ValueError
            The range needs a scale that float32 does not hold.
        """
        return self._from_range(*self._range(f"{type(self).__name__}.qparams"))

    def range(self) -> tuple[Float64Array, Float64Array]:
        """Return the ends of the range that `qparams` maps onto the codes.

        Returns
        -------
        low, high : ndarrays of float64
            Of the shape of the parameters; not yet widened to hold zero, nor made symmetric.

        Raises
        ------
        CalibrationError
            Nothing was observed, or nothing finite.
        """
        return self._range(f"{type(self).__name__}.range")

    def merge(self, other: Self) -> Self:
        """Add the state of another observer, as if this one had observed its arrays.

        Associative and commutative: any tree of merges over any split of the data gives the same state, to the bit.

        Parameters
        ----------
        other : Observer
            Of the same class and configuration; it does not change.

        Returns
        -------
        Observer
            Itself.

        Raises
        ------
        TypeError
            other is of another class.
        ValueError
            The configuration of other differs.
        ValueError
            The parameters of other have another shape.
        """
        owner = f"{type(self).__name__}.merge"
        if type(other) is not type(self):
            raise TypeError(_check.must(owner, "other", f"a {type(self).__name__}", _check.typed(other)))
        mine, theirs = self.get_config(), other.get_config()
        if mine != theirs:
            name = next(name for name in mine if mine[name] != theirs[name])
            raise ValueError(_check.must(owner, "other", f"made with {name}={mine[name]!r}", f"{theirs[name]!r}"))
        if not other._seen:
            return self
        shape, others = (vars(observer).get(self._learned[0], np.empty(0)).shape for observer in (self, other))
        if self._seen and shape != others:
            raise ValueError(_check.must(owner, "other", f"an observer of parameters of shape {shape}", f"{others}"))
        self._learn(other._state())
        return self

    def reset(self) -> Self:
        """Discard the learned state; keep the configuration.

        Returns
        -------
        Observer
            Itself.
        """
        for name in self._learned:
            vars(self).pop(name, None)
        return self

    # ---- configuration and storage ----

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values that JSON holds; `from_config` takes them.

        Returns
        -------
        dict
        """
        return {
            "dtype": self.dtype,
            "granularity": self.granularity.to_dict(),
            "symmetric": self.symmetric,
            "on_nonfinite": self.on_nonfinite,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a new observer with the configuration of another.

        Parameters
        ----------
        config : dict
            What `get_config` returned.

        Returns
        -------
        Observer

        Raises
        ------
        KeyError, TypeError, ValueError
            config is not what `get_config` returned.
        """
        owner = f"{cls.__name__}.from_config"
        return cls(**{**config, "granularity": Granularity.from_dict(config["granularity"], owner)})

    def to_dict(self) -> dict[str, Any]:
        """Return configuration and state as plain values that JSON holds exactly; `from_dict` takes them.

        Returns
        -------
        dict
        """
        state = {name: _plain(vars(self)[name]) for name in self._learned if name in vars(self)}
        return {"observer": type(self).__name__, "config": self.get_config(), "state": state}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the observer that `to_dict` described.

        Parameters
        ----------
        values : dict

        Returns
        -------
        Observer
            Of the class described, which is `cls` or derived from it.

        Raises
        ------
        ValueError
            values are not what `to_dict` returned, or of another class than `cls`.
        """
        return cls._parse("from_dict", "values", "what to_dict returned", values)

    def to_json(self) -> str:
        """Return configuration and state as JSON: everything, exactly, in one form only.

        Observers with equal state give equal text.

        Returns
        -------
        str
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the observer that `to_json` wrote.

        Parameters
        ----------
        text : str

        Returns
        -------
        Observer
            Of the class that wrote it, which is `cls` or derived from it.

        Raises
        ------
        ValueError
            text is not what `to_json` returned, or of another class than `cls`.
        """
        return cls._parse("from_json", "text", "what to_json returned", text, json.loads)

    @classmethod
    def _parse(
        cls, method: str, name: str, wanted: str, source: Any, read: Callable[[Any], Any] = lambda values: values
    ) -> Self:
        owner = f"{cls.__name__}.{method}"
        try:
            values = read(source)
            observer_type = Observer._kinds[values["observer"]]
            observer = observer_type.from_config(values["config"])
            observer._restore({key: _array(key, value) for key, value in values["state"].items()})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(_check.must(owner, name, wanted, _check.typed(source))) from error
        if not isinstance(observer, cls):
            raise ValueError(_check.must(owner, name, f"of a {cls.__name__}", observer_type.__name__))
        return observer

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled state; arrays from another process may be read-only or unaligned and are then copied."""
        missing = [name for name in self._learned if name not in state]
        if 0 < len(missing) < len(self._learned):
            owner, got = type(self).__name__, f"none of {', '.join(missing)}"
            raise ValueError(_check.must(owner, "the pickled state", "complete", got))
        for name, value in state.items():
            array = isinstance(value, np.ndarray)
            setattr(self, name, np.require(value, requirements=["C", "A", "W"]) if array else value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(text for _, text in self._describe())})"

    def _repr_html_(self) -> str:
        return html_facts(
            type(self).__name__, [(name, text.partition("=")[2] or text) for name, text in self._describe()]
        )

    # ---- what a subclass may override ----

    def _read(self, source: Array, float_type: FloatType) -> Any:
        """Read an array once; return a Batch, or another object with its attributes."""
        low, high, nan, infinite = extremes(source, float_type, self.granularity)
        return Batch(low, high, self.granularity.counts(source.shape) - nan - infinite, nan, infinite)

    def _state(self) -> Any:
        """Return the state in the form that `_read` returns."""
        return Batch(self.min_, self.max_, self.count_, self.nan_, self.infinite_)

    def _learn(self, batch: Any) -> None:
        """Add to the state what `_read`, or `_state` of another observer, returned."""
        if not self._seen:
            counts = batch.finite, batch.nan, batch.infinite
            self.min_, self.max_, self.count_, self.nan_, self.infinite_ = map(
                np.array, (batch.min, batch.max, *counts)
            )
            return
        self.min_, self.max_ = (np.asarray(end) for end in self._extended(batch))  # 0-d too, not a scalar
        self.count_, self.nan_ = np.asarray(self.count_ + batch.finite), np.asarray(self.nan_ + batch.nan)
        self.infinite_ = np.asarray(self.infinite_ + batch.infinite)

    def _extended(self, batch: Batch) -> tuple[Array, Array]:
        """Return the range after one more batch."""
        return np.minimum(self.min_, batch.min), np.maximum(self.max_, batch.max)

    def _restore(self, state: dict[str, Array]) -> None:
        if state and set(state) != set(self._learned):
            raise ValueError("incomplete")
        for name, value in state.items():
            setattr(self, name, value)
        if state and not self._sound():
            raise ValueError("inconsistent")

    def _sound(self) -> bool:
        """Whether there are arrays that lead to this state."""
        shape, counts = self.min_.shape, (self.count_, self.nan_, self.infinite_)
        if self.max_.shape != shape or any(count.shape != shape or (count < 0).any() for count in counts):
            return False
        none = (self.min_ == np.inf) & (self.max_ == -np.inf)
        some = np.isfinite(self.min_) & np.isfinite(self.max_) & (self.min_ <= self.max_)
        return self.granularity.has_params(len(shape)) and bool(np.where(self.count_ == 0, none, some).all())

    def _details(self) -> list[tuple[str, str]]:
        return []

    @classmethod
    def _by_method(cls, method: str, percentile: float, **config: Any) -> Self:
        """Make the observer that chooses by one of `methods`."""
        return cls(**config)

    @property
    def sketch(self) -> Sketch | None:
        """The histogram of the data, for figures and estimates; None where the observer keeps none."""
        return None

    @property
    def label(self) -> str:
        """What tables call the observer."""
        return type(self).__name__.removesuffix("Observer")

    def techniques(self) -> dict[str, QParams]:
        """Return the parameters of each technique by its name; none where the observer has one technique.

        Returns
        -------
        dict of str to QParams
        """
        return {}

    # ---- the same for all ----

    @property
    def _seen(self) -> bool:
        return self._learned[0] in vars(self)

    @property
    def _ends(self) -> tuple[Array, Array] | None:
        """The ends of what the data covers, for a calibration that stops when they rest; None before there is data."""
        return (self.min_, self.max_) if self._seen else None

    @property
    def _code(self) -> CodeType:
        return _args.code(type(self).__name__, self.dtype)

    def _check(self, owner: str) -> None:
        """Raise CalibrationError unless every parameter has a finite element."""
        if not self._seen:
            raise CalibrationError(f"{owner}: data must be observed first; got none. Call observe(x).")
        empty = self.count_ == 0
        if empty.any():
            parts = "" if empty.ndim == 0 else f" in {int(empty.sum())} of {empty.size} channels or groups"
            raise CalibrationError(_check.must(owner, "data", "finite somewhere", f"only NaN and infinities{parts}"))

    def _range(self, owner: str) -> tuple[Array, Array]:
        self._check(owner)
        return self.min_, self.max_

    def _from_range(self, low: Array, high: Array) -> QParams:
        owner = f"{type(self).__name__}.qparams"
        ends = np.minimum(low, 0.0), np.maximum(high, 0.0)
        return QParams._of_range(owner, *ends, _args.code(owner, self.dtype), self.symmetric, self.granularity)

    def _describe(self) -> list[tuple[str, str]]:
        lines = [("dtype", self.dtype), ("granularity", self.granularity.describe())]
        lines += [("scheme", "symmetric" if self.symmetric else "affine"), *self._details()]
        if not self._seen:
            return [*lines, ("seen", "nothing seen")]
        lines += [(name, f"{name}={_span(vars(self)[f'{name}_'])}") for name in ("min", "max")]
        lines.append(("seen", f"{int(self.count_.sum()):,} seen"))
        if self.nan_.any() or self.infinite_.any():
            lines.append(("not finite", f"{int(self.nan_.sum()):,} NaN, {int(self.infinite_.sum()):,} infinite"))
        return lines


class Rangeless:
    """What observers share that learn no range: a class has it before Observer."""

    chooses_range: ClassVar[bool] = False
    _what: ClassVar[str]  # they learn

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a new observer with the configuration of another.

        Parameters
        ----------
        config : dict
            What `get_config` returned.

        Returns
        -------
        Observer

        Raises
        ------
        TypeError, ValueError
            config is not what `get_config` returned.
        """
        return cls(**config)

    def qparams(self) -> NoReturn:
        """Raise TypeError: no parameters follow from what it learns.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(self._no_range("qparams"))

    def range(self) -> NoReturn:
        """Raise TypeError: what it learns has no range.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(self._no_range("range"))

    @classmethod
    def _no_range(cls, method: str) -> str:
        name = f"{cls.__name__}.{method}"
        return f"{name}: {cls._what} have no range, so that no scale follows from them. Use HistogramObserver."


def observers_by_method() -> dict[str, type[Observer]]:
    """Return the class of observers for each method, from every class that defines `methods`.

    Examples
    --------
    >>> sorted(observers_by_method())
    ['entropy', 'minmax', 'mse', 'percentile']
    """
    types = [cls for cls in Observer._kinds.values() if "methods" in vars(cls)]  # not those that inherit them
    return {method: cls for cls in sorted(types, key=lambda cls: len(cls.methods)) for method in cls.methods}


def observer_for(method: str, percentile: float = 99.99, **config: Any) -> Observer:
    """Make the observer that chooses the range by a method.

    Parameters
    ----------
    method : str
        A key of `observers_by_method`.
    percentile : float, default 99.99
        Percent of the elements inside the range, where method is "percentile".
    **config
        dtype, granularity, symmetric, on_nonfinite: as in Observer.

    Returns
    -------
    Observer

    Examples
    --------
    >>> type(observer_for("mse", dtype="int4")).__name__
    'HistogramObserver'
    """
    return observers_by_method()[method]._by_method(method, percentile, **config)


def _granularity(owner: str, value: Any) -> Granularity:
    """Return a granularity; refuse PerRow: batches have any number of rows, so no parameter belongs to one."""
    if isinstance(value, Granularity) and not isinstance(value, PerRow):
        return value
    wanted = "PerTensor(), PerChannel(axis) or PerGroup(group_size)"
    advice = " Rows are quantized as they come: quantize(x, granularity=PerRow())." if isinstance(value, PerRow) else ""
    exception = ValueError if advice else TypeError
    raise exception(_check.must(owner, "granularity", wanted, _check.typed(value)) + advice)


def _plain(value: Array) -> Any:
    """Return an array as values of JSON; null stands for the infinite ends of an empty range."""
    flat = value.ravel().tolist()
    data = [number if np.isfinite(number) else None for number in flat] if value.dtype.kind == "f" else flat
    return {"shape": list(value.shape), "data": data}


def _array(name: str, value: Any) -> Array:
    """Return the array that `_plain` turned into values of JSON."""
    if name in ("min_", "max_", "values_", "mean_", "scatter_"):
        empty = np.inf if name == "min_" else -np.inf
        flat = np.array([empty if number is None else number for number in value["data"]], np.float64)
    else:
        flat = np.array(value["data"])
        if flat.size and flat.dtype != np.int64:
            raise ValueError("not integers")
        flat = flat.astype(np.int64)
    return flat.reshape(value["shape"])


def _span(values: Array) -> str:
    if values.size == 0:
        return f"{values.shape}"
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if values.ndim == 0 else f"{low:.4g}..{high:.4g} {values.shape}"
