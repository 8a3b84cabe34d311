"""Models as packages ship them, quantized by default options: size, error, the task's own answer, time over float32.

Run: ``python -m benchmarks.onnx.compare_models FOLDER_OR_FILES --markdown``

Every ``*.onnx`` below a folder is taken. Inputs are those of benchmarks/support/model_inputs.py: 8 calibrate, 16 others
measure. SQNR is of all outputs of a model together, by the output where it is least. "same" is the share of answers
(classes, characters, pixels, notes) that equal the float model's. Times are the best of sessions that take turns, over
the float model's in the same run; of one thread they are times of the processor, which other programs disturb less.
The row "float32 again" is a second session of the float model: how far it is from 1 is how far this run can be trusted.
ONNX Runtime's quantizer runs with per-channel weights after its own preprocessing.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qnumpy.onnx import quantize_static, session

from ..harness import Array, cpu
from ..page import render
from ..support.model_inputs import Case, case_of

AGAIN = "float32 again"
CALIBRATION, TEST = range(100, 108), range(16)

Quantizer = Callable[[Path, Case, Path], None]


def ours_static(source: Path, case: Case, target: Path) -> None:
    quantize_static(source, [case.feed(seed) for seed in CALIBRATION], target, progress=False)


def ours_measured(source: Path, case: Case, target: Path) -> None:
    quantize_static(source, [case.feed(seed) for seed in CALIBRATION], target, progress=False, measure=True)


def ours_dynamic(source: Path, case: Case, target: Path) -> None:
    from qnumpy.onnx import quantize_dynamic

    quantize_dynamic(source, target)


def ours_in_our_operators(source: Path, case: Case, target: Path) -> None:
    from qnumpy.onnx import quantize_dynamic

    quantize_dynamic(source, target, target="qnumpy")


def ort_static(source: Path, case: Case, target: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = iter([case.feed(seed) for seed in CALIBRATION])

        def get_next(self) -> Any:
            return next(self.items, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(source), str(prepared))
        except Exception:  # symbolic shape inference fails on some models
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip


def ort_dynamic(source: Path, case: Case, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(source), str(target), per_channel=True)


def nncf_static(source: Path, case: Case, target: Path) -> None:
    import nncf
    import onnx

    items = [case.feed(seed) for seed in CALIBRATION]
    onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(items), subset_size=len(items)), target)


QUANTIZERS: dict[str, Quantizer] = {
    "qnumpy static": ours_static,
    "qnumpy static, measured": ours_measured,
    "qnumpy dynamic": ours_dynamic,
    "qnumpy dynamic, qnumpy": ours_in_our_operators,
    "onnxruntime static": ort_static,
    "onnxruntime dynamic": ort_dynamic,
    "NNCF static": nncf_static,
}


def session_of(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return session(path, threads=threads, options=options)


def sqnr(exact: Array, coarse: Array) -> float:
    exact, coarse = exact.astype(np.float64), coarse.astype(np.float64)
    noise = np.square(exact - coarse).sum()
    return float(10 * np.log10(np.square(exact).sum() / noise)) if noise else float("inf")


def rows(source: Path, names: list[str], threads: int, seconds: float) -> Iterator[list[str]]:
    """Yield the rows of one model."""
    floats = session_of(source, threads)
    case = case_of(source, floats.get_inputs())
    wanted = [floats.run(None, case.feed(seed)) for seed in TEST]
    made: dict[str, tuple[Any, int]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            target = Path(folder) / f"{len(made)}{len(failures)}.onnx"
            try:
                QUANTIZERS[name](source, case, target)
                made[name] = session_of(target, threads), os.path.getsize(target)
                made[name][0].run(None, case.feed(TEST[0]))
            except Exception as error:
                made.pop(name, None)
                failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"
        engines = {
            "float32": floats, AGAIN: session_of(source, threads),
            **{name: engine for name, (engine, _) in made.items()},
        }  # fmt: skip
        best = timed(engines, case.feed(TEST[0]), seconds, time.thread_time if threads == 1 else time.perf_counter)
    size = os.path.getsize(source)
    for name in ("float32", AGAIN):
        speed = f"{best['float32'] / best[name]:.2f}"
        yield [source.name, name, f"{size / 1e6:.2f}", "", "", f"{best[name] * 1e3:.3g}", speed]
    for name in names:
        if name in failures:
            yield [source.name, name, "", "", failures[name], "", ""]
            continue
        engine, size = made[name]
        got = [engine.run(None, case.feed(seed)) for seed in TEST]
        exact, coarse = map(joined, (wanted, got))
        worst = min(map(sqnr, exact, coarse))
        same = np.mean([np.mean(case.answer(a) == case.answer(b)) for a, b in zip(wanted, got, strict=True)])
        yield [
            source.name, name, f"{size / 1e6:.2f}", f"{worst:.1f}", f"{100 * same:.2f} % of {case.question}",
            f"{best[name] * 1e3:.3g}", f"{best['float32'] / best[name]:.2f}",
        ]  # fmt: skip


def joined(runs: list[list[Array]]) -> list[Array]:
    """Return each output of all runs as one array."""
    return [np.concatenate([np.ravel(y) for y in outputs]) for outputs in zip(*runs, strict=True)]


def timed(
    engines: dict[str, Any], feed: dict[str, Array], seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the best time of each session; they take turns, and each round another one begins."""
    names = list(engines)
    best = dict.fromkeys(names, float("inf"))
    for engine in engines.values():
        engine.run(None, feed)
    end, rounds = time.perf_counter() + seconds * len(engines), 0
    while rounds < 5 or time.perf_counter() < end:
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            engines[name].run(None, feed)
            best[name] = min(best[name], clock() - start)
        rounds += 1
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="models, or folders of models")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table (default: aligned text)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing for each model and form")
    parser.add_argument("--only", nargs="*", choices=list(QUANTIZERS), default=list(QUANTIZERS), metavar="FORM")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    files = [file for path in options.paths for file in (sorted(path.rglob("*.onnx")) if path.is_dir() else [path])]
    head = ["model", "form", "MB", "SQNR dB", "same", "ms", "speed-up"]
    body = [row for file in files for row in rows(file, options.only, options.threads, options.seconds)]
    print(render(head, body, markdown=options.markdown))
    print(f"\n{cpu()}, {options.threads} thread{'s' * (options.threads > 1)}")


if __name__ == "__main__":
    main()
