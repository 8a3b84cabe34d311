"""Reports as text, HTML and JSON."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ._check import must, typed

__all__ = [
    "MAX_ROWS",
    "NamedTable",
    "Table",
    "aligned",
    "as_json",
    "escape",
    "html_facts",
    "html_list",
    "html_row",
    "more",
    "number",
    "printable",
    "tensors",
]

MAX_ROWS = 20  # of a notebook's table and of the lists below a table

Item = TypeVar("Item")


class Table(Generic[Item]):
    """Several reports as one table; a derived class defines the columns."""

    _left: ClassVar[int] = (
        4  # so many columns hold words and are aligned left; the others hold numbers and are aligned right
    )
    _last_left: ClassVar[bool] = False  # whether the last column holds sentences

    def __init__(self, items: Iterable[Item], item_type: type[Item], name: str) -> None:
        self._items = tuple(items)
        for item in self._items:
            if not isinstance(item, item_type):
                raise TypeError(must(type(self).__name__, name, f"{item_type.__name__} objects", typed(item)))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one flat dict for each tensor, ready for a data frame."""
        return [item.to_dict() for item in self._items]  # type: ignore[attr-defined]

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return JSON: "tensors" and the entries of the table; numbers that are not finite or do not apply are null."""
        return as_json({"tensors": self.to_records(), **self._about()}, indent)

    def __str__(self) -> str:
        rows = [self._head(), *map(self._row, self._items), *self._foot()]
        warnings = [f"warning: {printable(sentence)}" for sentence in self._warnings()]
        return "\n".join(
            [*aligned(rows, left=self._left, last_left=self._last_left), *([""] if warnings else []), *warnings]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = self._head()
        rows = [html_row(self._row(item), columns=len(head)) for item in self._items[:MAX_ROWS]]
        rows += [html_row([text], columns=len(head)) for text in more(len(self))]
        foot = "".join(f"<tfoot>{html_row(row)}</tfoot>" for row in self._foot())
        table = f"<thead>{html_row(head, 'th')}</thead><tbody>{''.join(rows)}</tbody>{foot}"
        return f"<table>{table}</table>{html_list(self._warnings())}"

    def _warnings(self) -> list[str]:
        sentences = self._sentences()
        return sentences[:MAX_ROWS] + [f"{text}." for text in more(len(sentences))]

    # ---- a derived class defines these ----

    def _head(self) -> list[str]:
        raise NotImplementedError

    def _row(self, item: Item) -> list[str]:
        raise NotImplementedError

    def _foot(self) -> list[list[str]]:
        """Return the rows below the table: one or none."""
        return []

    def _about(self) -> dict[str, Any]:
        """Return the entries of the JSON beside the rows."""
        return {}

    def _sentences(self) -> list[str]:
        """Return warnings of valid but surprising facts, one sentence each."""
        return []


class NamedTable(Table[Item]):
    """A table whose reports have names, by which it is indexed."""

    def __getitem__(self, name: str) -> Item:
        for item in self:
            if item.name == name:  # type: ignore[attr-defined]
                return item
        raise KeyError(name)


def more(count: int) -> list[str]:
    """Return the line that replaces the rows beyond MAX_ROWS."""
    return [f"... and {count - MAX_ROWS:,} more"] if count > MAX_ROWS else []


def tensors(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def printable(text: str) -> str:
    """Escape line breaks and control characters of the terminal; names come from files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def aligned(rows: list[list[str]], *, left: int, last_left: bool = False) -> list[str]:
    """Pad cells to columns. The last cell of a row shorter than the first row spans the rest."""
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = len(rows[0])
    spanning = [len(row) < columns for row in rows]
    widths = [
        max(len(row[i]) for row, spans in zip(rows, spanning, strict=True) if i < len(row) - spans)
        for i in range(columns)
    ]
    lines = []
    for row, spans in zip(rows, spanning, strict=True):
        padded = [
            cell
            if spans and i == len(row) - 1
            else f"{cell:{'<' if i < left or (last_left and i == columns - 1) else '>'}{widths[i]}}"
            for i, cell in enumerate(row)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def escape(text: str) -> str:
    """Return the text as HTML shows it."""
    import html  # takes a millisecond, for its table of entities; `import qnumpy` does without

    return html.escape(text)


def html_row(cells: Sequence[str], tag: str = "td", columns: int = 0) -> str:
    """Return one row. The last cell of a row shorter than `columns` spans the rest."""
    span = f' colspan="{columns - len(cells) + 1}"' if len(cells) < columns else ""
    *first, last = map(escape, cells)
    return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in first)}<{tag}{span}>{last}</{tag}></tr>"


def html_list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def html_facts(caption: str, lines: Iterable[tuple[str, str]]) -> str:
    """Return a small table of one object, a label and a text on each line."""
    cells = "".join(f"<tr><th>{label}</th><td>{escape(text)}</td></tr>" for label, text in lines)
    return f"<table><caption>{escape(caption)}</caption>{cells}</table>"


def as_json(content: Any, indent: int | None) -> str:
    return json.dumps(_finite(content), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(content: Any) -> Any:
    """Return the content with None for NaN and infinities, which JSON lacks."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
