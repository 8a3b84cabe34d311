"""The operators ``torch.ops.qnumpy``: how one is defined, and what all of them share: arrays, weights, threads."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from .. import _check
from .._typing import Array
from ..runtime import MAX_THREADS, borrow_team, find_team

__all__: list[str] = []

_LIBRARY = torch.library.Library("qnumpy", "DEF")

_Opened = TypeVar("_Opened")


def define(
    schema: str,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
    function: type[torch.autograd.Function] | None = None,
) -> Any:
    """Register an operator and return a function that calls it.

    Parameters
    ----------
    schema : str
        As ``torch.library.Library.define`` takes it.
    cpu : callable
        Takes and returns tensors. Its calls of qnumpy run on the threads of PyTorch.
    fake : callable
        Returns tensors of the right shape and dtype.
    backward, setup_context : callable, optional
        As ``torch.library.register_autograd`` takes them; without them a gradient is refused.
    function : class, optional
        Of torch.autograd, in the place of `backward`: its calls take half as long. Its `forward` takes the tensors at
        the head of the schema, and the other arguments as one tuple; it calls operators.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    kernel = _on_threads_of_torch(cpu)
    _LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"qnumpy::{name}", fake, lib=_LIBRARY)
    overload = getattr(torch.ops.qnumpy, name).default
    if backward is not None:
        torch.library.register_autograd(f"qnumpy::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
        return _short(overload, kernel, overload)
    differentiated = _applied(_refusal(name, overload) if function is None else function, schema)
    _LIBRARY.impl(name, _differentiated(overload, differentiated), "Autograd")
    return _short(overload, kernel, differentiated)


def _applied(function: type[torch.autograd.Function], schema: str) -> Callable[..., Any]:
    """Return the call of a function with the arguments of an operator."""
    apply, types = function.apply, schema[schema.index("(") + 1 : schema.rindex("->")].split(",")
    others = [n for n, text in enumerate(types) if not text.strip().startswith(("Tensor ", "Tensor? ", "Tensor("))]
    tensors = min(others, default=len(types))
    return lambda *args: apply(*args[:tensors], args[tensors:])


def _refusal(name: str, overload: Any) -> type[torch.autograd.Function]:
    """Return a function whose gradient is refused; PyTorch itself warns, and goes on without it."""

    class Refusal(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return overload(*args[:-1], *args[-1])

        @staticmethod
        def backward(ctx: Any, *g: Any) -> Any:
            raise RuntimeError(_check.must(f"qnumpy::{name}", "the result", "without a gradient", "one of it"))

    return Refusal


def _needs_gradient(x: Tensor, args: tuple[Any, ...]) -> bool:
    if not torch.is_grad_enabled():
        return False
    if x.requires_grad:
        return True
    for other in args:  # noqa: SIM110 - any() of a generator takes three times as long
        if isinstance(other, Tensor) and other.requires_grad:
            return True
    return False


def _differentiated(overload: Any, differentiated: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of an operator for the key Autograd."""

    def call(x: Tensor, *args: Any) -> Any:
        if _needs_gradient(x, args):
            return differentiated(x, *args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(x, *args)

    return call


def _short(overload: Any, kernel: Callable[..., Any], differentiated: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operator as a function that goes around the dispatcher where nothing records calls.

    The dispatcher takes as long as quantizing 10,000 elements.
    """

    def call(x: Tensor, *args: Any) -> Any:
        if not is_plain(x):
            return overload(x, *args)
        return (differentiated if _needs_gradient(x, args) else kernel)(x, *args)

    return call


_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(x: Tensor) -> bool:
    """Return whether a kernel may read a tensor at once: it is on the CPU, and nothing records calls."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in _PLAIN
        and x.is_cpu
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
        and not torch._C._autograd._profiler_enabled()
    )


# ---- tensors and arrays over the same memory ----

# Types that NumPy or Tensor.numpy lacks, with an unsigned integer of the same bytes.
_TYPES = {
    np.dtype(ml_dtypes.bfloat16): (torch.bfloat16, torch.uint16, np.uint16),
    np.dtype(ml_dtypes.float8_e4m3fn): (torch.float8_e4m3fn, torch.uint8, np.uint8),
    np.dtype(ml_dtypes.float8_e5m2): (torch.float8_e5m2, torch.uint8, np.uint8),
    np.dtype(ml_dtypes.float8_e4m3fnuz): (torch.float8_e4m3fnuz, torch.uint8, np.uint8),
    np.dtype(ml_dtypes.float8_e5m2fnuz): (torch.float8_e5m2fnuz, torch.uint8, np.uint8),
}
_POWERS = np.dtype(ml_dtypes.float8_e8m0fnu)
_CARRIERS = {own: (carrier, dtype) for dtype, (own, carrier, _) in _TYPES.items()}


def array_of(x: Tensor) -> Array:
    """Return the array over the memory of a tensor on the CPU."""
    found = _CARRIERS.get(x.dtype)
    if found is None:
        array: Array = (x.detach() if x.requires_grad else x).numpy()
        return array
    carrier, dtype = found
    return x.detach().view(carrier).numpy().view(dtype)


def tensor_of(array: Array) -> Tensor:
    """Return the tensor over the memory of an array; one that is read-only is copied.

    float8_e8m0fnu becomes uint8: PyTorch has the type since 2.7 only.
    """
    array = array if array.flags.writeable else array.copy()
    found = _TYPES.get(array.dtype)
    if found is None:
        return torch.from_numpy(array.view(np.uint8) if array.dtype == _POWERS else array)
    own, _, carrier = found
    return torch.from_numpy(array.view(carrier)).view(own)


# ---- weights that are opened once ----

# The layout of a weight and the identity of its tensors -> these tensors, their versions, and what was made of them. An
# entry is valid as long as these very tensors live and nothing has written to them.
_opened: dict[tuple[Any, ...], tuple[list[ref[Tensor]], list[int], Any]] = {}


def opened(tensors: Sequence[Tensor], layout: str, make: Callable[[Sequence[Tensor], str], _Opened]) -> _Opened:
    """Return what `make` returns for the tensors, from an earlier call if they have not changed."""
    key = (layout, *map(id, tensors))
    entry = _opened.get(key)
    versions = [_version(x) for x in tensors]
    if entry is not None:
        owners, written, result = entry
        if written == versions and all(o() is x for o, x in zip(owners, tensors, strict=True)):
            found: _Opened = result
            return found
    result = make(tensors, layout)

    def forget(owner: Any) -> None:
        entry = _opened.get(key)
        if entry is not None and entry[0][0] is owner:
            del _opened[key]

    owners = [ref(tensors[0], forget), *map(ref, tensors[1:])]
    _opened[key] = owners, versions, result
    return result


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


# ---- threads ----


def _find_team() -> None:
    """Find the threads of the OpenMP library that PyTorch has loaded; without it each call runs on its own thread."""
    home = Path(torch.__file__).parent
    paths = [*home.glob("lib/libgomp*"), *home.parent.glob("torch.libs/libgomp*"), "libgomp.so.1"]
    any(find_team(str(path)) for path in paths)


_find_team()


def _on_threads_of_torch(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel whose calls of qnumpy take as many threads as PyTorch has, out of its pool.

    The threads of a second pool would wait for work while those of the first compute, and take their cores.
    """

    @wraps(kernel)
    def run(*args: Any) -> Any:
        borrow_team(min(torch.get_num_threads(), MAX_THREADS))
        try:
            return kernel(*args)
        finally:
            borrow_team(0)

    return run


def evaluated(name: str, training: bool) -> None:
    """Refuse to train a converted module."""
    if training:
        text = _check.must(f"{name}.train", "mode", "False for a module of codes", "True")
        raise RuntimeError(text + " Train a model of qnumpy.torch.prepare_qat, and convert it.")
