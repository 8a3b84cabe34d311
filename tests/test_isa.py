"""Which row serves what, how one is chosen, and that every row gives the bits of the scalar one."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from strategies import CODES, CONVENTIONS, GRIDS, METHODS, ROWS, SOURCES, assert_same_bits, case

import qnumpy as qn
from qnumpy.dtypes import code_type
from qnumpy.ops.gradients import TYPES, fake_quantize_inside, keep_inside, quantization_gradients
from qnumpy.ops.reduce import ranges

LACKING = sorted({*qn.show_config()["isas"], "avx2", "neon"} - set(ROWS))  # here, or on any machine
VECTOR_ROWS = [row for row in ROWS if row != "scalar"]
SIZES = (1, 15, 33, 64, 131, 2050)
SUPPORTED = ", ".join(ROWS)


@pytest.fixture(autouse=True)
def put_back():
    before = qn.isa()
    yield
    qn.set_isa(before)


def python(code, **environment):
    """Run code in an interpreter of its own, which finds the same qnumpy."""
    paths = os.pathsep.join(path for path in sys.path if path)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("QNUMPY_")}
    env = {**plain, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, check=False)


# ---- choosing ----


@pytest.mark.parametrize("row", ROWS)
def test_set_isa(row):
    qn.set_isa(row)
    assert qn.isa() == qn.show_config()["isa"] == row


@pytest.mark.parametrize("name", [None, 5, ["scalar"]])
def test_names_that_are_no_texts(name):
    with pytest.raises(TypeError, match=f"^{re.escape(f'set_isa: name must be a text; got {name!r}.')}$"):
        qn.set_isa(name)


@pytest.mark.parametrize("name", ["sse9", "", "AVX2", "scalar "])
def test_unknown_names(name):
    before = qn.isa()
    want = f"set_isa: name must be one of {SUPPORTED} on this CPU; got {name!r}."
    with pytest.raises(qn.UnsupportedISAError, match=f"^{re.escape(want)}$"):
        qn.set_isa(name)
    assert qn.isa() == before
    assert issubclass(qn.UnsupportedISAError, RuntimeError)


@pytest.mark.parametrize("name", LACKING)
def test_rows_this_cpu_lacks(name):
    want = f"set_isa: name must be one of {SUPPORTED} on this CPU; got {name!r}."
    with pytest.raises(qn.UnsupportedISAError, match=f"^{re.escape(want)}$"):
        qn.set_isa(name)


@pytest.mark.parametrize("row", ROWS)
def test_the_environment_chooses(row):
    done = python("import qnumpy as qn; print(qn.isa())", QNUMPY_ISA=row)
    assert (done.stdout, done.stderr) == (f"{row}\n", "")


def test_without_the_environment_the_highest_row_serves():
    for environment in ({}, {"QNUMPY_ISA": ""}):
        assert python("import qnumpy as qn; print(qn.isa())", **environment).stdout == f"{ROWS[-1]}\n"


# ---- a bad variable: the import succeeds, the first use refuses ----

USES = {
    "isa": "qn.isa()",
    "num_threads": "qn.num_threads()",
    "show_config": "qn.show_config()",
    "threads": "qn.threads(1).__enter__()",
    "quantize": "qn.quantize(np.ones(3))",
    "quantize_linear": "qn.quantize_linear(np.ones(3, np.float32), 0.5)",
    "matmul_integer": "qn.matmul_integer(np.ones((2, 2), np.int8), np.ones((2, 2), np.int8))",
    "pack": "qn.pack(np.ones(4, np.int8), 'int4')",
    "cast": "qn.cast(np.ones(3), 'float16')",
    "min_max": "qn.min_max(np.ones(3))",
    "observer": "qn.MinMaxObserver().observe(np.ones(3))",
}
ISA_FAULT = f"qnumpy: QNUMPY_ISA must be one of {SUPPORTED} on this CPU; got 'sse9'."
THREADS_FAULT = "qnumpy: QNUMPY_NUM_THREADS must be an integer from 1 to 256; got '0'."


@pytest.mark.parametrize("name", ["sse9", "AVX2", " "])
def test_an_unknown_row_in_the_environment_is_refused_at_first_use(name):
    assert python("import qnumpy, qnumpy.cli, qnumpy.testing", QNUMPY_ISA=name).returncode == 0
    done = python("import qnumpy; qnumpy.isa()", QNUMPY_ISA=name)
    assert done.returncode == 1
    want = (
        f"qnumpy.errors.UnsupportedISAError: qnumpy: QNUMPY_ISA must be one of {SUPPORTED} on this CPU; got {name!r}."
    )
    assert done.stderr.splitlines()[-1] == want


def report(*uses):
    """Code that prints the error of each use, or "fine"."""
    lines = ["import numpy as np, qnumpy as qn"]
    for use in uses:
        lines += ["try:", f"    {use}", "except Exception as error: print(type(error).__name__, error)"]
        lines += ["else: print('fine')"]
    return "\n".join(lines)


def test_every_use_is_refused_and_refused_again():
    done = python(report(*USES.values(), *USES.values()), QNUMPY_ISA="sse9")
    assert done.stdout.splitlines() == [f"UnsupportedISAError {ISA_FAULT}"] * (2 * len(USES)), done.stderr
    done = python(report(*USES.values()), QNUMPY_NUM_THREADS="0")
    assert done.stdout.splitlines() == [f"ValueError {THREADS_FAULT}"] * len(USES), done.stderr


def test_a_choice_ends_the_refusal():
    isa, threads = f"UnsupportedISAError {ISA_FAULT}", f"ValueError {THREADS_FAULT}"
    both = {"QNUMPY_ISA": "sse9", "QNUMPY_NUM_THREADS": "0"}
    uses = ("qn.isa()", "qn.set_isa('scalar')", "qn.isa()", "qn.set_num_threads(1)", *USES.values())
    done = python(report(*uses), **both)
    assert done.stdout.splitlines() == [isa, "fine", threads, "fine", *["fine"] * len(USES)], done.stderr
    uses = ("qn.set_num_threads(2)", "qn.num_threads()", "qn.set_isa('scalar')", "qn.num_threads()")
    assert python(report(*uses), **both).stdout.splitlines() == ["fine", isa, "fine", "fine"]
    uses = ("qn.set_isa('sse9')", "qn.set_num_threads(0)", "qn.isa()")  # a wrong choice ends nothing
    lines = python(report(*uses), **both).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        "UnsupportedISAError set_isa",
        "ValueError set_num_threads",
    ]
    assert lines[2] == isa


def test_the_refusal_of_the_extension_is_guarded():
    for arguments in ((), (ValueError,), (None, "text"), (ValueError, None), ("text", ValueError), (int, "text")):
        with pytest.raises(TypeError):
            qn._core.refuse_calls(*arguments)
    assert qn.isa()


# ---- introspection ----


def test_show_config():
    config = qn.show_config()
    assert list(config) == ["isa", "isas", "num_threads", "kernels"]
    assert config["isa"] == qn.isa()
    assert config["isas"]["scalar"] is True
    assert config["num_threads"] == qn.num_threads()
    config["isas"].clear()  # a copy
    assert qn.show_config()["isas"]


@pytest.mark.parametrize("row", ROWS)
def test_a_kernel_is_served_by_the_row_or_one_below(row):
    qn.set_isa(row)
    kernels = qn.show_config()["kernels"]
    assert {"quantize_f32_i8", "dequantize_u8_f32", "fake_quantize_f32", "min_max_f32", "pack_4"} <= set(kernels)
    assert set(kernels.values()) <= set(ROWS[: ROWS.index(row) + 1])
    if row != "scalar":  # each row serves a kernel
        assert row in kernels.values()


def test_the_kernels_are_the_same_names_on_every_row():
    names = []
    for row in ROWS:
        qn.set_isa(row)
        names.append(list(qn.show_config()["kernels"]))
    assert all(name == names[0] for name in names)


# ---- the same bits ----


def on_every_row(compute, about):
    """compute() gives a tuple of arrays; those of each row must be those of the scalar row."""
    qn.set_isa("scalar")
    want = compute()
    for row in VECTOR_ROWS:
        qn.set_isa(row)
        for got, expected in zip(compute(), want, strict=True):
            assert_same_bits(got, expected, f"{row}, {about}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("code", CODES)
def test_quantize_dequantize_fake_quantize(code, source, grid):
    grid = GRIDS[grid]
    for k, n in enumerate(SIZES):
        x, scale, zero = case(grid, n, code, SOURCES[source], seed=5)
        params = qn.QParams(scale, zero, code, grid.granularity)
        convention = CONVENTIONS[k % len(CONVENTIONS)]

        def compute(x=x, scale=scale, zero=zero, params=params, convention=convention):
            q = qn.quantize_linear(x, scale, zero, dtype=code, **grid.where)
            other = qn.quantize_linear(x, scale, zero, dtype=code, convention=convention, **grid.where)
            real = qn.dequantize_linear(q, scale, zero, dtype=source, **grid.where)
            return q, other, real, qn.fake_quantize(x, params), qn.fake_quantize(x, params, convention=convention)

        on_every_row(compute, f"{convention}, n = {n}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("code", ["int8", "uint4", "int2", "uint16"])
def test_gradients_of_fake_quantization(code, source, grid):
    """Sums in float64 too: their order depends on the shape and the granularity alone."""
    grid = GRIDS[grid]
    for k, n in enumerate(SIZES):
        x, scale, zero = case(grid, n, code, SOURCES[source], seed=5)
        params = qn.QParams(scale, zero, code, grid.granularity)
        convention = CONVENTIONS[k % len(CONVENTIONS)]
        g = np.random.default_rng(n).normal(size=x.shape).astype(x.dtype)

        def compute(x=x, g=g, params=params, convention=convention):
            y, inside = fake_quantize_inside("test", x, params, convention)
            return (
                y,
                inside.bits,
                keep_inside("test", g, inside),
                *quantization_gradients("test", x, g, params, convention),
            )

        on_every_row(compute, f"{convention}, n = {n}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("source", SOURCES)
def test_min_max(source, grid):
    grid = GRIDS[grid]
    for n in SIZES:
        x, _, _ = case(grid, n, "int8", SOURCES[source], seed=6)
        on_every_row(lambda x=x: ranges("min_max", x, grid.granularity), f"n = {n}")


@pytest.mark.parametrize("grid", [name for name, grid in GRIDS.items() if grid.block_size is None])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("code", CODES)
def test_requantize(code, method, grid):
    grid, info = GRIDS[grid], code_type(code)
    rng = np.random.default_rng(7)
    for n in SIZES:
        m = rng.choice([0.5, 2.0**-10, 0.0007, 1 / 3, 1.7], grid.params_shape(n))
        zero = rng.integers(info.qmin, info.qmax + 1, m.shape)
        acc = rng.integers(-(2**31), 2**31, grid.of(n)) >> rng.integers(0, 32, grid.of(n))  # of every magnitude
        acc = acc.astype(np.int32)
        on_every_row(
            lambda acc=acc, m=m, zero=zero: (qn.requantize(acc, m, zero, dtype=code, axis=grid.axis, method=method),),
            f"n = {n}",
        )


@pytest.mark.parametrize("code", ["int4", "uint4", "int2", "uint2"])
def test_pack_and_unpack(code):
    rng = np.random.default_rng(8)
    for n in (*range(71), 255, 1000, 1027):
        packed = rng.integers(0, 256, (3, n), np.uint8)

        def compute(packed=packed, n=n):
            codes = qn.unpack(packed, code)
            short = codes[:, : max(0, codes.shape[1] - 1)]
            return codes, qn.pack(codes, code), qn.pack(short, code)

        on_every_row(compute, f"n = {n}")


def test_accumulators_are_dequantized_alike():
    acc = np.random.default_rng(9).integers(-(2**31), 2**31, 1003).astype(np.int32)
    on_every_row(lambda: (qn.dequantize_linear(acc, 0.1),), "int32")
