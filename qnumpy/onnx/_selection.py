"""Which nodes a function works on: patterns of names or operator types, as those of a shell."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Self

from onnx import NodeProto

from .. import _check
from ._graph import Graph, node_name

__all__: list[str] = []

_LISTED = 8  # names in a message


class Selection(NamedTuple):
    """The patterns of `include` (None: every node) and `exclude`."""

    include: tuple[str, ...] | None
    exclude: tuple[str, ...]

    @classmethod
    def of(cls, owner: str, include: Any, exclude: Any, graph: Graph | None = None) -> Self:
        """Return a selection of checked patterns; with a graph each must match one of its nodes."""
        selection = cls(_patterns(owner, "include", include), _patterns(owner, "exclude", exclude) or ())
        if graph is not None:
            nodes = [node for scope in graph.walk() for node in scope.proto.node]
            for name, patterns in (("include", selection.include or ()), ("exclude", selection.exclude)):
                for pattern in patterns:
                    if not any(_matches(node, pattern) for node in nodes):
                        raise ValueError(_no_match(owner, name, pattern, nodes))
        return selection

    def __contains__(self, node: object) -> bool:
        assert isinstance(node, NodeProto)
        if self.include is not None and not any(_matches(node, pattern) for pattern in self.include):
            return False
        return not any(_matches(node, pattern) for pattern in self.exclude)


def _matches(node: NodeProto, pattern: str) -> bool:
    return pattern == node_name(node) or fnmatchcase(node_name(node), pattern) or fnmatchcase(node.op_type, pattern)


def _patterns(owner: str, name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    patterns = tuple(value) if isinstance(value, Iterable) and getattr(value, "shape", None) != () else (value,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        wanted = "names of nodes or operator types, with * for any text"
        raise TypeError(_check.must(owner, name, wanted, _check.typed(value)))
    return patterns


def _no_match(owner: str, name: str, pattern: str, nodes: list[NodeProto]) -> str:
    names = list(dict.fromkeys([*(node.op_type for node in nodes), *map(node_name, nodes)]))
    close = [other for other in names if pattern.strip("*").lower() in other.lower()] or names
    more = f" and {len(close) - _LISTED} more" if len(close) > _LISTED else ""
    listed = ", ".join(map(repr, close[:_LISTED])) + more
    sentence = _check.must(owner, name, "patterns that each match a node's name or operator type", repr(pattern))
    return f"{sentence} There are {listed}."
