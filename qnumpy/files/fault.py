"""Errors of bad files: their one form of sentence, and a reader of JSON that names what it refuses."""

import json
from typing import Any

from .._typing import Path
from ..errors import FileFormatError

__all__: list[str] = []


def fault(path: Path, tensor: str | None, text: str) -> FileFormatError:
    """Return the error about a file, or about a tensor in it; a text that begins with a colon quotes another error."""
    if tensor is None:
        return FileFormatError(f"{path}: {text}")
    return FileFormatError(f"{path}: tensor {tensor!r}{'' if text.startswith(':') else ' '}{text}")


def json_object(path: Path, text: str | bytes, title: str) -> dict[str, Any]:
    """Return a JSON object; refuse invalid JSON, other values and duplicate keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            repeated = next(name for name in names if names.count(name) > 1)
            raise fault(path, None, f"{repeated!r} stands twice in {title}.")
        return values

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise fault(path, None, f"{title} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise fault(path, None, f"{title} must be a JSON object; got {type(value).__name__}.")
    return value
