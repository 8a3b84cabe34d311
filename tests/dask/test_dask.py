"""dask gives the bits of one process, for any blocks and scheduler, and also when workers die."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from cluster_jobs import deadly, model

import qnumpy as qn

dask = pytest.importorskip("dask")
import dask.array as da  # noqa: E402
import dask.bag as db  # noqa: E402

import qnumpy.dask as qd  # noqa: E402

OBSERVERS = {"minmax": qn.MinMaxObserver, "mse": qn.HistogramObserver}
GRANULARITIES = [qn.PerTensor(), qn.PerChannel(0), qn.PerChannel(-1)]
CHUNKS = [(64, 17), (29, (50, 1, 39)), ((13, 0, 187), 31)]


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[-1]))).astype(np.float32)
    if x.size > 100:
        x.flat[::97] *= 100
        x.flat[5], x.flat[6] = np.nan, np.inf
    return x


@pytest.fixture(params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param, num_workers=4):
        yield request.param


# --- observers


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("kind", OBSERVERS)
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_the_state_of_one_process(kind, granularity, chunks):
    x = noise(200, 90)
    observer = OBSERVERS[kind](granularity=granularity)
    result = qd.observe(da.from_array(x, chunks=chunks), observer, split_every=2 if chunks[0] == 64 else 8)
    alone = OBSERVERS[kind](granularity=granularity).observe(x)
    assert result.to_json() == alone.to_json()
    assert result.qparams() == alone.qparams()
    assert "nothing seen" in repr(observer)  # the configuration did not change


@pytest.mark.usefixtures("scheduler")
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_moments_are_merged_in_one_order(chunks):
    x = noise(200, 90)
    observer = qn.MomentsObserver()
    first, again = (qd.observe(da.from_array(x, chunks=chunks), observer, split_every=2) for _ in range(2))
    assert first.to_json() == again.to_json()
    alone = qn.MomentsObserver().observe(x)
    assert (first.count_, first.nan_, first.infinite_) == (alone.count_, alone.nan_, alone.infinite_) == (199, 1, 0)
    size = np.sqrt(np.outer(alone.scatter_.diagonal(), alone.scatter_.diagonal()))
    assert (np.abs(first.scatter_ - alone.scatter_) <= 2**-13 * size).all()  # the bound of the class
    assert "nothing seen" in repr(observer)
    bag = qd.observe(db.from_sequence([x[:50], x[50:]], npartitions=2), qn.MomentsObserver())
    assert bag.count_ == 199


def test_moments_of_tapped_arrays():
    batches = db.from_sequence([noise(k + 1, 30, seed=k) for k in range(5)], npartitions=2)
    with dask.config.set(scheduler="threads"):
        calibration = qd.calibrate(model, batches, {"x": qn.MomentsObserver()})
    assert (calibration.observers["x"].inputs, len(calibration)) == (30, 0)


@pytest.mark.parametrize("kind", OBSERVERS)
@pytest.mark.parametrize("npartitions", [1, 3, 20])
def test_a_bag_of_arrays(kind, npartitions):
    batches = [noise(k, 30, seed=k) for k in range(20)]  # the first is empty
    bag = db.from_sequence(batches, npartitions=npartitions)
    with dask.config.set(scheduler="threads"):
        result = qd.observe(bag, OBSERVERS[kind](dtype="uint8", symmetric=False))
    alone = OBSERVERS[kind](dtype="uint8", symmetric=False)
    for batch in batches:
        alone.observe(batch)
    assert result.to_json() == alone.to_json()


def test_nothing_to_observe():
    for empty in (da.zeros((0, 4)), db.from_sequence([], npartitions=1)):
        result = qd.observe(empty, qn.MinMaxObserver())
        with pytest.raises(qn.CalibrationError):
            result.qparams()


def test_merging_leaves_its_parts_alone():
    """A task may run twice on the same states: the second time must give the same."""
    from qnumpy.dask.reduction import _merge_all

    parts = [[qn.MinMaxObserver().observe(noise(50, seed=k))] for k in range(3)]
    before = pickle.dumps(parts)
    first = _merge_all(qn.MinMaxObserver(), parts)[0].to_json()
    assert _merge_all(qn.MinMaxObserver(), parts)[0].to_json() == first
    assert pickle.dumps(parts) == before


# --- calibrate


@pytest.mark.usefixtures("scheduler")
def test_calibrate_is_calibrate():
    batches = [noise(k + 1, 30, seed=k) for k in range(20)]
    observers = {"x": qn.MinMaxObserver(granularity=qn.PerChannel(1)), "[yz]": qn.HistogramObserver("entropy")}
    result = qd.calibrate(model, db.from_sequence(batches, npartitions=7), observers)
    alone = qn.calibrate(model, batches, observers)
    assert dict(result) == dict(alone)
    assert {n: o.to_json() for n, o in result.observers.items()} == {n: o.to_json() for n, o in alone.observers.items()}
    assert result.batches == alone.batches == 20


def test_partitions_without_a_batch():
    bag = db.from_sequence(range(40), npartitions=10).filter(lambda k: k < 5).map(lambda k: noise(3, 30, seed=k))
    with dask.config.set(scheduler="threads"):
        result = qd.calibrate(model, bag)
    assert dict(result) == dict(qn.calibrate(model, [noise(3, 30, seed=k) for k in range(5)]))


def test_shards(tmp_path):
    shards = []
    for k in range(3):
        tensors = {
            "w": noise(20, 30, seed=k),
            f"only{k}": noise(5, seed=k).astype(ml_dtypes.bfloat16),
            "n": np.arange(3),
        }
        shards.append(tmp_path / f"{k}.safetensors")
        qn.save(shards[-1], tensors)
    bag = qd.from_safetensors(shards)
    assert bag.npartitions == 3
    result = qd.calibrate(dict, bag, qn.MinMaxObserver())
    assert set(result) == {"w", "only0", "only1", "only2"}
    whole = qn.MinMaxObserver()
    for shard in shards:
        whole.observe(qn.load(shard)["w"])
    assert result.observers["w"].to_json() == whole.to_json()
    again = qd.observe(bag.filter(lambda tensor: "w" in tensor).pluck("w"), qn.MinMaxObserver())
    assert again.to_json() == whole.to_json()
    one = qd.calibrate(dict, qd.from_safetensors(str(shards[1])))
    assert set(one) == {"w", "only1"}


def test_an_index_of_shards(tmp_path):
    for k in range(2):
        safetensors.numpy.save_file({f"w{k}": noise(4, 4, seed=k)}, tmp_path / f"part{k}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"w{k}": f"part{k}.safetensors" for k in range(2)}}))
    bag = qd.from_safetensors(index)
    assert bag.npartitions == 2
    result = qd.calibrate(dict, bag, qn.MinMaxObserver())
    assert dict(result) == {f"w{k}": qn.choose_qparams(noise(4, 4, seed=k)) for k in range(2)}


# --- arrays


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "int16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "granularity", [*GRANULARITIES, qn.PerGroup(16), qn.PerGroup(7, 0), qn.PerGroup(500), qn.PerRow()], ids=repr
)
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_blocks_are_the_whole(dtype, symmetric, granularity, chunks):
    x = np.nan_to_num(noise(200, 90), posinf=3)
    source = da.from_array(x, chunks=chunks)
    with dask.config.set(scheduler="synchronous"):
        params = qd.choose_qparams(source, dtype=dtype, granularity=granularity, symmetric=symmetric)
        here = qn.quantize(x, dtype=dtype, granularity=granularity, symmetric=symmetric)
        assert params == here.qparams
        codes = qd.quantize(source, params)
        assert codes.dtype == here.codes.dtype
        assert np.array_equal(codes.compute(), here.codes)
        back = qd.dequantize(codes, params, dtype="float16")
        assert back.dtype == np.float16
        assert np.array_equal(back.compute(), here.dequantize("float16"), equal_nan=True)
        report, whole = qd.compare(source, codes, params, name="x"), qn.compare(x, here, name="x")
    for name in ("name", "shape", "source", "dtype", "granularity", "nbytes_before", "nbytes_after", "levels",
                 "clipped", "codes_used", "max_abs_error"):  # fmt: skip
        assert getattr(report, name) == getattr(whole, name), name
    # sums of 18,000 positive terms in another order
    assert report.mse == pytest.approx(whole.mse, rel=18_000 * 2.0**-53)


@pytest.mark.parametrize("method", ["minmax", "mse", "entropy", "percentile"])
@pytest.mark.parametrize("granularity", [*GRANULARITIES, qn.PerGroup(16), qn.PerRow()], ids=repr)
@pytest.mark.parametrize(("shape", "dtype"), [((60, 48), "int8"), ((60, 48), "float8_e4m3fn"), ((0, 4), "int8")])
def test_every_method_chooses_as_in_one_process(method, granularity, shape, dtype):
    x, kind = noise(*shape), {"dtype": dtype, "granularity": granularity, "method": method}
    with dask.config.set(scheduler="synchronous"):
        result = qd.choose_qparams(da.from_array(x, chunks=(25, 20)), **kind)
    assert result == qn.choose_qparams(x, **kind)


def test_values_that_are_not_finite_are_counted():
    x = noise(200, 90)
    source = da.from_array(x, chunks=(30, 90))
    params = qd.choose_qparams(source)
    assert params == qn.choose_qparams(x)
    report = qd.compare(source, qd.quantize(source, params), params)
    assert (report.nan, report.inf) == (1, 1)
    assert report.warnings == ("1 NaN and 1 infinite of 18,000 elements are left out of the figures.",)


def test_dequantized_values_compare_too():
    x = noise(50)
    source = da.from_array(x, chunks=20)
    params = qd.choose_qparams(source)
    back = qd.dequantize(qd.quantize(source, params), params)
    report, whole = qd.compare(source, back), qn.compare(x, qn.quantize(x).dequantize())
    assert (report.dtype, report.granularity, report.codes_used) == ("float32", None, None)
    assert report.mse == pytest.approx(whole.mse, rel=50 * 2.0**-53)


@pytest.mark.memory
def test_an_array_larger_than_memory():
    """768 MiB of float32, computed block by block, under a limit of 512 MiB for the process."""
    script = """
import resource, numpy as np, dask, dask.array as da, qnumpy.dask as qd
resource.setrlimit(resource.RLIMIT_DATA, (512 << 20,) * 2)
blocks, n = 48, 1 << 22
def block(block_id):
    x = np.full(n, block_id[0] / blocks, np.float32)
    x[0] = -block_id[0]
    return x
x = da.map_blocks(block, chunks=((n,) * blocks,), dtype=np.float32, meta=np.empty(0, np.float32))
assert x.nbytes == 3 << 28
with dask.config.set(scheduler="threads", num_workers=2):
    params = qd.choose_qparams(x)
    q = qd.quantize(x, params)
    sums = q.map_blocks(lambda q: q.sum(dtype=np.int64, keepdims=True), dtype=np.int64, chunks=(1,)).compute()
    report = qd.compare(x, q, params)
print(sums.sum(), report.codes_used, report.sums.count)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    k, scale = np.arange(48, dtype=np.float32), np.float32(47 / 127)
    large, small = np.rint(-k / scale).astype(np.int64), np.rint(k / 48 / scale).astype(np.int64)
    total = large.sum() + ((1 << 22) - 1) * small.sum()
    used = len({*large.tolist(), *small.tolist()})
    assert done.stdout.split() == [str(total), str(used), str(48 << 22)]


# --- errors of arguments


LAZY = da.ones((4, 6), chunks=2)
PARAMS = qn.QParams(0.5, 0)
MINMAX = qn.MinMaxObserver()
WRONG = {
    "observe: observer must be an observer; got 3.": (TypeError, lambda: qd.observe(LAZY, 3)),
    "observe: x must be a dask array or bag; got [1.0].": (TypeError, lambda: qd.observe([1.0], MINMAX)),
    "observe: split_every must be at least 2; got 1.": (ValueError, lambda: qd.observe(LAZY, MINMAX, split_every=1)),
    "observe: split_every must be an integer; got None.": (
        TypeError,
        lambda: qd.observe(LAZY, MINMAX, split_every=None),
    ),
    "observe: axis must be in [-2, 1]; got 2.": (
        ValueError,
        lambda: qd.observe(LAZY, qn.MinMaxObserver(granularity=qn.PerChannel(2))),
    ),
    "observe: observer must be per tensor or per channel; got per group 2.": (
        ValueError,
        lambda: qd.observe(LAZY, qn.MinMaxObserver(granularity=qn.PerGroup(2))),
    ),
    "calibrate: run must be callable; got 3.": (TypeError, lambda: qd.calibrate(3, db.from_sequence([1]))),
    "calibrate: batches must be a dask bag; got [1].": (TypeError, lambda: qd.calibrate(dict, [1])),
    "calibrate: batches must be one or more; got none.": (
        qn.CalibrationError,
        lambda: qd.calibrate(dict, db.from_sequence([1]).filter(lambda x: False)),
    ),
    "from_safetensors: paths must be one or more; got none.": (ValueError, lambda: qd.from_safetensors([])),
    "choose_qparams: x must be a dask array; got 3.": (TypeError, lambda: qd.choose_qparams(3)),
    "quantize: x must be a dask array; got 3.": (TypeError, lambda: qd.quantize(3, PARAMS)),
    "quantize: qparams must be a QParams; got 3.": (TypeError, lambda: qd.quantize(LAZY, 3)),
    "quantize: qparams must be of scale shape (4,) for an array of shape (4, 6); got (2,).": (
        ValueError,
        lambda: qd.quantize(LAZY, qn.QParams([1.0, 1.0], 0, granularity=qn.PerChannel(0))),
    ),
    "dequantize: q must be a dask array; got 3.": (TypeError, lambda: qd.dequantize(3, PARAMS)),
    "dequantize: q must be an array of int8; got dtype float64.": (TypeError, lambda: qd.dequantize(LAZY, PARAMS)),
    "compare: q must be of the shape (4, 6) of x; got shape (6, 4).": (ValueError, lambda: qd.compare(LAZY, LAZY.T)),
    "compare: q must be an array of int8; got dtype float64.": (TypeError, lambda: qd.compare(LAZY, LAZY, PARAMS)),
    "compare: name must be a string; got 3.": (TypeError, lambda: qd.compare(LAZY, LAZY, name=3)),
}


@pytest.mark.parametrize("message", WRONG)
def test_messages(message):
    exception, call = WRONG[message]
    with dask.config.set(scheduler="synchronous"), pytest.raises(exception) as caught:
        call()
    assert str(caught.value) == message


FUNCTIONS = {
    "observe": lambda x: qd.observe(x, MINMAX),
    "observe channels": lambda x: qd.observe(x, qn.MinMaxObserver(granularity=qn.PerChannel(0))),
    "observe histogram": lambda x: qd.observe(x, qn.HistogramObserver()),
    "choose_qparams": qd.choose_qparams,
    "choose_qparams mse": lambda x: qd.choose_qparams(x, method="mse", granularity=qn.PerChannel(1)),
    "choose_qparams groups": lambda x: qd.choose_qparams(x, granularity=qn.PerGroup(2)),
    "choose_qparams rows": lambda x: qd.choose_qparams(x, granularity=qn.PerRow()),
    "quantize": lambda x: qd.quantize(x, PARAMS).compute(),
    "quantize rows": lambda x: qd.quantize(x, qn.QParams(np.ones(4), 0, granularity=qn.PerRow())).compute(),
    "compare": lambda x: qd.compare(x, LAZY),
    "compare codes": lambda x: qd.compare(x, qd.quantize(LAZY, PARAMS), PARAMS),
}


def hiding(x, function):
    """Return a dask array whose blocks are what `function` gives, while dask takes them for plain arrays."""
    return x.map_blocks(function, dtype=x.dtype, meta=np.empty((0, 0), x.dtype))


def masked(block):
    return np.ma.array(block, mask=np.zeros(block.shape, bool))


UNFIT = {
    "masked": (lambda: da.ma.masked_greater(LAZY, 2), "an array without a mask; got a MaskedArray. Use x.filled"),
    "masked, unknown to dask": (lambda: hiding(LAZY, masked), "an array without a mask; got a MaskedArray."),
    "quantized": (lambda: hiding(LAZY, qn.quantize), "a plain array; got a QuantizedArray. Use q.dequantize"),
    "integers": (lambda: LAZY.astype(int), "an array of float32, float64, float16 or bfloat16; got dtype int64"),
    "integers, unknown to dask": (lambda: hiding(LAZY, lambda block: block.astype(int)),
                                  "an array of float32, float64, float16 or bfloat16; got dtype int64"),
    "objects": (lambda: LAZY.astype(object), "an array of float32, float64, float16 or bfloat16; got dtype object"),
    "another kind of array": (lambda: da.from_array(Duck((4, 6)), asarray=False, chunks=2),
                              "a dask array of NumPy arrays; got one of .*Duck\\."),
    "a delayed": (lambda: dask.delayed(np.ones)(3), "a dask array.*; got a Delayed. Use dask.array.from_delayed"),
}  # fmt: skip


class Duck:
    """An array of another library, as dask sees it: cupy's, sparse's."""

    __array_ufunc__ = __array_function__ = lambda *_, **__: NotImplemented
    dtype = np.dtype(np.float64)

    def __init__(self, shape):
        self.shape, self.ndim = shape, len(shape)

    def __getitem__(self, key):
        return self


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_blocks_that_are_no_plain_reals(function, kind):
    make, problem = UNFIT[kind]
    if kind == "quantized" and function.endswith(("channels", "mse", "rows")):
        pytest.skip("dask makes an array of the blocks first, of dtype object")
    with dask.config.set(scheduler="synchronous"), pytest.raises(TypeError) as caught:
        FUNCTIONS[function](make())
    assert re.match(rf"{function.split()[0]}: x must be {problem}", str(caught.value))


@pytest.mark.parametrize("call", [
    lambda q: qd.dequantize(q, PARAMS).compute(), lambda q: qd.compare(LAZY, q, PARAMS), lambda q: qd.compare(LAZY, q),
], ids=["dequantize", "compare", "compare reals"])  # fmt: skip
@pytest.mark.parametrize("kind", ["masked", "hidden"])
def test_codes_with_a_mask(call, kind):
    codes = qd.quantize(LAZY, PARAMS)
    with pytest.raises(
        TypeError, match=r"^(dequantize|compare): q must be an array without a mask; got a MaskedArray\."
    ):
        call(da.ma.masked_greater(codes, 0) if kind == "masked" else hiding(codes, masked))


@pytest.mark.parametrize(("item", "problem"), [
    (qn.quantize(np.ones((2, 2))), "a plain array; got a QuantizedArray. Use q.dequantize() first."),
    (qn.quantize(np.ones((2, 32)), dtype="mxfp4"), "a plain array; got an MXArray. Use q.dequantize() first."),
    (masked(np.ones(3)), "an array without a mask; got a MaskedArray. Use x.filled(...) first."),
    (np.array([1.0, None]), "an array of float32, float64, float16 or bfloat16; got dtype object."),
    (None, "an array of float32, float64, float16 or bfloat16; got None."),
    (np.arange(3), "an array of float32, float64, float16 or bfloat16; got dtype int64."),
], ids=["quantized", "mx", "masked", "objects", "none", "integers"])  # fmt: skip
def test_items_that_are_no_plain_reals(item, problem):
    bag = db.from_sequence([np.ones(3), item], npartitions=1)
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(TypeError) as caught:
            qd.observe(bag, MINMAX)
        assert str(caught.value) == f"observe: x must be {problem}"
        with pytest.raises(TypeError) as caught:  # as qnumpy.calibrate, whose observers are called
            qd.calibrate(lambda x: {"x": x}, bag, MINMAX)
        assert str(caught.value) == f"MinMaxObserver.observe: x must be {problem}"


@pytest.mark.parametrize(("call", "condition"), [
    (lambda x: qd.observe(x, qn.MinMaxObserver(granularity=qn.PerChannel(1))),
     " where a block does not hold every channel"),
    (lambda x: qd.choose_qparams(x, granularity=qn.PerChannel(0)), " where a block does not hold every channel"),
    (lambda x: qd.choose_qparams(x, granularity=qn.PerGroup(2)), ""),
    (lambda x: qd.choose_qparams(x, granularity=qn.PerRow(), method="mse"), ""),
    (lambda x: qd.quantize(x, qn.QParams(np.ones(6), 0, granularity=qn.PerChannel(1))),
     " unless qparams is per tensor"),
    (lambda x: qd.compare(x, x), ""),
])  # fmt: skip
def test_unknown_chunk_sizes_are_one_sentence(call, condition):
    x = LAZY[LAZY[:, 0] > 0]
    with pytest.raises(ValueError, match=r"compute_chunk_sizes") as caught:
        call(x)
    owner = str(caught.value).partition(":")[0]
    assert owner in qd.__all__
    hint = "Use x.compute_chunk_sizes() first."
    assert str(caught.value) == f"{owner}: x must be an array of known shape{condition}; got shape (nan, 6). {hint}"
    call(x.compute_chunk_sizes())


def test_unknown_chunk_sizes_that_do_not_matter():
    x = noise(40, 6)
    lazy = da.from_array(x, chunks=(9, 6))
    some, here = lazy[lazy[:, 0] > 0], x[x[:, 0] > 0]
    assert qd.choose_qparams(some) == qn.choose_qparams(here)
    columns = {"granularity": qn.PerChannel(1), "method": "mse"}
    assert qd.choose_qparams(some, **columns) == qn.choose_qparams(here, **columns)
    np.testing.assert_array_equal(qd.quantize(some, PARAMS).compute(), qn.quantize(here, PARAMS).codes)
    assert qd.choose_qparams(lazy[lazy[:, 0] > np.inf]) == qn.choose_qparams(x[:0])


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(0)], ids=repr)
def test_choose_qparams_is_named_by_its_errors(method, granularity):
    scheme = {"method": method, "granularity": granularity}
    for x in (np.full((4, 6), np.nan), np.full((4, 6), 1e200)):
        sentences = []
        for call in (
            lambda x=x: qn.choose_qparams(x, **scheme),
            lambda x=x: qd.choose_qparams(da.from_array(x), **scheme),
        ):
            with pytest.raises(ValueError, match=r"^choose_qparams: ") as caught:
                call()
            sentences.append((type(caught.value), str(caught.value)))
        assert sentences[0] == sentences[1]
    for wrong, message in (
        ({"granularity": qn.PerChannel(2)}, "choose_qparams: axis must be in [-2, 1]; got 2."),
        ({"split_every": 1}, "choose_qparams: split_every must be at least 2; got 1."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            qd.choose_qparams(LAZY, **{**scheme, **wrong})


def test_a_dataframe_is_told_how_to_become_an_array():
    pandas, frames = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = frames.from_pandas(pandas.DataFrame({"a": [1.0, 2.0]}), npartitions=1)
    message = "observe: x must be a dask array or bag; got a DataFrame. Use x.to_dask_array(lengths=True) first."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        qd.observe(frame, MINMAX)
    assert float(qd.observe(frame.to_dask_array(lengths=True), MINMAX).max_) == 2.0


def test_dequantize_to_no_float():
    with pytest.raises(TypeError, match=r"^dequantize: dtype must be float32, .*; got 'int8'\.$"):
        qd.dequantize(LAZY.astype("int8"), PARAMS, dtype="int8")


def test_a_moving_average_is_refused_before_anything_runs():
    x = da.map_blocks(lambda: pytest.fail("a block was read"), chunks=((1,),), dtype=np.float32, meta=np.empty(0, "f4"))
    with pytest.raises(TypeError, match="depends on the order of the batches"):
        qd.observe(x, qn.MovingAverageMinMaxObserver())


# --- a real cluster


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    settings = {"distributed.worker.daemon": True, "distributed.comm.timeouts.connect": "30s"}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    """The default scheduler while a test runs, and no longer."""
    with cluster.get_client() as client:
        yield client


def test_a_cluster_gives_the_same_bits(client):
    x = noise(400, 90)
    for kind, make in OBSERVERS.items():
        for granularity in GRANULARITIES:
            result = qd.observe(da.from_array(x, chunks=(30, 40)), make(granularity=granularity))
            assert result.to_json() == make(granularity=granularity).observe(x).to_json(), kind
    source = da.from_array(x, chunks=(64, 90))
    params = qd.choose_qparams(source, granularity=qn.PerChannel(1))
    codes = qd.quantize(source, params)
    assert np.array_equal(codes.compute(), qn.quantize(x, params).codes)
    report, whole = qd.compare(source, codes, params), qn.compare(x, qn.quantize(x, params))
    assert (report.codes_used, report.nan, report.max_abs_error) == (whole.codes_used, 1, whole.max_abs_error)
    back = qd.dequantize(codes, params)
    assert qd.compare(source, back).max_abs_error == whole.max_abs_error
    batches = [noise(5, 30, seed=k) for k in range(12)]
    result = qd.calibrate(model, db.from_sequence(batches, npartitions=6))
    assert dict(result) == dict(qn.calibrate(model, batches))


def test_a_killed_worker_loses_nothing(client, tmp_path):
    marker = tmp_path / "killed"
    batches = [noise(10, 30, seed=k) for k in range(16)]

    def kill(k, x):
        return deadly(marker, x) if k == 9 else x

    bag = db.from_sequence(list(enumerate(batches)), npartitions=16).starmap(kill)
    observer = qn.MinMaxObserver(granularity=qn.PerChannel(1))
    result = qd.observe(bag, observer)
    assert Path(marker).exists()
    alone = qn.MinMaxObserver(granularity=qn.PerChannel(1))
    for batch in batches:
        alone.observe(batch)
    assert result.to_json() == alone.to_json()  # its counts too: nothing is counted twice


def test_choices_are_those_of_an_array_in_memory():
    x = np.random.default_rng(5).standard_normal((60, 40)).astype(np.float32)
    blocks = da.from_array(x, chunks=(25, 20))
    for granularity in (qn.PerTensor(), qn.PerChannel(0), qn.PerGroup(8), qn.PerRow()):
        kind = {"granularity": granularity, "method": "percentile", "percentile": 90.0}
        assert qd.choose_qparams(blocks, **kind) == qn.choose_qparams(x, **kind)
    for granularity in (qn.PerTensor(), qn.PerGroup(8)):
        for wrong in ({"method": "max"}, {"percentile": 0}, {"percentile": "90"}, {"dtype": "int9"}):
            wrong = {"granularity": granularity, **wrong}
            with pytest.raises((TypeError, ValueError)) as here:
                qn.choose_qparams(x, **wrong)
            with pytest.raises(here.type) as there:
                qd.choose_qparams(blocks, **wrong)
            assert str(there.value) == str(here.value).replace(", 'hqq'", "")  # which searches whole groups


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_levels_are_those_of_an_array_in_memory(dtype):
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    params = qn.choose_qparams(x, dtype=dtype)
    blocks = da.from_array(x, chunks=30)
    assert qd.compare(blocks, qd.quantize(blocks, params), params).levels == params.levels


@pytest.mark.parametrize("partitions", [1, 3])
def test_calibrate_refuses_a_moving_average_before_anything_runs(partitions):
    def never(x):
        raise AssertionError("ran")

    average = qn.MovingAverageMinMaxObserver()
    bag = db.from_sequence([np.ones(3, np.float32)] * 3, npartitions=partitions)
    for observers in (average, {"x": average, "y": None}):
        with pytest.raises(TypeError, match="depends on the order of the batches"):
            qd.calibrate(never, bag, observers)


def test_the_percentile_asked_for():
    x = noise(60, 48)
    with dask.config.set(scheduler="synchronous"):
        result = qd.choose_qparams(da.from_array(x, chunks=(25, 20)), method="percentile", percentile=90)
    assert result == qn.choose_qparams(x, method="percentile", percentile=90)
    assert result != qn.choose_qparams(x, method="percentile")


def test_blocks_of_another_cut_compare():
    x = noise(60, 48)
    source = da.from_array(x, chunks=(25, 20))
    with dask.config.set(scheduler="synchronous"):
        params = qd.choose_qparams(source)
        codes = qd.quantize(source, params)
        assert qd.compare(source, codes.rechunk((60, 7)), params) == qd.compare(source, codes, params)
