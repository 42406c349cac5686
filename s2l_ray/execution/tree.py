"""Sums over chunks in a fixed order: a binary tree whose leaves are the chunks.

Node (level, index) stands for the leaves from index * 2**level on; the leaves have level 0. Whoever
has both children of a node combines them. So the result is the same, bit for bit, whoever has which
leaves, and of n neighbouring leaves only about log2(n) nodes are left to send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Node = tuple[int, int, Any]  # level, index, value


class Tree:
    """combine: from the values of two siblings to that of their parent; must be commutative."""

    def __init__(self, leaves: int, combine: Callable[[Any, Any], Any]) -> None:
        self.leaves, self.combine = leaves, combine
        self._found = dict[tuple[int, int], Any]()

    def add(self, level: int, index: int, value: Any) -> None:
        """Add a node, and combine as far up as siblings are there."""
        while (width := -(-self.leaves // 2**level)) > 1:  # nodes on this level
            sibling = level, index ^ 1
            if sibling[1] < width:  # else this is the last node of an odd number: it moves up
                if sibling not in self._found:
                    break
                value = self.combine(self._found.pop(sibling), value)
            level, index = level + 1, index // 2
        self._found[level, index] = value

    def nodes(self) -> list[Node]:
        """Return the nodes that are left to combine; one, once all leaves are in."""
        return [(level, index, value) for (level, index), value in self._found.items()]

    def total(self) -> Any:
        [(_, _, value)] = self.nodes()
        return value


def add(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add two tuples item by item."""
    return tuple(a + b for a, b in zip(ours, theirs, strict=True))
