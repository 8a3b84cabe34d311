"""Every kind of observer by name, and the data that their tests observe."""

import numpy as np

import qnumpy as qn

KINDS = {
    "minmax": qn.MinMaxObserver,
    "average": qn.MovingAverageMinMaxObserver,
    "mse": lambda **k: qn.HistogramObserver("mse", **k),
    "entropy": lambda **k: qn.HistogramObserver("entropy", **k),
    "percentile": lambda **k: qn.HistogramObserver("percentile", 99, **k),
}
METHODS = ["mse", "entropy", "percentile"]
MERGEABLE = [kind for kind in KINDS if kind != "average"]


def data(seed=0, shape=(20, 30)):
    x = np.random.default_rng(seed).standard_t(3, shape).astype(np.float32)
    x.flat[3], x.flat[77] = np.nan, -np.inf
    return x
