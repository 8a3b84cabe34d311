"""A MomentsObserver beside the product of the same rows by itself, in float64 and in float32."""

from collections.abc import Iterator

import numpy as np

import qnumpy as qn

from .. import harness
from ..harness import Case, Check
from ..ops.bench_matmul import set_blas_threads

ROWS = 4675  # tokens of 200 sentences, the inputs of a layer of all-MiniLM-L6-v2


def cases(threads: int) -> Iterator[Case]:
    set_blas_threads()(threads)
    for inputs in (384, 1536):
        x = np.random.default_rng(inputs).standard_normal((ROWS, inputs), dtype=np.float32)
        wide = x.astype(np.float64)
        case = Case(f"{ROWS} x {inputs}", "job", ROWS * inputs * inputs, threads)
        observer = qn.MomentsObserver()

        def observe(observer: qn.MomentsObserver = observer, x: harness.Array = x) -> None:
            observer.reset().observe(x)

        case.ours["MomentsObserver"] = observe
        case.checks["MomentsObserver"] = Check(
            lambda o=observer: [o.covariance(centered=False) * ROWS], [wide.T @ wide], tolerance=2.0**-13
        )
        case.peers["NumPy, float64"] = lambda wide=wide: wide.T @ wide
        case.peers["NumPy, float32"] = lambda x=x: x.T @ x
        yield case
