"""Casts between float32 and the narrow float formats, and from float64.

The column "NumPy" is ``np.copyto``, which runs ml_dtypes where the format is one of its own.

Run: ``python -m benchmarks.bench_floats --markdown``
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import qnumpy as qn
from qnumpy.dtypes import FLOAT_TYPES

from . import harness
from .harness import Array, Case

FORMATS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn")


def cast(source: str, to: str, shape: tuple[int, ...], threads: int, **options: Any) -> Case:
    """One cast into a buffer; NumPy's copy is the oracle."""
    here, there = FLOAT_TYPES[source], FLOAT_TYPES[to]
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    x, out = harness.aligned(shape, here.storage).view(here.dtype), harness.aligned(shape, there.storage)
    np.copyto(x, values, casting="unsafe")
    typed = out.view(there.dtype)
    case = Case(f"{source} to {to}", "", x.view(here.storage), out, threads)
    case.calls["qnumpy"] = lambda: qn.cast(x, to, out=typed, **options)
    case.calls["NumPy"] = lambda: np.copyto(typed, x, casting="unsafe")
    case.results = dict.fromkeys(case.calls, lambda: [out])
    return torch(case, x, typed)


def torch(case: Case, x: Array, out: Array) -> Case:
    """Add PyTorch where it is installed and has both types."""
    found = harness.torch()
    if found is None or not all(hasattr(found, array.dtype.name) for array in (x, out)):
        return case
    found.set_num_threads(case.threads)
    tensors = [found.from_numpy(array.view(f"i{array.itemsize}")) for array in (x, out)]
    x_, out_ = (tensor.view(getattr(found, array.dtype.name)) for tensor, array in zip(tensors, (x, out), strict=True))
    case.calls["PyTorch"], case.results["PyTorch"] = lambda: out_.copy_(x_), case.results["qnumpy"]
    return case


def cases(shape: tuple[int, ...], threads: int) -> Iterator[Case]:
    if len(shape) == 1:
        for narrow in FORMATS:
            yield cast("float32", narrow, shape, threads)
            yield cast(narrow, "float32", shape, threads)
        yield cast("float64", "float16", shape, threads)


if __name__ == "__main__":
    harness.main(__doc__.splitlines()[0], cases)
