"""Integer products beside the float32 product of the same shape and peers; thin ones beside a read of b.

The limit of a large product is BLAS sgemm (NumPy's), that of a thin one a loop that reads the weights once. A product
of ONNX Runtime takes part where it is exact: its u8 x s8 saturates on CPUs without VNNI.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Array, Case, Check

LARGE = [(192,) * 3, (768,) * 3, (1536,) * 3, (128, 384, 1536), (128, 1536, 384), (512, 4096, 4096)]
THIN = [(1, 4096, 4096), (4, 4096, 4096), (16, 4096, 4096), (1, 8192, 8192), (16, 8192, 8192)]
THINNEST = 16  # most rows of a thin product: arithmetic limits larger ones
SIGMAS = 4  # standard deviations of the largest Gaussian weight


@cache
def set_blas_threads() -> Callable[[int], object]:
    """The setter of the OpenBLAS that NumPy has loaded; a function without effect if NumPy uses another BLAS."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "openblas" in line}
    for path in paths:
        library = ctypes.CDLL(path)
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
            if hasattr(library, name):
                setter: Callable[[int], object] = getattr(library, name)
                return setter
    return lambda n: None


def exact(a: Array, b: Array) -> Array:
    """The product in float64, whose sums are exact here."""
    return (a.astype(np.float64) @ b).astype(np.int32)


def packed(case: Case, name: str, a: Array, b: Array, product: Array) -> None:
    """Add the product with packed weights, to float32 with a scale of 1."""
    codes = qn.QuantizedArray(a, qn.QParams(1, 0, "int8"))
    weight = qn.PackedWeight(qn.QuantizedArray(b, qn.QParams(1, 0, "int8")))
    out = np.empty(product.shape, np.float32)
    case.ours[name] = lambda: weight.matmul(codes, out=out)
    case.checks[name] = Check(lambda: [out], [product.astype(np.float32)])


def product(m: int, k: int, n: int, threads: int) -> Case:
    rng = np.random.default_rng(m + k + n)
    b = harness.aligned((k, n), np.int8)
    b[...] = rng.integers(-128, 128, b.shape)
    a = rng.integers(-128, 128, (m, k)).astype(np.int8)
    sums = exact(a, b)
    case = Case(f"{m} x {k} x {n}", "thin product" if m <= THINNEST else "product", m * k * n, threads)
    for name, right in (("int8 product", b), ("int8 product, b transposed", np.asfortranarray(b))):
        out = np.empty((m, n), np.int32)
        case.ours[name] = lambda right=right, out=out: qn.matmul_integer(a, right, out=out)
        case.checks[name] = Check(lambda out=out: [out], [sums])
    packed(case, "int8 product, b packed", a, b, sums)
    if m > THINNEST:
        bell = np.clip(np.rint(rng.standard_normal(b.shape) * (127 / SIGMAS)), -127, 127).astype(np.int8)
        packed(case, "int8 product, b packed, Gaussian", a, bell, exact(a, bell))
        real_a, real_b, real = a.astype(np.float32), b.astype(np.float32), np.empty((m, n), np.float32)
        case.limits["BLAS sgemm"] = lambda: np.matmul(real_a, real_b, out=real)
    else:
        case.limits = harness.traffic(b.reshape(-1).view(np.float32), None, threads)
    with suppress(ImportError):
        onnx(case, a.view(np.uint8) ^ 128, b)
    torch = harness.torch()
    if torch is not None and m > THINNEST:
        torch.set_num_threads(threads)
        tensors = torch.from_numpy(a), torch.from_numpy(b)
        case.peers["PyTorch"] = lambda: torch._int_mm(*tensors)
    return case


def onnx(case: Case, a: Array, b: Array) -> None:
    """Add ONNX Runtime with uint8 by uint8, and by int8 where that is exact."""
    from onnx import helper

    node = helper.make_node("MatMulInteger", ["x", "b"], ["y"])
    for name, right in (("ONNX Runtime", b.view(np.uint8) ^ 128), ("ONNX Runtime s8", b)):
        out, sums = np.empty((len(a), b.shape[1]), np.int32), exact(a, right)
        call = harness.onnx_session([node], a, {"b": right}, {"y": out}, case.threads)
        call()
        if right is not b or np.array_equal(out, sums):
            case.peers[name], case.checks[name] = call, Check(lambda out=out: [out], [sums])


def cases(threads: int) -> Iterator[Case]:
    set_blas_threads()(threads)
    for shape in (*LARGE, *THIN):
        yield product(*shape, threads)
