"""Which examples are held out, if it is so many of each source: those with the smallest hashes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Draws:
    """The smallest hashes of contents of each source: twice as many as are held out, which tells
    whether a source has enough.

    per_source: examples to hold out of each; None: the draw is another (identity.is_heldout).
    """

    def __init__(self, per_source: int | None) -> None:
        self.per_source = per_source
        self.smallest: dict[str, np.ndarray] = {}

    def add(self, table: pa.Table) -> None:
        """Take the examples of a table of PARSED."""
        if self.per_source is None:
            return
        good = table.filter(pc.is_valid(table["draw"])).select(["source", "draw"])
        for source in good["source"].unique().to_pylist():
            mine = good.filter(pc.equal(good["source"], source))["draw"].to_numpy()
            self._keep(source, mine)

    def merge(self, other: Draws) -> None:
        for source, hashes in other.smallest.items():
            self._keep(source, hashes)

    def _keep(self, source: str, hashes: np.ndarray) -> None:
        assert self.per_source is not None
        had = self.smallest.get(source, hashes[:0])
        self.smallest[source] = np.unique(np.concatenate([had, hashes]))[: 2 * self.per_source]

    def heldout(self) -> np.ndarray | None:
        """Return the hashes of the contents to hold out, of no source more than half.

        The same text in another source has the same hash: it is held out too.
        """
        if self.per_source is None:
            return None
        chosen = [
            hashes[: min(self.per_source, len(hashes) // 2)] for hashes in self.smallest.values()
        ]
        return np.unique(np.concatenate([np.empty(0, np.int64), *chosen]))
