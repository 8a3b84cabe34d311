"""Data that calibration meets, by name, and the exact errors of quantizers of known densities."""

import math

import numpy as np

N = 40_000
erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def _spikes(rng, n, share, size):
    x = rng.standard_normal(n)
    at = rng.random(n) < share
    x[at] *= size
    return x


DISTRIBUTIONS = {
    "normal": lambda r, n: r.standard_normal(n),
    "normal wide": lambda r, n: 1e6 * r.standard_normal(n),
    "normal narrow": lambda r, n: 1e-9 * r.standard_normal(n),
    "normal shifted": lambda r, n: r.standard_normal(n) + 3,
    "normal far": lambda r, n: r.standard_normal(n) - 40,
    "laplace": lambda r, n: r.laplace(size=n),
    "logistic": lambda r, n: r.logistic(size=n),
    "uniform": lambda r, n: r.uniform(-1, 1, n),
    "uniform positive": lambda r, n: r.uniform(0, 5, n),
    "triangular": lambda r, n: r.triangular(-1, 0.2, 3, n),
    "student 5": lambda r, n: r.standard_t(5, n),
    "student 3": lambda r, n: r.standard_t(3, n),
    "student 2": lambda r, n: r.standard_t(2, n),
    "lognormal": lambda r, n: r.lognormal(size=n),
    "lognormal signed": lambda r, n: r.lognormal(size=n) * r.choice([-1, 1], n),
    "exponential": lambda r, n: r.exponential(size=n),
    "gamma": lambda r, n: r.gamma(3, size=n),
    "gamma shifted": lambda r, n: r.gamma(3, size=n) - 2,
    "weibull": lambda r, n: r.weibull(0.7, n),
    "relu": lambda r, n: np.maximum(r.standard_normal(n), 0),
    "relu sparse": lambda r, n: np.maximum(r.standard_normal(n) - 1.5, 0),
    "relu6": lambda r, n: np.clip(3 * r.standard_normal(n), 0, 6),
    "gelu": lambda r, n: gelu(r.standard_normal(n)),
    "gelu wide": lambda r, n: gelu(4 * r.standard_normal(n)),
    "silu": lambda r, n: (lambda x: x / (1 + np.exp(-x)))(2 * r.standard_normal(n)),
    "sigmoid": lambda r, n: 1 / (1 + np.exp(-3 * r.standard_normal(n))),
    "tanh": lambda r, n: np.tanh(2 * r.standard_normal(n)),
    "softmax": lambda r, n: r.dirichlet(np.ones(40), n // 40).ravel(),
    "bimodal": lambda r, n: r.standard_normal(n) + r.choice([-6, 6], n),
    "bimodal uneven": lambda r, n: np.where(r.random(n) < 0.02, 10 + r.standard_normal(n), r.standard_normal(n)),
    "outliers 0.1 %": lambda r, n: _spikes(r, n, 1e-3, 30),
    "outliers 1 %": lambda r, n: _spikes(r, n, 1e-2, 20),
}


def sample(name, n=N, seed=0):
    return DISTRIBUTIONS[name](np.random.default_rng([seed, len(name), ord(name[0])]), n).astype(np.float32)


# ---- exact errors ----


def normal_error(levels, step):
    """The mean squared error of a normal variable on the grid of given levels times step, the ends saturating."""
    return _grid_error(levels * step, _normal_below, 1.0)


def laplace_error(levels, step):
    """The same of a Laplace variable with b = 1."""
    return _grid_error(levels * step, _laplace_below, 2.0)


def _grid_error(points, below, variance):
    """E x^2 - 2 sum p_k E[x; cell k] + sum p_k^2 P(cell k), from the moments 0 and 1 below each boundary."""
    edges = np.concatenate([[-np.inf], (points[1:] + points[:-1]) / 2, [np.inf]])
    zeroth, first = below(edges)
    return variance - 2 * np.sum(points * np.diff(first)) + np.sum(points**2 * np.diff(zeroth))


def _normal_below(x):
    density = np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)
    return (1 + erf(x / math.sqrt(2))) / 2, -density


def _laplace_below(x):
    half = np.exp(-np.abs(x)) / 2
    finite = np.where(np.isfinite(x), np.abs(x), 0.0)
    return np.where(x < 0, half, 1 - half), -half * (1 + finite)


def best_step(error, levels, low, high):
    """The step of least error, by golden section: the error has one minimum there."""
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(80):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if error(levels, a) < error(levels, b) else (a, high)
    return (low + high) / 2
