"""Casts between float32 and the narrow float formats, and from float64.

The peer "NumPy" is ``np.copyto``, which runs ml_dtypes for the formats of that package.
"""

from collections.abc import Iterator

import numpy as np

import qnumpy as qn
from qnumpy.dtypes import FLOAT_TYPES

from .. import harness
from ..harness import Array, Case

FORMATS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn")


def cast(source: str, target: str, elements: int, threads: int) -> Case:
    """One cast into a buffer; NumPy's copy is the oracle."""
    source_type, target_type = FLOAT_TYPES[source], FLOAT_TYPES[target]
    values = np.random.default_rng(0).standard_normal(elements, np.float32)
    bits = harness.aligned(values.shape, source_type.storage)
    out = harness.aligned(values.shape, target_type.storage)
    x, typed = bits.view(source_type.dtype), out.view(target_type.dtype)
    np.copyto(x, values, casting="unsafe")
    case = harness.elementwise(
        f"cast {source} to {target}", bits, out, threads,
        lambda: qn.cast(x, target, out=typed), lambda: np.copyto(typed, x, casting="unsafe"),
    )  # fmt: skip
    return torch(case, x, typed)


def torch(case: Case, x: Array, out: Array) -> Case:
    """Add PyTorch if it is installed and has both types."""
    module = harness.torch()
    if module is None or not all(hasattr(module, array.dtype.name) for array in (x, out)):
        return case
    module.set_num_threads(case.threads)
    source, target = (
        module.from_numpy(array.view(f"i{array.itemsize}")).view(getattr(module, array.dtype.name))
        for array in (x, out)
    )
    case.peers["PyTorch"] = lambda: target.copy_(source)
    return case


def cases(threads: int) -> Iterator[Case]:
    for (elements,) in (harness.SMALL, harness.LARGE):
        for narrow in FORMATS:
            yield cast("float32", narrow, elements, threads)
            yield cast(narrow, "float32", elements, threads)
        yield cast("float64", "float16", elements, threads)
