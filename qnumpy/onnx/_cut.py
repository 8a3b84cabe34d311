"""The cheapest choice between two forms for each node of a graph, where a change of form has its price: a minimum cut."""

from collections import deque
from collections.abc import Hashable
from math import inf

__all__ = ["Cut"]


class Cut:
    """Labels of nodes, True or False, of the least total cost.

    The cost of a node depends on its label (`choose`); a pair costs where the first is True and the second False
    (`separate`). Such a sum is least where the maximum flow from True to False saturates (Ford and Fulkerson, 1956).
    """

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {"true": 0, "false": 1}
        self._edges: list[dict[int, float]] = [{}, {}]

    def choose(self, node: Hashable, true: float, false: float) -> None:
        """Add what a node costs with either label; infinite where it cannot have it."""
        low = min(true, false)
        self._add(0, self._of(node), false - low if false != inf else inf)
        self._add(self._of(node), 1, true - low if true != inf else inf)

    def separate(self, first: Hashable, second: Hashable, cost: float) -> None:
        """Add what it costs that the first node is True and the second False."""
        self._add(self._of(first), self._of(second), cost)

    def solve(self) -> set[Hashable]:
        """Return the nodes that are True."""
        while (path := self._path()) is not None:
            flow = min(self._edges[a][b] for a, b in path)
            for a, b in path:
                self._edges[a][b] -= flow
                self._edges[b][a] = self._edges[b].get(a, 0.0) + flow
        reached = self._reached()
        return {node for node, i in self._index.items() if i in reached and i > 1}

    def _of(self, node: Hashable) -> int:
        if node not in self._index:
            self._index[node] = len(self._edges)
            self._edges.append({})
        return self._index[node]

    def _add(self, a: int, b: int, capacity: float) -> None:
        if capacity > 0 and a != b:
            self._edges[a][b] = self._edges[a].get(b, 0.0) + min(capacity, _INFINITE)
            self._edges[b].setdefault(a, 0.0)

    def _reached(self) -> dict[int, int]:
        """Return the nodes that have capacity left from the source, each with the one before it."""
        before, queue = {0: 0}, deque([0])
        while queue:
            a = queue.popleft()
            for b, capacity in self._edges[a].items():
                if capacity > _LEAST and b not in before:
                    before[b] = a
                    queue.append(b)
        return before

    def _path(self) -> list[tuple[int, int]] | None:
        """Return the shortest path from source to sink with capacity left."""
        before = self._reached()
        if 1 not in before:
            return None
        path, node = [], 1
        while node:
            path.append((before[node], node))
            node = before[node]
        return path


_INFINITE = 1e18  # nanoseconds; a float, so that a flow can be taken from it
_LEAST = 1e-6  # of rounding
