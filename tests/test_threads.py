"""Threads change the time, never the result: settings, the pool's life, forks, and several callers at once."""

import asyncio
import contextvars
import gc
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from strategies import GRIDS, assert_same_bits

import qnumpy as qn
from qnumpy.ops.gradients import fake_quantize_inside, keep_inside, quantization_gradients
from qnumpy.ops.reduce import ranges

N = 1 << 20  # elements; several pieces for each of eight threads
# Later Pythons warn of a fork beside threads: the very thing that is tested.
QUIET = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)"
LARGE = "qn.quantize_linear(np.zeros(1 << 22, np.float32), 0.5)\n"
needs_tasks = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")


@pytest.fixture(autouse=True)
def put_back():
    before = qn.num_threads()
    yield
    qn.set_num_threads(before)


def python(code, first="", **environment):
    """Run code in an interpreter of its own, which finds the same qnumpy; `tasks` counts the threads of the process.

    `first` runs before qnumpy is imported.
    """
    start = "import os\ntasks = lambda: len(os.listdir('/proc/self/task'))\n"
    paths = os.pathsep.join(path for path in sys.path if path)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("QNUMPY_")}
    argv = [sys.executable, "-P", "-c", f"{start}{first}\nimport numpy as np, qnumpy as qn\n{code}"]
    env = {**plain, "PYTHONPATH": paths, **environment}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)


# ---- settings ----


@pytest.mark.parametrize("n", [1, 2, 3, 256])
def test_set_num_threads(n):
    qn.set_num_threads(n)
    assert qn.num_threads() == qn.show_config()["num_threads"] == n


def test_threads_is_undone_even_by_an_exception():
    qn.set_num_threads(3)
    with qn.threads(2):
        assert qn.num_threads() == 2
        with qn.threads(5):
            assert qn.num_threads() == 5
        assert qn.num_threads() == 2
    assert qn.num_threads() == 3
    with pytest.raises(KeyError), qn.threads(1):
        raise KeyError
    assert qn.num_threads() == 3


@pytest.mark.parametrize("n", [0, -1, 257, 2**70])
def test_bad_counts(n):
    qn.set_num_threads(2)
    want = f": n must be an integer from 1 to 256; got {re.escape(repr(n))}\\.$"
    with pytest.raises(ValueError, match=f"^set_num_threads{want}"):
        qn.set_num_threads(n)
    with pytest.raises(ValueError, match=f"^threads{want}"), qn.threads(n):
        pass
    assert qn.num_threads() == 2


@pytest.mark.parametrize("n", [1.0, 1.5, "2", None, True, [1]])
def test_counts_that_are_no_integers(n):
    qn.set_num_threads(2)
    want = f": n must be an integer; got {re.escape(repr(n))}\\.$"
    with pytest.raises(TypeError, match=f"^set_num_threads{want}"):
        qn.set_num_threads(n)
    with pytest.raises(TypeError, match=f"^threads{want}"), qn.threads(n):
        pass
    assert qn.num_threads() == 2


def test_numpy_integers_are_integers():
    qn.set_num_threads(np.int64(2))
    assert qn.num_threads() == 2


@pytest.mark.parametrize("value", ["1", "3", "256"])
def test_the_environment_sets_the_count(value):
    done = python("print(qn.num_threads())", QNUMPY_NUM_THREADS=value)
    assert (done.stdout, done.stderr) == (f"{value}\n", "")


@pytest.mark.parametrize("value", ["0", "257", "-1", "two", "1.5", " 2", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_bad_count_in_the_environment_is_refused_at_first_use(value):
    assert python("", QNUMPY_NUM_THREADS=value).returncode == 0
    done = python("qn.num_threads()", QNUMPY_NUM_THREADS=value, PYTHONIOENCODING="utf-8")
    assert done.returncode == 1
    want = f"ValueError: qnumpy: QNUMPY_NUM_THREADS must be an integer from 1 to 256; got {value!r}."
    assert done.stderr.splitlines()[-1] == want


def test_by_default_no_more_threads_than_cpus_this_process_may_run_on():
    done = python("print(1 <= qn.num_threads() <= len(os.sched_getaffinity(0)))", QNUMPY_NUM_THREADS="")
    assert (done.stdout, done.stderr) == ("True\n", "")
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import qnumpy as qn"
    assert python("print(qn.num_threads())", first=pinned).stdout == "1\n"


# ---- blocks belong to their context ----


def test_set_num_threads_inside_a_block_serves_the_others():
    qn.set_num_threads(2)
    with qn.threads(3):
        qn.set_num_threads(5)
        assert qn.num_threads() == 3
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(qn.num_threads).result() == 5
    assert qn.num_threads() == 5


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_blocks_of_two_threads_overlap(first_to_end):
    qn.set_num_threads(4)
    began, ends = threading.Barrier(3), [threading.Event(), threading.Event()]
    seen = [[], []]

    def work(k):
        with qn.threads(7 + k):
            began.wait(10)
            seen[k].append(qn.num_threads())
            ends[k].wait(10)
            seen[k].append(qn.num_threads())
        seen[k].append(qn.num_threads())

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    began.wait(10)
    assert qn.num_threads() == 4
    for k in (first_to_end, 1 - first_to_end):
        ends[k].set()
        workers[k].join(10)
        assert qn.num_threads() == 4
    assert seen == [[7, 7, 4], [8, 8, 4]]


def test_blocks_of_two_tasks_overlap():
    qn.set_num_threads(4)

    async def work(n, turns):
        seen = []
        with qn.threads(n):
            for _ in range(turns):
                await asyncio.sleep(0)
                seen.append(qn.num_threads())
        await asyncio.sleep(0)
        return [*seen, qn.num_threads()]

    async def main():
        results = await asyncio.gather(work(2, 3), work(3, 1), work(5, 6))
        with qn.threads(6):
            task = asyncio.create_task(work(7, 1))
            inherited = asyncio.create_task(asyncio.to_thread(qn.num_threads))
        return results, await task, await inherited, qn.num_threads()

    results, task, inherited, after = asyncio.run(main())
    assert results == [[2, 2, 2, 4], [3, 4], [5] * 6 + [4]]
    assert (task, inherited, after) == ([7, 6], 6, 4)  # a task goes on with the limit of the block that created it


def limited(n):
    with qn.threads(n):
        yield qn.num_threads()
        yield qn.num_threads()


@pytest.mark.parametrize("ends", ["exhausted", "closed", "dropped", "raised"])
def test_a_generator_leaves_no_limit(ends):
    qn.set_num_threads(4)
    generator = limited(2)
    assert next(generator) == 2
    with qn.threads(3):
        if ends == "exhausted":
            assert list(generator) == [3]  # the innermost block is that of the caller
        elif ends == "closed":
            generator.close()
        elif ends == "raised":
            with pytest.raises(KeyError):
                generator.throw(KeyError)
        del generator
        gc.collect()
        assert qn.num_threads() == 3
    assert qn.num_threads() == 4


def test_a_generator_that_another_context_closes():
    qn.set_num_threads(4)
    generator = limited(2)
    assert next(generator) == 2
    with ThreadPoolExecutor(1) as executor:
        executor.submit(generator.close).result()
        assert executor.submit(qn.num_threads).result() == 4
    assert qn.num_threads() == 4


def test_blocks_that_end_in_another_order():
    qn.set_num_threads(4)
    blocks = [qn.threads(n) for n in (2, 3, 5)]
    for block in blocks:
        block.__enter__()
    counts = []
    for k in (1, 2, 0):
        blocks[k].__exit__(None, None, None)
        counts.append(qn.num_threads())
    assert counts == [5, 2, 4]


def test_a_limit_as_a_decorator_and_in_a_copy_of_the_context():
    qn.set_num_threads(4)
    assert qn.threads(2)(qn.num_threads)() == 2
    with qn.threads(3):
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(context.run, qn.num_threads).result() == 3
    assert qn.num_threads() == 4


def test_many_threads_with_limits_of_their_own():
    qn.set_num_threads(4)
    x = np.random.default_rng(0).standard_normal(N, np.float32)
    want = qn.quantize_linear(x, 0.1)

    def work(k):
        for _ in range(20):
            with qn.threads(1 + k):
                assert_same_bits(qn.quantize_linear(x, 0.1), want)
                assert qn.num_threads() == 1 + k
        return qn.num_threads()

    with ThreadPoolExecutor(6) as executor:
        assert set(executor.map(work, range(6))) == {4}
    assert qn.num_threads() == 4


@needs_tasks
def test_a_forked_child_keeps_the_limit():
    code = """
with qn.threads(2):
    child = os.fork()
    if child == 0:
        with qn.threads(3):
            qn.quantize_linear(np.zeros(1 << 22, np.float32), 0.5)
        os._exit(10 * qn.num_threads() + tasks())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), qn.num_threads())
"""
    done = python(code, first=QUIET, QNUMPY_NUM_THREADS="5")
    assert (done.stdout, done.stderr) == ("23 5\n", "")


@needs_tasks
def test_a_limit_reaches_the_workers():
    code = f"""
before = tasks()
with qn.threads(1):
    {LARGE}
alone = tasks() - before
with qn.threads(3):
    {LARGE}
print(alone, tasks() - before)
"""
    assert python(code, QNUMPY_NUM_THREADS="2").stdout == "0 2\n"


# ---- the same bits ----


def operations(grid):
    """Every threaded operation on an array of N elements and more, as functions without arguments."""
    rng = np.random.default_rng(0)
    other = [length for length in grid.shape if length != "n"]
    n = N // int(np.prod(other or [1])) + 13  # an odd last piece
    shape, params = grid.of(n), grid.params_shape(n)
    x = rng.standard_normal(shape, np.float32) * 40
    x.flat[::1001], x.flat[1::1003], x.flat[2::1007] = np.nan, np.inf, -np.inf
    scale = rng.uniform(0.1, 2, params).astype(np.float32)
    zero = rng.integers(-100, 100, params).astype(np.int32)
    where, qparams = grid.where, qn.QParams(scale, zero, "int8", grid.granularity)
    q, wide = qn.quantize_linear(x, scale, zero, dtype="int8", **where), x.astype(np.float64)
    operations = {
        "quantize": lambda: qn.quantize_linear(x, scale, zero, dtype="int8", **where),
        "quantize float64": lambda: qn.quantize_linear(wide, scale, zero, dtype="int16", **where),
        "dequantize": lambda: qn.dequantize_linear(q, scale, zero, **where),
        "dequantize to float16": lambda: qn.dequantize_linear(q, scale, zero, dtype="float16", **where),
        "fake_quantize": lambda: qn.fake_quantize(x, qparams),
    }
    _, inside = fake_quantize_inside("test", x, qparams)
    operations |= {
        "fake_quantize_inside": lambda: fake_quantize_inside("test", x, qparams)[0],
        "its marks": lambda: fake_quantize_inside("test", x, qparams)[1].bits,
        "keep_inside": lambda: keep_inside("test", x, inside),
        "gradient of x": lambda: quantization_gradients("test", x, x, qparams)[0],
        "sums of gradients": lambda: quantization_gradients("test", x, np.nan_to_num(x, posinf=1), qparams)[1],
    }
    operations["min_max"] = lambda: np.stack(ranges("min_max", x, grid.granularity))
    if grid.block_size is None:
        acc = rng.integers(-(2**20), 2**20, shape).astype(np.int32)
        for method in ("float", "fixed"):
            operations[f"requantize {method}"] = lambda method=method: qn.requantize(
                acc, scale / 4096, zero, axis=grid.axis, method=method
            )
    return operations


@pytest.mark.parametrize("grid", GRIDS)
def test_results_do_not_depend_on_the_count(grid):
    for name, operation in operations(GRIDS[grid]).items():
        with qn.threads(1):
            want = operation()
        for count in (2, 3, 8):
            with qn.threads(count):
                assert_same_bits(operation(), want, f"{name}, {count} threads")


# ---- the pool ----


@needs_tasks
def test_the_first_large_call_starts_the_workers():
    code = (
        "before = tasks(); qn.quantize_linear(np.zeros(1000, np.float32), 0.5); small = tasks() - before\n"
        f"{LARGE}large = tasks() - before\n{LARGE}print(small, large, tasks() - before)"
    )
    assert python(code, QNUMPY_NUM_THREADS="3").stdout == "0 2 2\n"


@needs_tasks
def test_one_thread_is_no_worker():
    by_call = f"before = tasks(); qn.set_num_threads(1)\n{LARGE}print(tasks() - before)"
    assert python(by_call, QNUMPY_NUM_THREADS="4").stdout == "0\n"
    assert python(f"before = tasks()\n{LARGE}print(tasks() - before)", QNUMPY_NUM_THREADS="1").stdout == "0\n"
    by_block = f"before = tasks()\nwith qn.threads(1):\n    {LARGE}print(tasks() - before)"
    assert python(by_block, QNUMPY_NUM_THREADS="4").stdout == "0\n"


@needs_tasks
def test_importing_starts_no_thread_beside_those_of_numpy():
    done = python("print(tasks() - before)", first="import numpy, ml_dtypes; before = tasks()", QNUMPY_NUM_THREADS="4")
    assert (done.stdout, done.stderr) == ("0\n", "")


@needs_tasks
def test_a_forked_child_makes_its_own_pool():
    """The workers of the parent are not in the child; both go on and agree."""
    code = """
x = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float32)
want = qn.quantize_linear(x, 0.5)
child = os.fork()
if child == 0:
    alone = tasks()
    same = all(np.array_equal(qn.quantize_linear(x, 0.5), want) for _ in range(5))
    grandchild = os.fork()
    if grandchild == 0:
        os._exit(0 if np.array_equal(qn.quantize_linear(x, 0.5), want) else 9)
    good = os.waitpid(grandchild, 0)[1] == 0
    os._exit(0 if same and good and alone == 1 and tasks() == 3 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, np.array_equal(qn.quantize_linear(x, 0.5), want))
"""
    done = python(code, first=QUIET, QNUMPY_NUM_THREADS="3")
    assert (done.stdout, done.stderr) == ("0 True\n", "")


@needs_tasks
def test_a_fork_while_another_thread_computes():
    """The child inherits locks that a thread it does not have may hold."""
    code = """
import threading
x = np.random.default_rng(0).standard_normal(1 << 21).astype(np.float32)
want, stop = qn.quantize_linear(x, 0.5), threading.Event()
def work():
    while not stop.is_set(): qn.quantize_linear(x, 0.5)
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0: os._exit(0 if np.array_equal(qn.quantize_linear(x, 0.5), want) else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for t in threads: t.join()
print(set(codes))
"""
    done = python(code, first=QUIET, QNUMPY_NUM_THREADS="3")
    assert (done.stdout, done.stderr) == ("{0}\n", "")


# ---- several Python threads ----


def test_many_callers_at_once():
    jobs = []
    for grid in ("tensor", "channel-first", "channel-last", "group-last-32"):
        jobs += [(name, operation, operation()) for name, operation in operations(GRIDS[grid]).items()]
    with qn.threads(3), ThreadPoolExecutor(6) as executor:
        limit = [contextvars.copy_context() for _ in range(2 * len(jobs))]  # a context runs once at a time
        waiting = [(name, want, executor.submit(limit.pop().run, operation)) for name, operation, want in jobs * 2]
        for name, want, result in waiting:
            assert_same_bits(result.result(timeout=60), want, name)


def test_the_count_may_change_while_others_compute():
    x = np.random.default_rng(0).standard_normal(N, np.float32)
    want = qn.quantize_linear(x, 0.1)
    stop = threading.Event()

    def change():
        counts = [1, 5, 2, 8, 3]
        while not stop.is_set():
            qn.set_num_threads(counts[0])
            counts.append(counts.pop(0))
            time.sleep(0.0005)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(2) as executor:
            for codes in executor.map(lambda _: qn.quantize_linear(x, 0.1), range(100)):
                assert_same_bits(codes, want)
    finally:
        stop.set()
        changer.join()


def large_calls():
    """Calls of some milliseconds; the arrays are views of one element, so they cost no memory to speak of."""
    real = np.broadcast_to(np.float32(1), (1 << 22,))
    codes = np.broadcast_to(np.int8(1), (1 << 22,))
    params, nibbles = qn.QParams(0.5, 0), np.zeros(1 << 24, np.uint8)
    return {
        "quantize_linear": lambda: qn.quantize_linear(real, 0.5),
        "dequantize_linear": lambda: qn.dequantize_linear(codes, 0.5),
        "fake_quantize": lambda: qn.fake_quantize(real, params),
        "fake_quantize_vjp": lambda: qn.qat.fake_quantize_vjp(real, qn.qat.fake_quantize(real, params)[1]),
        "lsq_vjp": lambda: qn.qat.lsq_vjp(real, qn.qat.lsq(real, 0.5)[1]),
        "cast": lambda: qn.cast(real, "float16"),
        "requantize": lambda: qn.requantize(np.broadcast_to(np.int32(1), (1 << 22,)), 0.5),
        "min_max": lambda: qn.min_max(real),
        "pack": lambda: qn.pack(nibbles),
        "unpack": lambda: qn.unpack(nibbles, "int4"),
    }


@pytest.mark.parametrize("name", large_calls())
def test_the_gil_is_released(name):
    """Another Python thread moves on during one call.

    No thread is asked to give the GIL up while the switch interval lasts, so the ticks can rise between the two lines
    that read them only if the call releases it. That it does so once in many calls is all that is asked: a busy machine
    may keep the other thread from running.
    """
    call, ticks, stop = large_calls()[name], [0], threading.Event()

    def tick():
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0.0001)

    ticker = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        ticker.start()
        deadline = time.monotonic() + 20
        moved = False
        while not moved and time.monotonic() < deadline:
            before = ticks[0]
            call()
            moved = ticks[0] > before
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        ticker.join()
    assert moved


SMALL_STACK = """
import threading
import numpy as np
import qnumpy as qn
x = np.random.default_rng(0).normal(size=(40, 5000)).astype(np.float32)
results = []
threading.stack_size(160 << 10)
thread = threading.Thread(target=lambda: results.append(qn.min_max(x, qn.PerChannel(1))))
thread.start(), thread.join()
np.testing.assert_array_equal(results[0], (x.min(0), x.max(0)))
"""


@pytest.mark.memory
def test_columns_need_little_of_a_stack():
    subprocess.run([sys.executable, "-c", SMALL_STACK], check=True, env={**os.environ, "QNUMPY_NUM_THREADS": "1"})
