"""Without memory: MemoryError, nothing kept, and the same call is right once there is memory again.

Every allocation of the extension fails once, one after the other, in a process that preloads failing_malloc.c; and the
address space of a process ends where a large call begins.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qnumpy as qn

HERE = Path(__file__).parent


def calls():
    """Name -> call, of everything that allocates in C; sizes reach the threads where there are any."""
    rng = np.random.default_rng(0)
    real, few = (rng.standard_normal((96, n)).astype(np.float32) for n in (512, 20))
    a, b = rng.integers(-128, 128, (500, 512)).astype(np.int8), rng.integers(0, 256, (512, 256)).astype(np.uint8)
    words = rng.integers(-(2**15), 2**15, (20, 300)).astype(np.int16)
    deep = rng.integers(0, 256, (20, 40_000)).astype(np.uint8)
    w = rng.standard_normal((512, 256)).astype(np.float32)
    per_channel = qn.quantize(w, granularity=qn.PerChannel(1))
    grouped = qn.quantize(w, dtype="int4", granularity=qn.PerGroup(32, axis=0))
    packed, packed4 = qn.PackedWeight(per_channel), qn.PackedWeight(grouped)
    x = rng.integers(0, 256, (2, 32, 48, 48)).astype(np.uint8)
    kernel = rng.integers(-128, 128, (32, 32, 3, 3)).astype(np.int8)
    zero = np.uint8(3)
    tall = rng.standard_normal((600, 20)).astype(np.float32)  # more rows than a band has
    saved, saved_columns = qn.qat.lsq(real, 0.1)[1], qn.qat.lsq(tall, np.ones(20), granularity=qn.PerChannel(1))[1]
    seen = qn.HistogramObserver().observe(real)
    each = qn.HistogramObserver(granularity=qn.PerChannel(1)).observe(few)

    def chosen(method):
        return lambda: qn.HistogramObserver(method=method).observe(few).qparams().scale

    return {
        "matmul_integer": lambda: qn.matmul_integer(a, b, 3, 128),
        "matmul_integer, one row": lambda: qn.matmul_integer(a[:1], b, 3, 128),
        "matmul_integer, a stack": lambda: qn.matmul_integer(np.stack([a, a]), b),
        "matmul_integer, int16": lambda: qn.matmul_integer(words >> 6, words.T >> 6),
        "matmul_integer, sums in int64": lambda: qn.matmul_integer(deep, deep.T >> 4),
        "PackedWeight": lambda: real[:1] @ qn.PackedWeight(per_channel),
        "PackedWeight of int4": lambda: real[:1] @ qn.PackedWeight(grouped),
        "packed @": lambda: real @ packed,
        "packed @, one row": lambda: real[:1] @ packed,
        "int4 @": lambda: real @ packed4,
        "conv2d_integer": lambda: qn.conv2d_integer(x, kernel, 7, padding=1),
        "conv2d_integer, depthwise": lambda: qn.conv2d_integer(x, kernel[:, :1], 7, padding=1, strides=2, groups=32),
        "qlinear_conv2d": lambda: qn.qlinear_conv2d(x, 1.0, 7, kernel, 0.1, 0, 5.0, zero, padding=1),
        "qlinear_conv2d, depthwise": lambda: qn.qlinear_conv2d(x, 1.0, 7, kernel[:, :1], 0.1, 0, 5.0, zero, groups=32),
        "qlinear_matmul": lambda: qn.qlinear_matmul(a, 0.1, np.int8(0), b, 0.1, zero, 9.0, zero),
        "min_max": lambda: qn.min_max(real, qn.PerChannel(1))[0],
        "mse": lambda: qn.choose_qparams(real, method="mse").scale,
        "mse of columns": lambda: qn.choose_qparams(few, granularity=qn.PerChannel(1), method="mse").scale,
        "entropy": lambda: qn.choose_qparams(few, method="entropy").scale,
        "percentile": lambda: qn.choose_qparams(real, granularity=qn.PerChannel(0), method="percentile").scale,
        "HistogramObserver, mse": chosen("mse"),
        "HistogramObserver, entropy": chosen("entropy"),
        "HistogramObserver, percentile": chosen("percentile"),
        "HistogramObserver.merge": lambda: qn.HistogramObserver().merge(seen).merge(seen).qparams().scale,
        "HistogramObserver of columns": lambda: qn.HistogramObserver.from_config(each.get_config())
        .merge(each).observe(few).qparams().scale,
        "dynamic_quantize_linear": lambda: qn.dynamic_quantize_linear(real)[0],
        "lsq_vjp": lambda: qn.qat.lsq_vjp(real, saved)[1],
        "lsq_vjp of columns": lambda: qn.qat.lsq_vjp(tall, saved_columns)[1],
    }  # fmt: skip


if __name__ != "__main__":
    NAMES = list(calls())


def outcome_of(call, want, library):
    """Let the first, second, ... allocation of a call fail until none is left; return their number, what went wrong."""
    for n in range(1000):
        before, got, caught = library.not_freed(), None, ""
        library.fail_after(n)
        try:
            got = call()
        except MemoryError:
            caught = "MemoryError"
        except Exception as error:
            caught = repr(error)
        failed = library.disarm()
        if not failed:
            right = not caught and np.array_equal(got, want)
            return n, "" if right else f"without a failure: {caught or 'another result'}"
        if caught != "MemoryError":
            return n, f"allocation {n} fails: {caught or 'no error'}"
        del got
        if library.not_freed() != before:
            return n, f"allocation {n} fails: {library.not_freed() - before} others are kept"
        if not np.array_equal(call(), want):
            return n, f"after allocation {n} has failed: another result"
    return n, "allocations do not end"


def child(library_path):
    """Runs in the process that preloads failing_malloc.c."""
    library = ctypes.CDLL(library_path)
    library.fail_after.argtypes = [ctypes.c_long]
    library.watch.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "/_core." in line]
    ends = [end for line in lines if line[-1] == qn._core.__file__ for end in line[0].split("-")]
    own, python = (ctypes.c_void_p * 5)(), ctypes.pythonapi
    library.hook.restype = ctypes.c_void_p
    python.PyMem_GetAllocator(0, own)
    python.PyMem_SetAllocator(0, ctypes.c_void_p(library.hook(own)))
    results = {}
    for name, call in calls().items():
        want = np.array(call())
        results[name] = {}
        library.watch(int(ends[0], 16), int(ends[-1], 16))
        for threads in (1, 2):
            with qn.threads(threads):
                call()
                results[name][threads] = outcome_of(call, want, library)
        library.watch(0, 0)
    print(json.dumps(results))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    if not shutil.which("cc") or not hasattr(ctypes.CDLL(None), "__libc_memalign"):
        pytest.skip("needs a C compiler and glibc")
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("AddressSanitizer has a malloc of its own")
    library = tmp_path_factory.mktemp("malloc") / "failing_malloc.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", HERE / "support" / "failing_malloc.c", "-o", library], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONMALLOC": "pymalloc"}
    done = subprocess.run([sys.executable, __file__, library], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES if __name__ != "__main__" else ())
def test_every_allocation_may_fail(name, outcomes):
    for threads, (count, problem) in outcomes[name].items():
        assert not problem, f"{threads} threads: {problem}"
        assert count > 0, "nothing was allocated"


LIMITED = """
import resource, sys
import numpy as np
import qnumpy as qn

def size():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize()

qn.set_num_threads(1)
a, b = np.ones((40, 4096), np.int16), np.ones((4096, 4096), np.int16)  # packed whole
w = qn.QuantizedArray(np.ones((4096, 4096), np.int8), qn.QParams(0.5, 0))
groups = qn.QParams(np.ones((8, 4096), np.float32), np.zeros((8, 4096), np.int32), "int4", qn.PerGroup(128, 0))
w4 = qn.QuantizedArray(w.codes[:1024].astype(groups.dtype), groups)
x, kernel = np.ones((1, 64, 99, 99), np.uint8), np.ones((16, 64, 3, 3), np.int8)
sums, image = np.empty((40, 4096), np.int32), np.empty((1, 16, 99, 99), np.int32)
calls = {
    "matmul_integer": lambda: qn.matmul_integer(a, b, out=sums),
    "PackedWeight": lambda: qn.PackedWeight(w).nbytes,
    "PackedWeight of 4 bits": lambda: qn.PackedWeight(w4).nbytes,
    "conv2d_integer": lambda: qn.conv2d_integer(x, kernel, padding=1, out=image),
}
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
for name, call in calls.items():
    for _ in range(2):
        sizes = []
        for _ in range(5):
            resource.setrlimit(resource.RLIMIT_AS, (size() + 2**16, hard))
            try:
                call()
                print(name, "has found memory")
            except MemoryError:
                sizes.append(size())
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if sizes and sizes[-1] > sizes[0]:
            print(name, "grows:", sizes)
    call()
assert (sums == 4096).all() and image.max() == 576 and image.min() == 256
"""


@pytest.mark.memory
def test_an_address_space_that_ends():
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back at once
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


if __name__ == "__main__":
    child(sys.argv[1])
