"""Inputs for models that packages bring along, made on the spot: pages of text, speech-like sounds, melodies, files.

Models that are not known here get smoothed noise of the shapes that they declare.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..harness import Array

__all__ = ["Case", "case_of"]

WORDS = (
    "the quick brown fox jumps over a lazy dog while seven wizards quietly measure every pixel of this page and note "
    "that numbers such as 1024 or 3.14 and signs like % & + stay legible"
).split()


class Case(NamedTuple):
    """How a model is fed and judged: inputs by a seed, and the answer that a user reads off the outputs."""

    feed: Callable[[int], dict[str, Array]]
    answer: Callable[[list[Array]], Array]
    question: str


def case_of(path: Path, inputs: list[Any]) -> Case:
    """Return the case of a model file, by the inputs of a session and the name of the file."""
    name, first = path.name.lower(), inputs[0].name
    if "ocr" in name and "det" in name:
        return Case(lambda seed: {first: _page(seed, 640, 640)}, lambda y: y[0] > 0.3, "text pixels")
    if "ocr" in name and "rec" in name:
        return Case(lambda seed: {first: _line(seed, 48, 320)}, lambda y: y[0].argmax(-1), "characters")
    if "ocr" in name and "cls" in name:
        return Case(lambda seed: {first: _line(seed, 48, 192, turned=seed % 2 == 1)}, lambda y: y[0].argmax(-1), "class")
    if "orientation" in name:
        return Case(lambda seed: {first: _turned_page(seed)}, lambda y: y[0].argmax(-1), "class")
    if [i.name for i in inputs] == ["bytes"]:
        return Case(lambda seed: {first: _file(seed)}, lambda y: y[0].argmax(-1), "class")
    if inputs[0].shape[1:] == [43844, 1]:
        return Case(lambda seed: {first: _melody(seed)}, lambda y: np.concatenate([a > 0.5 for a in y], -1), "notes")
    if "vad" in name:
        return Case(lambda seed: _speech_feed(seed, inputs), lambda y: y[0] > 0.5, "speech")
    return Case(lambda seed: _noise(seed, inputs), lambda y: y[0].argmax(-1), "largest")


@cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _written(rng: Any, height: int, width: int, size: int, lines: int) -> Array:
    """Return an image of text in uint8, (height, width, 3)."""
    from PIL import Image, ImageDraw

    paper = tuple(int(c) for c in rng.integers(190, 256, 3))
    ink = tuple(int(c) for c in rng.integers(0, 90, 3))
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    step = height / lines
    for i in range(lines):
        text = " ".join(rng.choice(WORDS, 12))
        draw.text((int(rng.integers(2, 12)), int(i * step + (step - size) / 2 - 2)), text, font=_font(size), fill=ink)
    noisy = np.asarray(image, np.float64) + rng.normal(scale=4, size=(height, width, 3))
    return np.clip(noisy, 0, 255)


def _normalized(image: Array, mean: Any, std: Any) -> Array:
    x = (image / 255 - mean) / std
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _page(seed: int, height: int, width: int) -> Array:
    rng = np.random.default_rng(seed)
    return _normalized(_written(rng, height, width, int(rng.integers(14, 30)), int(rng.integers(6, 16))), _MEAN, _STD)


def _line(seed: int, height: int, width: int, *, turned: bool = False) -> Array:
    image = _written(np.random.default_rng(seed), height, width, 28, 1)
    return _normalized(image[::-1, ::-1] if turned else image, 0.5, 0.5)


def _turned_page(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return _normalized(np.rot90(_written(rng, 224, 224, int(rng.integers(12, 20)), 9), seed % 4), _MEAN, _STD)


def _file(seed: int) -> Array:
    """Return the first and the last 1,024 bytes of a made-up file; 256 stands for none."""
    rng = np.random.default_rng(seed)
    words = rng.choice(WORDS, 400)
    kinds = [
        "import os\n\n\ndef {0}({1}):\n    return [{2} for {2} in {1} if {2}]\n\n",
        "<html><body><p class=\"{0}\">{1} {2}</p></body></html>\n",
        "#include <stdio.h>\nint {0}(int {1}) {{ printf(\"{2}\\n\"); return {1}; }}\n",
        "{{\"{0}\": [1, 2, 3], \"{1}\": \"{2}\"}},\n",
        "{0},{1},{2}\n1,2,3\n",
        "# {0}\n\n* {1}\n* {2}\n\nSome `text` here.\n\n",
    ]
    kind = kinds[seed % len(kinds)]
    text = "".join(kind.format(*words[i : i + 3]) for i in range(0, 399, 3)).encode()
    ids = np.full(2048, 256, np.int32)
    ids[: min(1024, len(text))] = np.frombuffer(text[:1024], np.uint8)
    ids[-min(1024, len(text)) :] = np.frombuffer(text[-1024:], np.uint8)
    return ids[None]


def _melody(seed: int) -> Array:
    rng, t = np.random.default_rng(seed), np.arange(43844) / 22050
    x = 0.002 * rng.normal(size=t.size)
    for _ in range(6):
        start, pitch = rng.uniform(0, 1.6), 440 * 2 ** (rng.integers(-24, 18) / 12)
        ringing = np.where(t >= start, np.exp(-3 * np.maximum(t - start, 0)), 0)
        x += 0.2 * ringing * sum(np.sin(2 * np.pi * pitch * h * (t - start)) / h for h in range(1, 6))
    return x.astype(np.float32)[None, :, None]


def _speech(rng: Any, samples: int, *, voiced: bool) -> Array:
    """Return a vowel by a pulse train through three resonances, or noise."""
    t = np.arange(samples + 2000) / 16000
    if not voiced:
        return (0.01 * rng.normal(size=samples)).astype(np.float32)
    pitch = rng.uniform(90, 220)
    x = np.zeros(t.size)
    for h in range(1, 30):
        f = pitch * h
        gain = sum(1 / (1 + ((f - r) / 90) ** 2) for r in rng.permutation([650, 1100, 2500]))
        x += gain * np.sin(2 * np.pi * f * t + rng.uniform(0, 6.28))
    x = 0.3 * x / np.abs(x).max() + 0.003 * rng.normal(size=t.size)
    return x[2000:].astype(np.float32)


def _speech_feed(seed: int, inputs: list[Any]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    names = [i.name for i in inputs]
    if names == ["input", "h", "c"]:
        rows = [_speech(rng, 576, voiced=bool(rng.integers(2))) for _ in range(16)]
        zeros = np.zeros((1, 1, 128), np.float32)
        return {"input": np.stack(rows), "h": zeros, "c": zeros}
    feed = {"input": _speech(rng, 576, voiced=seed % 2 == 0)[None]}
    feed["state"] = (0.3 * rng.normal(size=(2, 1, 128))).astype(np.float32) * (seed % 3 > 0)
    if "sr" in names:
        feed["sr"] = np.array(16000, np.int64)
    return feed


def _noise(seed: int, inputs: list[Any]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    feed = {}
    for value in inputs:
        shape = [n if isinstance(n, int) and n > 0 else (1 if d == 0 else 64) for d, n in enumerate(value.shape)]
        if "int" in value.type:
            feed[value.name] = rng.integers(0, 100, shape).astype(np.int32 if "32" in value.type else np.int64)
            continue
        x = rng.normal(size=shape)
        for axis in range(max(len(shape) - 2, 0), len(shape)):
            x = (x + np.roll(x, 1, axis) + np.roll(x, -1, axis)) / 3
        feed[value.name] = x.astype(np.float16 if "16" in value.type else np.float32)
    return feed
