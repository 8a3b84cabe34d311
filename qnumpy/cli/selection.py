"""Selection of tensors by patterns of their names: --include and --exclude."""

import argparse
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ..errors import FileFormatError
from ..files.spec import TensorSpec
from ..files.store import Reader
from .common import UsageError

__all__: list[str] = []


def add_selection(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--include", metavar="RE", action="append", default=[], help=f"{verb} only names that match (repeatable)"
    )
    parser.add_argument(
        "--exclude",
        metavar="RE",
        action="append",
        default=[],
        help="keep names that match as they are (repeatable); arrays of Python objects are left out",
    )


@dataclass(frozen=True)
class Selection:
    """The patterns of --include and --exclude, which match the names of the file."""

    include: list[re.Pattern[str]]
    exclude: list[re.Pattern[str]]

    @classmethod
    def of(cls, args: argparse.Namespace, names: Iterable[str]) -> Self:
        names = list(names)
        include = [name_pattern("--include", text, names) for text in args.include]
        return cls(include, [name_pattern("--exclude", text, names) for text in args.exclude])

    def readable(self, reader: Reader) -> dict[str, TensorSpec]:
        """Return the tensors to write; refuse one that cannot be read, unless it is excluded."""
        for name, spec in reader.specs.items():
            if spec.unreadable is not None and not self.excludes(name):
                raise FileFormatError(
                    f"{reader.path}: tensor {name!r} {spec.unreadable.reason}. --exclude leaves it out."
                )
        return {name: spec for name, spec in reader.specs.items() if spec.unreadable is None}

    def excludes(self, name: str) -> bool:
        return any(pattern.search(name) for pattern in self.exclude)

    def leaves_out(self, name: str) -> bool:
        """Whether there are patterns to include and none matches."""
        return bool(self.include) and not any(pattern.search(name) for pattern in self.include)


def name_pattern(option: str, text: str, names: Iterable[str]) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # a later Python may read the pattern otherwise
            pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError, FutureWarning) as error:
        raise UsageError(f"{option} must be a regular expression; got {text!r}: {error}.") from error
    if not any(map(pattern.search, names)):
        raise UsageError(f"{option} must match the name of a tensor; {text!r} matches none.")
    return pattern
