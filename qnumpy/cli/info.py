"""``qnumpy info``: versions, instruction sets, threads, and the ISA row of each kernel."""

import argparse
import json
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from .. import __version__
from ..runtime import show_config
from .common import FINE, Commands, add_command, add_json
from .streams import show

__all__: list[str] = []


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "info", run, "Print versions, the CPU's instruction sets and which of them serves each kernel."
    )
    add_json(parser, "them")


def run(args: argparse.Namespace) -> int:
    facts: dict[str, Any] = {
        "qnumpy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ml_dtypes": ml_dtypes.__version__,
        "machine": platform.machine(),
        **show_config(),
    }
    if args.json:
        show(json.dumps(facts, indent=2))
        return FINE
    show("\n".join(_lines(facts)))
    return FINE


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, facts))
    for key, value in facts.items():
        if not isinstance(value, Mapping):
            yield f"{key:<{width}}  {value}"
            continue
        inner = max(map(len, value), default=0)
        yield key
        for name, fact in value.items():
            yield f"  {name:<{inner}}  {('yes' if fact else 'no') if isinstance(fact, bool) else fact}"
