"""The programs of docs/distributed.md: each runs on its own and prints the output below it.

The tests do not need Spark and Ray. Their recipes run against plain functions that treat the states as those do: pickle
them, pass copies, run a task twice.
"""

import pickle
import re
import subprocess
import sys
from functools import reduce
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import qnumpy as qn

PAGE = Path(__file__).parents[1] / "docs" / "distributed.md"
BLOCKS = re.findall(
    r"^## (.*?)\n.*?^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?",
    PAGE.read_text("utf-8"),
    re.DOTALL | re.MULTILINE,
)
RECIPES = {title: (program, output) for title, program, output in BLOCKS}
NEEDS = {"dask": "dask", "joblib": "joblib"}


def batches(count=23):
    return [
        np.random.default_rng(seed).standard_normal(1 + 37 * seed % 200).astype(np.float32) for seed in range(count)
    ]


def alone(arrays):
    return reduce(lambda observer, x: observer.observe(x), arrays, qn.MinMaxObserver()).to_json()


def names(title):
    namespace = {}
    exec(compile(RECIPES[title][0], f"{PAGE.name}: {title}", "exec"), namespace)
    return namespace


def test_every_recipe_is_tried():
    assert set(RECIPES) == {"dask", "concurrent.futures", "joblib", "Spark", "Ray"}
    assert {title for title, (_, output) in RECIPES.items() if not output} == {"Spark", "Ray"}


@pytest.mark.parametrize("title", [title for title, (_, output) in RECIPES.items() if output])
def test_program(title, tmp_path):
    if title in NEEDS:
        pytest.importorskip(NEEDS[title])
    program, output = RECIPES[title]
    script = tmp_path / "recipe.py"  # a file of its own: workers import their functions from it
    script.write_text(program, encoding="utf-8")
    argv = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (output, "")


# --- Spark


class Rdd:
    """`treeAggregate` as Spark does it: partitions fold a pickled zero, then levels of merges, every state pickled."""

    def __init__(self, partitions):
        self.partitions = partitions

    def treeAggregate(self, zero, seq_op, comb_op, depth=2):  # noqa: N802 - Spark's name
        stored = pickle.dumps(zero)

        def shipped(state):
            return pickle.loads(pickle.dumps(state))

        states = [shipped(reduce(seq_op, part, pickle.loads(stored))) for part in self.partitions]
        scale = max(int(np.ceil(len(states) ** (1 / depth))), 2)
        while len(states) > scale + -(-len(states) // scale):
            count = -(-len(states) // scale)
            states = [
                shipped(reduce(comb_op, map(shipped, states[k::count]), pickle.loads(stored))) for k in range(count)
            ]
        return reduce(comb_op, map(shipped, states))


@pytest.mark.parametrize("partitions", [1, 2, 23])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_spark(partitions, depth):
    arrays = batches()
    rdd = Rdd([arrays[k::partitions] for k in range(partitions)])
    assert names("Spark")["calibrate"](rdd, depth=depth).to_json() == alone(arrays)


def test_spark_takes_any_observer():
    zero = qn.MinMaxObserver(granularity=qn.PerChannel(0), dtype="uint8", symmetric=False)
    arrays = [np.random.default_rng(seed).standard_normal((3, 5)) for seed in range(7)]
    observer = names("Spark")["calibrate"](Rdd([arrays[:2], arrays[2:]]), zero)
    assert observer.to_json() == reduce(lambda a, x: a.observe(x), arrays, zero).to_json()


# --- Ray


class Ray:
    """Tasks on references: arguments are copies out of a store, and every task runs twice, as after a lost node."""

    class Task:
        def __init__(self, function):
            self.function = function

        def remote(self, *arguments):
            stored = [argument if isinstance(argument, bytes) else pickle.dumps(argument) for argument in arguments]
            first = pickle.dumps(self.function(*map(pickle.loads, stored)))
            assert pickle.dumps(self.function(*map(pickle.loads, stored))) == first
            return first

    def remote(self, function):
        return self.Task(function)

    def get(self, reference):
        return pickle.loads(reference)


@pytest.mark.parametrize("fan", [2, 3, 8])
@pytest.mark.parametrize("shards", [1, 5, 23])
def test_ray(fan, shards):
    arrays = batches()
    source = iter(arrays)
    split = [list(islice(source, -(-len(arrays) // shards))) for _ in range(shards)]  # the last ones may be empty
    assert names("Ray")["calibrate"](Ray(), split, fan=fan).to_json() == alone(arrays)


def test_merging_into_a_fresh_state_leaves_the_parts_alone():
    parts = [qn.MinMaxObserver().observe(x) for x in batches(5)]
    before = [part.to_json() for part in parts]
    assert names("Ray")["merge"](*parts).to_json() == alone(batches(5))
    assert [part.to_json() for part in parts] == before


def test_a_moving_average_says_why_not():
    a, b = (qn.MovingAverageMinMaxObserver().observe(x) for x in batches(3)[1:])
    with pytest.raises(TypeError, match=r"depends on the order of the batches"):
        a.merge(b)


@pytest.mark.parametrize("make", [qn.MinMaxObserver, qn.HistogramObserver])
@pytest.mark.parametrize("granularity", [qn.PerTensor(), qn.PerChannel(1)], ids=repr)
def test_states_arrive_in_buffers_of_any_kind(make, granularity):
    """Transports pass slices of the received bytes: read-only, at addresses that are no multiple of eight."""

    def sent(state):
        buffers = []
        body = pickle.dumps(state, protocol=5, buffer_callback=buffers.append)
        unaligned = [memoryview(b"\0" + bytes(buffer.raw()))[1:] for buffer in buffers]
        assert unaligned
        return pickle.loads(body, buffers=unaligned)

    x, y = (np.random.default_rng(seed).standard_normal((50, 4)) for seed in (1, 2))
    whole = make(granularity=granularity).observe(x).observe(y)
    back = sent(make(granularity=granularity).observe(x)).merge(sent(make(granularity=granularity).observe(y)))
    assert back.to_json() == whole.to_json()
    assert sent(back).qparams() == whole.qparams()
