"""Calls of a model that wait inside `tap`, so that its layers can be replaced while it runs.

A *stage* is a list of neighbouring layers that get one array as their input, such as query, key and value. A *walk* is
one call of ``run(batch)`` in a thread of its own: it waits at the first layer of every stage. Only one thread runs at a
time, so the walks are coroutines that need no change in `run`.
"""

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple

import numpy as np

from .. import _args, _check
from .._typing import Array
from ..observers.tap import listener

__all__ = ["RESIDUAL", "Stage", "Walk", "of_quantized_model", "survey", "trim", "walking"]

RESIDUAL = ".residual"
_SAMPLES = 64

# what a `run` may ask that also has weights which were rounded before: whether this call is of the quantized model
of_quantized_model: ContextVar[bool] = ContextVar("qnumpy.of_quantized_model", default=False)


class Stage(NamedTuple):
    """Layers that get the same input, in the order of their taps, and those of them whose residual is tapped."""

    names: list[str]
    residuals: set[str]


class _Stop(BaseException):
    """Ends a walk that nobody waits for; `run` has no reason to catch it."""


def survey(
    owner: str,
    layers: MutableMapping[str, Any],
    inputs: Mapping[str, int],
    blank: Callable[[str], Any],
    run: Callable[[Any], Any],
    batch: Any,
) -> list[Stage]:
    """Call ``run(batch)`` with the float weights and return the stages in their order.

    Each layer is `blank`, which spreads NaN, except from its tap to the next stage: a `run` that reads it at another
    time, when walks would show it the wrong weights, gives itself away.
    """
    floats = dict(layers)
    stages: list[Stage] = []
    met: set[str] = set()
    residuals: set[str] = set()
    last: tuple[Array, tuple[Any, ...]] | None = None  # the array, so that no other one gets its memory

    def listen(name: str, x: Any) -> Any:
        nonlocal last
        if (layer := name.removesuffix(RESIDUAL)) in floats and layer != name and name not in floats:
            if layer in met:
                text = _check.must(owner, "run", f"a function that taps {name!r} before {layer!r}", "the other order")
                raise ValueError(text)
            _args.real(owner, name, x)
            residuals.add(layer)
            return x
        if name not in floats:
            return x
        if name in met:
            raise ValueError(_check.must(owner, "run", "a function that taps a layer once", f"{name!r} again"))
        source = _input(owner, name, x, inputs[name])
        met.add(name)
        identity = _identity(source)
        if last is None or identity != last[1]:
            if not np.isfinite(source).all():
                text = _check.must(owner, f"the input of {name!r}", "finite", "NaN or infinities")
                raise ValueError(text + " A layer is NaN unless run reads it after its tap and before the next one.")
            for other in stages[-1].names if stages else ():
                layers[other] = blank(other)
            stages.append(Stage([], set()))
            last = source, identity
        stages[-1].names.append(name)
        if name in residuals:
            stages[-1].residuals.add(name)
        layers[name] = floats[name]
        return x

    token = listener.set(listen)
    try:
        for name in floats:
            layers[name] = blank(name)
        run(batch)
    finally:
        listener.reset(token)
        layers.update(floats)
    absent = [name for name in floats if name not in met]
    if absent:
        requirement = "names of layers whose input run taps"
        raise ValueError(_check.must(owner, "the keys of layers", requirement, repr(absent[0])))
    return stages


def _identity(x: Array) -> tuple[Any, ...]:
    """Return what two taps of one array have in common: the memory, and the content, which may change in place."""
    content = zlib.crc32(np.ascontiguousarray(x).view(np.uint8).data)
    return x.__array_interface__["data"][0], x.shape, x.strides, x.dtype, content


def _sample(x: Array) -> Array:
    """Return a copy of some elements."""
    return x.reshape(-1)[:: max(x.size // _SAMPLES, 1)].copy() if x.flags.c_contiguous else x[..., :1].copy()


def _input(owner: str, name: str, x: Any, inputs: int) -> Array:
    source, _ = _args.real(owner, f"the input of {name!r}", x)
    if source.ndim == 0 or source.shape[-1] != inputs:
        got = f"shape {source.shape}"
        raise ValueError(_check.must(owner, f"the input of {name!r}", f"of shape (..., {inputs})", got))
    return source


class Walk:
    """One call of ``run(batch)``, which `advance` lets go to the first layer of the next stage.

    Attributes
    ----------
    x : ndarray
        The input of the stage where it waits.
    residuals : dict of str to ndarray
        What is added to the outputs of layers of this stage.
    replace : callable or None
        What the layers of this stage get in place of their input.
    """

    def __init__(
        self,
        owner: str,
        run: Callable[[Any], Any],
        batch: Any,
        stages: list[Stage],
        inputs: Mapping[str, int],
        *,
        quantized: bool,
    ) -> None:
        self._owner, self._stages, self._inputs = owner, stages, inputs
        self._at = 0  # stages whose first layer has been met
        self._left: set[str] = set()  # taps of the current stage that are still to come
        self.x: Array | None = None
        self.residuals: dict[str, Array] = {}
        self._samples: list[Array] = []
        self.replace: Callable[[Array], Array] | None = None
        self._replaced: Array | None = None
        self._go, self._halt = threading.Semaphore(0), threading.Semaphore(0)
        self._started = self._done = self._stopping = False
        self._error: BaseException | None = None
        context = copy_context()
        context.run(of_quantized_model.set, quantized)
        self._thread = threading.Thread(target=context.run, args=(self._walk, run, batch), daemon=True)

    # ---- in the thread of the caller ----

    def advance(self) -> None:
        """Run until the first layer of the next stage, and raise what `run` raises."""
        self.x, self._replaced = None, None
        if self._started:
            self._go.release()
        else:
            self._thread.start()
            self._started = True
        self._halt.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._done:
            self._refuse("the end")

    def check(self) -> None:
        """Raise ValueError where another call of `run` has written to what this one taps."""
        assert self.x is not None
        for array, sample in zip((self.x, *self.residuals.values()), self._samples, strict=True):
            if not np.array_equal(_sample(array).view(np.uint8), sample.view(np.uint8)):
                requirement = "a function whose calls write to no common buffer"
                raise ValueError(_check.must(self._owner, "run", requirement, "two calls that do"))

    def stop(self) -> None:
        """End the thread: at once if it waits, else at its next tap. What `run` raises meanwhile is lost."""
        self._stopping = True
        if self._started:
            self._go.release()
            self._thread.join()
        self.x, self._replaced, self._error = None, None, None
        self.residuals = {}

    # ---- in the thread of the walk ----

    def _walk(self, run: Callable[[Any], Any], batch: Any) -> None:
        listener.set(self._listen)
        try:
            run(batch)
        except _Stop:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._done = True
            self._halt.release()

    def _listen(self, name: str, x: Any) -> Any:
        if self._stopping:
            raise _Stop
        layer = name if name in self._inputs else name.removesuffix(RESIDUAL)
        if layer not in self._inputs:
            return x
        ahead = self._stages[self._at] if self._at < len(self._stages) else None
        if layer != name:
            if ahead is None or layer not in ahead.residuals:
                self._refuse(repr(name))
            self.residuals[layer] = _args.real(self._owner, name, x)[0]
            return x
        if ahead is not None and name == ahead.names[0]:
            if self._left or ahead.residuals - self.residuals.keys():
                self._refuse(repr(name))
            self.x = _input(self._owner, name, x, self._inputs[name])
            self._samples = [_sample(array) for array in (self.x, *self.residuals.values())]
            self._at += 1
            self._left = set(ahead.names[1:])
            self._halt.release()
            self._go.acquire()
            if self._stopping:
                raise _Stop
            self.residuals = {}
        elif name in self._left:
            self._left.discard(name)
        else:
            self._refuse(repr(name))
        if self.replace is None:
            return x
        if self._replaced is None:
            self._replaced = self.replace(np.asarray(x))
        return self._replaced

    def _refuse(self, got: str) -> None:
        requirement = "a function that taps the same layers in the same order in every batch"
        raise ValueError(_check.must(self._owner, "run", requirement, f"{got} out of turn"))


@contextmanager
def walking(walks: list[Walk]) -> Iterator[None]:
    """End every walk when the block is left."""
    try:
        yield
    finally:
        for walk in walks:
            walk.stop()


def trim() -> None:
    """Return freed memory to the system: glibc keeps a heap for every thread, each as large as its walk ever was."""
    import ctypes  # takes milliseconds, which `import qnumpy` does without

    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
