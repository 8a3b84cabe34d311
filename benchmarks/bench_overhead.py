"""The overhead of a call and the import: calls on 64 elements beside np.add; import qnumpy without its dependencies."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np

import qnumpy as qn

from . import harness
from .harness import Case, Check, Entry

IMPORT = "import numpy, ml_dtypes, time; t = time.perf_counter(); import qnumpy; print(time.perf_counter() - t)"


def case() -> Case:
    """Calls on 64 float32, every result into a buffer."""
    x = np.linspace(-3, 3, 64, dtype=np.float32)
    codes, reals = np.empty(64, np.int8), np.empty(64, np.float32)
    scale, zero = np.float32(0.05), np.int8(3)
    qparams = qn.QParams(np.asarray(scale), np.asarray(zero, np.int32))
    case = Case("64", "call", 64, 1, limits={"np.add": lambda: np.add(x, x, out=reals)})
    case.ours = {
        "call of quantize_linear": lambda: qn.quantize_linear(x, scale, zero, out=codes),
        "call of dequantize_linear": lambda: qn.dequantize_linear(codes, scale, zero, out=reals),
        "call of fake_quantize": lambda: qn.fake_quantize(x, qparams, out=reals),
        "call of min_max": lambda: qn.min_max(x),
    }
    expected = np.clip(np.rint(x / scale) + 3, -128, 127)
    case.checks["call of quantize_linear"] = Check(lambda: [codes], [expected])
    return case


def entries(effort: tuple[int, float]) -> Iterator[Entry]:
    yield from harness.measure(case(), effort, {})
    command = [sys.executable, "-c", IMPORT]
    seconds = [
        float(subprocess.run(command, capture_output=True, text=True, check=True, env=harness.ENVIRONMENT).stdout)
        for _ in range(effort[0])
    ]
    yield harness.entry("import qnumpy", Case("", "job", 1, 1), harness.rows()[-1], seconds, None, {})
