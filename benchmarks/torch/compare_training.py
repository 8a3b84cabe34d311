"""The convolutions of compare_training.py in PyTorch: accuracy after training with rounding, time of an epoch.

Run: ``python -m benchmarks.torch.compare_training --markdown``; ``--time`` measures epochs instead, those of float, of
prepare_qat and of PyTorch's own fake-quantization in turns, on one thread and on two. Accuracies are those of the
converted models. Needs torch and scikit-learn.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import qnumpy as qn
from qnumpy.torch import Config, convert, prepare_qat

from ..compare_training import BATCH, BITS, EPOCHS, FLOAT_EPOCHS, FLOAT_RATE, RATE, SEEDS, spread
from ..harness import cpu
from ..page import render

Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # images and digits: to train, to measure
WAYS = {"straight-through, min-max": "fake_quantize", "learned scales (LSQ)": "lsq"}


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def digits(seed: int) -> Data:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x, test, known, wanted = train_test_split(
        (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels, test_size=0.5, random_state=seed
    )
    return torch.from_numpy(x), torch.from_numpy(known), torch.from_numpy(test), torch.from_numpy(wanted)


def config(bits: int, way: str) -> Config:
    scheme: Any = {"granularity": qn.PerChannel(0), "symmetric": True, "method": "minmax"}
    return Config(mode="static", dtype=f"int{bits}", activation_bits=bits, qat=way, **scheme)


def epoch(model: nn.Module, adam: torch.optim.Optimizer, x: torch.Tensor, labels: torch.Tensor) -> None:
    order = torch.randperm(len(x))
    for start in range(0, len(x), BATCH):
        batch = order[start : start + BATCH]
        adam.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
        adam.step()


def train(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float, falls: bool) -> None:
    adam = torch.optim.Adam(model.parameters(), rate, fused=True)  # one call for all parameters
    for number in range(epochs):
        if falls:
            adam.param_groups[0]["lr"] = rate * (1 + np.cos(np.pi * number / epochs)) / 2
        epoch(model, adam, x, labels)


def accuracy(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == labels).float().mean())


def accuracies(seeds: int, bits: list[int]) -> dict[tuple[str, int], list[float]]:
    results: dict[tuple[str, int], list[float]] = {}
    for seed in range(seeds):
        x, known, test, wanted = digits(seed)
        torch.manual_seed(seed)
        floats = convolutions()
        train(floats, x, known, FLOAT_EPOCHS, FLOAT_RATE, False)
        results.setdefault(("float", 32), []).append(accuracy(floats.eval(), test, wanted))
        for width in bits:
            for name, way in WAYS.items():
                torch.manual_seed(seed)
                model = prepare_qat(floats, config(width, way))
                train(model, x, known, EPOCHS, RATE, True)
                results.setdefault((name, width), []).append(accuracy(convert(model), test, wanted))
    return results


# ---- the time of an epoch ----


def of_torch(model: nn.Module) -> nn.Module:
    """PyTorch's fake-quantization of 8 bits, by its fused modules of moving averages."""
    from torch.ao import quantization as ao

    model.train().qconfig = ao.get_default_qat_qconfig("x86")  # type: ignore[assignment]
    return ao.prepare_qat(model)


def epoch_times(threads: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of epochs that take turns."""
    torch.set_num_threads(threads)
    x, known, *_ = digits(0)
    floats = convolutions()
    makers: dict[str, Callable[[], nn.Module]] = {
        "float": convolutions,
        "prepare_qat, 8 bits": lambda: prepare_qat(floats, config(8, "fake_quantize")),
        "prepare_qat, 4 bits": lambda: prepare_qat(floats, config(4, "fake_quantize")),
        "prepare_qat, LSQ of 4 bits": lambda: prepare_qat(floats, config(4, "lsq")),
        "torch.ao.quantization.prepare_qat": lambda: of_torch(convolutions()),
    }
    models = {name: make() for name, make in makers.items()}
    adams = {name: torch.optim.Adam(model.parameters(), 1e-3) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times["float"]:
        for name, model in models.items():
            begun = time.perf_counter()
            epoch(model, adams[name], x, known)
            times[name].append(time.perf_counter() - begun)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print markdown tables (default: aligned text)")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--bits", type=int, nargs="+", default=list(BITS))
    parser.add_argument("--time", action="store_true", help="measure epochs instead")
    parser.add_argument("--seconds", type=float, default=60, help="of each number of threads")
    options = parser.parse_args()
    if options.time:
        print(f"{cpu()}: milliseconds of an epoch, best; of float, best and median.")
        for threads in (1, 2):
            times = epoch_times(threads, options.seconds)
            own = times["float"]
            body = [
                [name, f"{min(each) * 1e3:.1f}", f"{min(each) / min(own):.2f}",
                 f"{np.median(np.divide(each, own[: len(each)])):.2f}"]
                for name, each in times.items()
            ]  # fmt: skip
            print(render([f"{threads} threads", "ms", "best", "median"], body, markdown=options.markdown, left=1))
        return
    torch.set_num_threads(1)
    results = accuracies(options.seeds, options.bits)
    table = [
        [
            way,
            *("{:.4f} ± {:.4f}".format(*spread(results[way, 32 if way == "float" else bits])) for bits in options.bits),
        ]
        for way in ("float", *WAYS)
    ]
    print(render(["", *(f"W{bits}A{bits}" for bits in options.bits)], table, markdown=options.markdown, left=1))


if __name__ == "__main__":
    main()
