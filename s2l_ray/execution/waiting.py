"""Units that wait for an actor."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

Unit = dict[str, Any]


class Waiting:
    """Hands out units wave by wave. In a wave, an actor gets first the units near what it has had.

    So an actor meets the same parts at each checkpoint and can keep them. If it has none left in
    this wave, it gets units that no actor has had, and in the end those of others.
    """

    def __init__(self) -> None:
        self.waves: dict[Any, dict[Hashable, Unit]] = {}
        self.owner: dict[Hashable, Any] = {}  # near -> actor
        self.owned: dict[Any, dict[Hashable, None]] = {}  # actor -> near, in order
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, unit: Unit, wave: Any) -> None:
        """Add a unit. wave: comparable with those of other units."""
        self.waves.setdefault(wave, {})[_near(unit)] = unit
        self.count += 1

    def take(self, actor: Any) -> tuple[Any, Unit] | None:
        """Remove and return a wave and a unit for this actor; None if none waits."""
        if not self.count:
            return None
        wave = min(self.waves)
        near = self._choose(wave, actor)
        unit = self.waves[wave].pop(near)
        if "near" in unit:
            self._own(near, actor)
        if not self.waves[wave]:
            del self.waves[wave]
        self.count -= 1
        return wave, unit

    def next_of(self, actor: Any) -> Unit | None:
        """Return what this actor would get now, and keep others from it as long as they have
        units of their own."""
        if not self.count:
            return None
        wave = min(self.waves)
        near = self._choose(wave, actor)
        unit = self.waves[wave][near]
        if "near" in unit and near not in self.owner:
            self._own(near, actor)
        return unit

    def forget(self, actor: Any) -> None:
        """The actor is gone."""
        for near in self.owned.pop(actor, {}):
            del self.owner[near]

    def clear(self) -> None:
        self.waves.clear()
        self.count = 0

    def _choose(self, wave: Any, actor: Any) -> Hashable:
        units = self.waves[wave]
        for near in self.owned.get(actor, {}):
            if near in units:
                return near
        for near in units:
            if near not in self.owner:
                return near
        return next(reversed(units))  # the last that its actor would get to

    def _own(self, near: Hashable, actor: Any) -> None:
        if near in self.owner:
            del self.owned[self.owner[near]][near]
        self.owner[near] = actor
        self.owned.setdefault(actor, {})[near] = None


def _near(unit: Unit) -> Hashable:
    return unit.get("near", (unit["folder"], unit["unit"]))
