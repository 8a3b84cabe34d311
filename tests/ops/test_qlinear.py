"""qlinear_matmul and qlinear_conv2d: the formula, and ONNX Runtime where it is installed."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from strategies import assert_same_bits

import qnumpy as qn
from qnumpy import testing as twin

F32 = np.float32
KINDS = list(itertools.product(["uint8", "int8"], repeat=3))


def codes(rng, shape, dtype):
    info = np.iinfo(dtype)
    return np.asarray(rng.integers(info.min, info.max + 1, shape), dtype)


def scales(rng, shape=()):
    return np.asarray(rng.uniform(0.001, 0.1, shape), F32)


def runtime(operator, inputs, output, **attributes):
    """One node in ONNX Runtime on one thread, as it stands."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    make = onnx.helper
    kind = make.np_dtype_to_tensor_dtype
    infos = [make.make_tensor_value_info(k, kind(v.dtype), v.shape) for k, v in inputs.items()]
    y = make.make_tensor_value_info("y", kind(np.dtype(output)), None)
    graph = make.make_graph([make.make_node(operator, list(inputs), ["y"], **attributes)], "one", infos, [y])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize(("left", "right", "kind"), KINDS)
def test_matmul(left, right, kind):
    rng = np.random.default_rng(1)
    for a_shape, b_shape in [((1, 1), (1, 1)), ((5, 33), (33, 7)), ((2, 4, 9), (9, 6)), ((3, 2, 4, 9), (2, 9, 5))]:
        a, b = codes(rng, a_shape, left), codes(rng, b_shape, right)
        az, yz = codes(rng, (), left), codes(rng, (), kind)
        n, sa, sy = b_shape[-1], scales(rng), F32(0.7)
        for sb, bz in ((scales(rng), codes(rng, (), right)), (scales(rng, n), codes(rng, n, right))):
            acc = (a.astype(np.int64) - az) @ (b.astype(np.int64) - bz)
            multiplier = np.broadcast_to(sa * sb / sy, n)
            want = twin.requantize(acc, multiplier, yz, dtype=kind, axis=-1)
            assert_same_bits(qn.qlinear_matmul(a, sa, az, b, sb, bz, sy, yz), want)


def test_matmul_with_a_scale_for_each_row():
    rng = np.random.default_rng(2)
    a, b = codes(rng, (5, 20), "uint8"), codes(rng, (20, 6), "int8")
    sa, sb, sy, az = scales(rng, 5), scales(rng, 6), F32(0.5), codes(rng, 5, "uint8")
    acc = (a.astype(np.int64) - az[:, None]) @ b.astype(np.int64)
    want = np.clip(np.rint(acc.astype(F32) * (sa[:, None] * sb / sy)) + 7, 0, 255).astype(np.uint8)
    assert_same_bits(qn.qlinear_matmul(a, sa, az, b, sb, 0, sy, np.uint8(7)), want)
    one = np.clip(np.rint(acc.astype(F32) * (sa[:, None] * sb[0] / sy)) + 7, 0, 255).astype(np.uint8)
    assert_same_bits(qn.qlinear_matmul(a, sa, az, b, sb[0], 0, sy, np.uint8(7)), one)


OPERANDS = [
    ((4, 5), (5, 4)),
    ((1, 3), (3, 1)),
    ((2, 3, 5), (2, 5, 2)),
    ((2, 3, 5), (5, 3)),
    ((3, 5), (2, 5, 3)),
    ((2, 1, 2, 5), (3, 5, 2)),
    ((5,), (2, 5, 3)),
    ((2, 3, 5), (5,)),
    ((3, 3, 3), (3, 3, 3)),
    ((0, 3), (3, 2)),
    ((3, 2), (2, 0)),
    ((2, 3, 4), (4, 0)),
    ((0, 3, 4), (4, 2)),
    ((2, 2), (2, 2)),
]


def shapes_of(side, batch, length):
    """Every legal shape of the parameters of an operand, and the shape with which NumPy broadcasts it."""
    own = (length, 1) if side == "a" else (1, length)
    yield from (((), ()), ((1,), ()), ((1, 1, 1, 1), ()), ((length,), own), (own, own))
    for k in range(1, len(batch) + 1):
        yield from (((*batch[-k:], *own),) * 2, ((*batch[-k:], 1, 1),) * 2)
    yield ((1,) * len(batch) + own,) * 2


def spread(rng, shape):
    return (2.0 ** rng.integers(-8, -2, shape)).astype(F32)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(("a_shape", "b_shape"), OPERANDS)
def test_every_shape_of_scales_and_zero_points(a_shape, b_shape, kind):
    """Scales are powers of 2, so that only the last step rounds; Python's fractions compute it."""
    rng = np.random.default_rng(7)
    a, b = codes(rng, a_shape, "uint8"), codes(rng, b_shape, "int8")
    rows, columns = a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None]
    batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    m, n = rows.shape[-2], columns.shape[-1]
    shape = (a.astype(int) @ b.astype(int)).shape
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    for (a_given, a_as), (b_given, b_as) in itertools.product(shapes_of("a", batch, m), shapes_of("b", batch, n)):
        sa, za = spread(rng, a_given), rng.integers(0, 256, a_given)
        sb, zb = spread(rng, b_given), rng.integers(-128, 128, b_given)
        acc = (rows - za.reshape(a_as).astype(object)) @ (columns - zb.reshape(b_as).astype(object))
        ratio = np.broadcast_to(sa.reshape(a_as) * sb.reshape(b_as) / F32(0.5), acc.shape)
        ratios = (Fraction(float(r)) for r in ratio.flat)
        exact = [round(c * r) + 9 for c, r in zip(acc.flat, ratios, strict=True)]
        want = np.clip(np.array(exact, int), low, high).astype(kind).reshape(shape)
        got = qn.qlinear_matmul(a, sa, za, b, sb, zb, 0.5, np.dtype(kind).type(9))
        assert_same_bits(got, want, f"{a_given} {b_given}")


def legal(side, shape, batch, length):
    return shape in [given for given, _ in shapes_of(side, batch, length)] or int(np.prod(shape)) == 1


@pytest.mark.parametrize("side", ["a", "b"])
def test_every_other_shape_is_refused(side):
    """M, N and the batch are 2, so that a shape could be read in several ways."""
    a, b = np.ones((2, 2, 5), np.uint8), np.ones((2, 5, 2), np.int8)
    for shape in itertools.chain.from_iterable(itertools.product((1, 2, 5), repeat=ndim) for ndim in range(1, 5)):
        if legal(side, shape, (2,), 2):
            continue
        for values in ((np.ones(shape), 0), (1.0, np.ones(shape, int))):
            pairs = {"a": (values, (1.0, 0)), "b": ((1.0, 0), values)}[side]
            name = f"{side}_scale" if np.ndim(values[0]) else f"{side}_zero_point"
            with pytest.raises(ValueError, match=f"^qlinear_matmul: {name} must be of shape .*; got shape "):
                qn.qlinear_matmul(a, *pairs[0], b, *pairs[1], 1.0, np.uint8(0))


def test_matmul_is_the_one_of_onnxs_reference_evaluator():
    """Its vectors belong to columns, also those of a; else it agrees: even zero points, as it adds them to a float."""
    onnx = pytest.importorskip("onnx", minversion="1.22")  # earlier evaluators do not saturate
    reference = pytest.importorskip("onnx.reference")
    rng = np.random.default_rng(8)
    names = ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"]
    make = onnx.helper
    infos = [
        make.make_tensor_value_info(name, 1 if name[0] == "s" else 3 if name in ("b", "zb") else 2, None)
        for name in names
    ]
    y = make.make_tensor_value_info("y", 2, None)
    graph = make.make_graph([make.make_node("QLinearMatMul", names, ["y"])], "one", infos, [y])
    evaluator = reference.ReferenceEvaluator(make.make_model(graph, opset_imports=[make.make_opsetid("", 21)]))
    for a_shape, b_shape in OPERANDS:
        if 1 in (len(a_shape), len(b_shape)):
            continue
        a, b = codes(rng, a_shape, "uint8"), codes(rng, b_shape, "int8")
        shapes = [((), ()), ((*a_shape[:-1], 1), (*b_shape[:-2], 1, b_shape[-1])), ((), b_shape[-1:])]
        shapes += [((*a_shape[:-2], 1, 1), (*b_shape[:-2], 1, 1))]
        for a_given, b_given in shapes:
            inputs = {
                "a": a, "sa": spread(rng, a_given), "za": codes(rng, a_given, "uint8"),
                "b": b, "sb": spread(rng, b_given), "zb": codes(rng, b_given, "int8"),
                "sy": np.array(0.5, F32), "zy": np.array(8, np.uint8),
            }  # fmt: skip
            want = evaluator.run(None, inputs)[0]
            assert_same_bits(qn.qlinear_matmul(*inputs.values()), want, f"{a_given} {b_given}")


def test_matmul_of_words_is_exact():
    rng = np.random.default_rng(9)
    a, b = rng.integers(-(2**15), 2**15, (3, 7)).astype(np.int16), codes(rng, (7, 4), "uint8")
    acc = a.astype(int) @ b.astype(int)
    want = np.clip(np.rint(acc.astype(F32) * F32(2.0**-14)) + 3, -128, 127).astype(np.int8)
    assert_same_bits(qn.qlinear_matmul(a, 2.0**-7, 0, b, 2.0**-7, 0, 1.0, np.int8(3)), want)


@pytest.mark.parametrize(("left", "right"), [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
def test_matmul_is_onnx_runtimes(left, right):
    """Codes of b within 7 bits: on CPUs without VNNI its uint8 x int8 kernel saturates on more."""
    rng = np.random.default_rng(3)
    for m, k, n in [(1, 1, 1), (4, 40, 9), (17, 128, 33)]:
        a = codes(rng, (m, k), left)
        b = rng.integers(-64, 64, (k, n)).astype(np.int8) if right == "int8" else codes(rng, (k, n), right)
        for shape in ((), (n,)):
            sb, bz = scales(rng, shape), np.full(shape, 0 if shape else 3, right)
            inputs = {
                "a": a, "sa": scales(rng), "za": codes(rng, (), left), "b": b, "sb": sb, "zb": bz,
                "sy": np.array(0.9, F32), "zy": codes(rng, (), left),
            }  # fmt: skip
            want = runtime("QLinearMatMul", inputs, left)
            assert_same_bits(qn.qlinear_matmul(*inputs.values()), want, f"{(m, k, n)} {shape}")


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv(kind, per_channel, groups):
    rng = np.random.default_rng(4)
    x, w = codes(rng, (2, 4, 6, 7), "uint8"), codes(rng, (8, 4 // groups, 3, 2), "int8")
    bias = rng.integers(-5000, 5000, 8).astype(np.int32)
    sx, sw, sy = scales(rng), scales(rng, 8 if per_channel else ()), F32(0.7)
    zx, zw = np.uint8(120), codes(rng, 8 if per_channel else (), "int8")
    options = {"strides": (2, 1), "padding": (1, 0, 2, 1), "groups": groups}
    acc = twin.conv2d_integer(x, w, zx, zw, **options)
    for b in (None, bias):
        summed = acc if b is None else acc + b[:, None, None]
        multiplier = np.broadcast_to(sx * sw / sy, 8)
        want = twin.requantize(summed, multiplier, 10, dtype=kind, axis=1)
        got = qn.qlinear_conv2d(x, sx, zx, w, sw, zw, sy, np.dtype(kind).type(10), b, **options)
        assert_same_bits(got, want)


def test_conv_is_onnx_runtimes():
    rng = np.random.default_rng(5)
    for groups, per_channel in itertools.product((1, 4), (False, True)):
        inputs = {
            "x": codes(rng, (2, 4, 9, 8), "uint8"), "sx": scales(rng), "zx": np.array(17, np.uint8),
            "w": rng.integers(-64, 64, (8, 4 // groups, 3, 3)).astype(np.int8),
            "sw": scales(rng, 8 if per_channel else ()), "zw": np.zeros(8 if per_channel else (), np.int8),
            "sy": np.array(0.8, F32), "zy": np.array(99, np.uint8), "b": rng.integers(-999, 999, 8).astype(np.int32),
        }  # fmt: skip
        want = runtime(
            "QLinearConv", inputs, "uint8", group=groups, pads=[1, 0, 2, 1], strides=[1, 2], dilations=[2, 1]
        )
        options = {"groups": groups, "padding": (1, 0, 2, 1), "strides": (1, 2), "dilations": (2, 1)}
        assert_same_bits(qn.qlinear_conv2d(*inputs.values(), **options), want)


A, B = np.ones((2, 3), np.uint8), np.ones((3, 2), np.int8)
X, W = np.ones((1, 1, 3, 3), np.uint8), np.ones((2, 1, 2, 2), np.int8)
U8 = np.uint8(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: qn.qlinear_matmul(A, [1.0, 2.0, 3.0], 0, B, 1.0, 0, 1.0, U8), ValueError,
         "qlinear_matmul: a_scale must be of shape () or (2,) or (..., 2, 1); got shape (3,)."),
        (lambda: qn.qlinear_matmul(A, 1.0, 0, B, np.ones((2, 1)), 0, 1.0, U8), ValueError,
         "qlinear_matmul: b_scale must be of shape () or (2,) or (..., 1, 2); got shape (2, 1)."),
        (lambda: qn.qlinear_matmul(A, np.ones((1, 2)), 0, B, 1.0, 0, 1.0, U8), ValueError,
         "qlinear_matmul: a_scale must be of shape () or (2,) or (..., 2, 1); got shape (1, 2)."),
        (lambda: qn.qlinear_matmul(A, np.ones((2, 1, 1)), 0, B, 1.0, 0, 1.0, U8), ValueError,
         "qlinear_matmul: a_scale must be of shape () or (2,) or (..., 2, 1); got shape (2, 1, 1)."),
        (lambda: qn.qlinear_matmul(A[0], [1.0, 2.0], 0, B, 1.0, 0, 1.0, U8), ValueError,
         "qlinear_matmul: a_scale must be of shape () or (1,) or (..., 1, 1); got shape (2,)."),
        (lambda: qn.qlinear_matmul(A, 0.0, 0, B, 1.0, 0, 1.0, U8), ValueError,
         "qlinear_matmul: a_scale must be positive, finite and normal in float32; got 0.0."),
        (lambda: qn.qlinear_matmul(A, 1.0, 0, B, 1.0, 0, [1.0, 1.0], U8), ValueError,
         "qlinear_matmul: y_scale must be one number; got shape (2,)."),
        (lambda: qn.qlinear_matmul(A, 1.0, 0, B, 1.0, 0, 1.0, 0), TypeError,
         "qlinear_matmul: y_zero_point must be an int8 or uint8 scalar; got 0."),
        (lambda: qn.qlinear_matmul(A, 1.0, 0, B, 1.0, 0, 1.0, np.zeros(2, np.uint8)), ValueError,
         "qlinear_matmul: y_zero_point must be one number; got shape (2,)."),
        (lambda: qn.qlinear_matmul(A, 1e30, 0, B, 1e30, 0, 1.0, U8), ValueError,
         "qlinear_matmul: the ratio of scales must be positive, finite and normal in float32; got inf."),
        (lambda: qn.qlinear_matmul(A, 1e30, 0, B, [1.0, 1e30], 0, 1.0, U8), ValueError,
         "qlinear_matmul: the ratio of scales must be positive, finite and normal in float32; got inf at index 1."),
        (lambda: qn.qlinear_conv2d(X, 1e30, 0, W, [1.0, 1e30], 0, 1.0, U8), ValueError,
         "qlinear_conv2d: the ratio of scales must be positive, finite and normal in float32; got inf at index 1."),
        (lambda: qn.qlinear_conv2d(X, [1.0, 1.0], 0, W, 1.0, 0, 1.0, U8), ValueError,
         "qlinear_conv2d: x_scale must be one number; got shape (2,)."),
        (lambda: qn.qlinear_conv2d(X, 1.0, 0, W, [1.0] * 3, 0, 1.0, U8), ValueError,
         "qlinear_conv2d: w_scale must be of shape () or (2,); got shape (3,)."),
        (lambda: qn.qlinear_conv2d(X, 1.0, 0, W, 1.0, 0, 1.0, U8, [1]), ValueError,
         "qlinear_conv2d: bias must be of shape (2,); got shape (1,)."),
        (lambda: qn.qlinear_conv2d(X, 1.0, 0, W, 1.0, 0, 1.0, U8, [1.0, 2.0]), TypeError,
         "qlinear_conv2d: bias must be an array of int32; got dtype float64."),
        (lambda: qn.qlinear_conv2d(X, 1.0, 0, W, 1.0, 0, 1.0, U8, [0, 2**31]), ValueError,
         "qlinear_conv2d: bias must be in the range of int32; got 2147483648."),
        (lambda: qn.qlinear_conv2d(X, 1.0, 0, W, 1.0, 0, 1.0, U8, [2**31 - 2, 0]), OverflowError,
         "qlinear_conv2d: every sum must be in the range of int32; got one that is not."),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error) as caught, np.errstate(over="ignore"):
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: qn.matmul(a, a), ValueError,
         "matmul: b must be of as many rows as a has columns, 3; got shapes (2, 3) and (2, 3)."),
        (lambda a: qn.matmul(np.stack([a, a]), np.stack([a.T] * 3)), ValueError,
         "matmul: b must be of a shape that broadcasts with a; got shapes (2, 2, 3) and (3, 3, 2)."),
        (lambda a: qn.qlinear_matmul(a, 1, 0, a, 1, 0, 1, np.int8(0)), ValueError,
         "qlinear_matmul: b must be of as many rows as a has columns, 3; got shapes (2, 3) and (2, 3)."),
        (lambda a: qn.qlinear_matmul(a, 1, 999, a.T, 1, 0, 1, np.int8(0)), ValueError,
         "qlinear_matmul: a_zero_point must be in [-128, 127]; got 999."),
        (lambda a: qn.qlinear_matmul(a * 1.0, 1, 0, a.T, 1, 0, 1, np.int8(0)), TypeError,
         "qlinear_matmul: a must be an array of int8, uint8 or int16; got dtype float64. "
         "Quantize it first, or multiply floats with qnumpy.matmul or np.matmul."),
        (lambda a: qn.matmul(np.full((1, 200_000), 127, np.int8), np.full((200_000, 1), 127, np.int8)), OverflowError,
         "matmul: every sum must fit int32; got one outside it. Split K, and add the parts in int64."),
    ],
)  # fmt: skip
def test_errors_name_the_function_that_was_called(call, error, message):
    with pytest.raises(error) as caught:
        call(np.ones((2, 3), np.int8))
    assert str(caught.value) == message
