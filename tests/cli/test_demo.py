"""The demo runs on the shipped file alone, and quantizing costs next to nothing."""

import re
import subprocess
import sys
from importlib.resources import files

import numpy as np

import qnumpy as qn
from qnumpy.cli import demo

DATA = files("qnumpy") / "data"


def test_data_is_small_and_holds_no_pickle():
    stored = DATA / "digits.npz"
    assert len(stored.read_bytes()) < 80_000
    digits = demo.load()  # np.load(allow_pickle=False) refuses object arrays
    assert [w.shape for w in digits.weights.values()] == [(64, 64), (32, 64), (10, 32)]
    assert [b.shape for b in digits.biases.values()] == [(64,), (32,), (10,)]
    assert all(a.dtype == np.float32 for a in [*digits.weights.values(), *digits.biases.values()])
    assert digits.images.shape == (360, 8, 8)
    assert digits.images.dtype == np.uint8
    assert digits.images.max() == 16
    assert digits.labels.shape == (360,)
    assert set(digits.labels.tolist()) == set(range(10))
    assert digits.training_images.shape == (1437, 8, 8)
    assert digits.training_images.dtype == np.uint8
    assert digits.training_labels.shape == (1437,)


def test_no_image_is_in_both_sets():
    digits = demo.load()
    tested, trained = ({image.tobytes() for image in images} for images in (digits.images, digits.training_images))
    assert len(tested) == 360
    assert not tested & trained


def test_the_script_that_made_the_data_ships_with_it():
    assert (DATA / "make_digits.py").is_file()


def test_accuracy_survives_quantization():
    digits = demo.load()
    before = digits.correct(digits.weights)
    assert before / len(digits.labels) > 0.97  # what a perceptron of this size reaches; chance is 0.1
    int8 = {name: qn.quantize(w, granularity=qn.PerChannel(0)) for name, w in digits.weights.items()}
    int4 = {name: qn.quantize(w, dtype="int4", granularity=qn.PerGroup(32)) for name, w in digits.weights.items()}
    assert abs(digits.correct(int8) - before) <= 2  # int8 moves a logit by less than 1 %: only near ties can flip
    assert before - digits.correct(int4) <= 11  # 3 % of the images: a step is 1/7 of a group's largest weight
    zeros = {name: np.zeros_like(w) for name, w in digits.weights.items()}
    assert digits.correct(zeros) < 90  # a broken model is noticed: the biases alone name one digit


def test_the_command_prints_every_step(run):
    code, printed, err = run("demo")
    assert (code, err) == (0, "")
    for title, _ in demo.STEPS:
        assert title in printed
    for words in ("layer1.weight", "layer3.weight", "int8", "int4", "float32"):
        assert words in printed
    digits = demo.load()
    counts = re.findall(r"(\d+) of 360 images right", printed)
    assert len(counts) == 1 + len(demo.SCHEMES)
    assert int(counts[0]) == digits.correct(digits.weights)


def test_importing_the_package_does_not_load_the_demo():
    code = "import sys, qnumpy; raise SystemExit('qnumpy.cli.demo' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
