"""Groups cut at any place of their order, by the number of examples in each bin of it.

A bin is a range of a group's order: of scores, or of keys if there is no score. The driver holds
counts by group and bin; what an example's exact place is, is found where all examples of its bin
are. N examples, G groups, X bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.corpus.copies import Copies
from s2l_ray.execution.parts import fold_parts
from s2l_ray.selection.cut import keys
from s2l_ray.selection.kinds import BINS
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import GroupsView

CELLS = 1 << 25  # of a histogram at most, groups x bins
SUBSET_ROWS = 50_000  # examples in one part of the subset


def num_bins(rows: int, num_groups: int = 1, most: int = CELLS) -> int:
    """Return how many bins a group's order has: as many as let two neighbouring parts of the subset
    share an eighth of their rows at most, the members of the bins that both of them cut."""
    bins = BINS
    while bins < 8 * rows / SUBSET_ROWS and 2 * bins * num_groups <= most:
        bins *= 2
    return bins


@dataclass(frozen=True)
class Order:
    """The order of examples within a group: by score if there is one, ties by key.

    folder, column: where the groups are. edges [X - 1]: between bins of scores; None if keys alone
    decide. bins: X. copies: examples that are passed over.
    """

    folder: str
    column: str | None
    edges: np.ndarray | None
    seed: int
    bins: int
    copies: Copies | None = None

    @classmethod
    def of(cls, groups: Manifest, seed: int, copies: Copies | None = None) -> Order:
        view = GroupsView(groups)
        column = "group" if view.has("edges") else "cluster_id" if view.has("sources") else None
        if view.edges is not None:
            edges = np.array(view.edges)
            return cls(groups.folder, column, edges, seed, len(edges) + 1, copies)
        bins = num_bins(groups.rows, len(view.sources))
        return cls(groups.folder, column, None, seed, bins, copies)

    def bins_of(self, example_id: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Return the bin of each example, int64 [N]. It never falls along the order.

        Examples of one score that fills several bins are spread over these by key.
        """
        if self.edges is None:
            shift = np.uint64(64 - self.bins.bit_length() + 1)
            return (keys(example_id, self.seed) >> shift).astype(np.int64)
        first = np.searchsorted(self.edges, score, "left")
        last = np.searchsorted(self.edges, score, "right")
        share = keys(example_id, self.seed) / 2.0**64
        spread = first + 1 + np.minimum(share * (last - first), last - first - 1).astype(np.int64)
        return np.where(last > first, spread, last)

    def sorted(self, example_id: np.ndarray, group: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Return the places of the examples in the order of groups, and within each in its own."""
        return np.lexsort((example_id, keys(example_id, self.seed), score, group))

    def read(self, store: Store, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, groups and scores (zeros if there are none) of a part's rows."""
        columns = ["example_id"] + ([self.column] if self.column else [])
        columns += [] if self.edges is None else ["score"]
        table = store.read_part(self.folder, part, columns)
        if self.copies is not None:
            kept = self.copies.kept(store, table["example_id"].to_numpy())
            table = table.filter(pa.array(kept))
        ids = table["example_id"].to_numpy()
        group = table[self.column].to_numpy() if self.column else np.zeros(len(ids), np.int32)
        return ids, group, np.zeros(len(ids)) if self.edges is None else table["score"].to_numpy()


@dataclass(frozen=True)
class Histogram:
    """counts_GX, and with token lengths tokens_GX: sums over the examples of each group up to a
    bin's end, int64 [G, X + 1] with 0 in front."""

    counts_GX: np.ndarray
    tokens_GX: np.ndarray | None

    @property
    def sizes(self) -> np.ndarray:
        return self.counts_GX[:, -1]

    def bins_at(self, place_G: np.ndarray) -> np.ndarray:
        """Return the bin of each group that a cut at this place cuts, or begins at; int64 [G]."""
        return np.sum(self.counts_GX[:, 1:] <= place_G[:, None], axis=1)

    def tokens_at(self, place_G: np.ndarray) -> tuple[int, int]:
        """Return the least and the most tokens that the first examples of the groups may have."""
        assert self.tokens_GX is not None
        rows, bins = np.arange(len(place_G)), self.bins_at(place_G)
        within = self.counts_GX[rows, bins] < place_G
        least = self.tokens_GX[rows, bins]
        most = self.tokens_GX[rows, bins + within]
        return int(least.sum()), int(most.sum())


def histogram_of(
    store: Store, groups: Manifest, num_groups: int, order: Order, lengths: Manifest | None = None
) -> Histogram:
    """Count the examples. lengths: the corpus's tokens, if tokens are counted too."""
    counts = np.zeros(num_groups * order.bins, np.int64)
    tokens = None if lengths is None else np.zeros_like(counts)
    args = store, num_groups, order, None if lengths is None else lengths.folder
    for places, here, sums in fold_parts(_count, _with_tokens(groups, lengths), *args):
        counts[places] += here
        if tokens is not None:
            tokens[places] += sums
    return Histogram(
        _summed(counts, num_groups), None if tokens is None else _summed(tokens, num_groups)
    )


def _with_tokens(groups: Manifest, tokens: Manifest | None) -> Iterator[tuple[Part, Part | None]]:
    parts = {} if tokens is None else {part.unit: part for part in tokens.parts}
    for part in groups.parts:
        yield part, parts.get(part.unit.rpartition("/")[2])


def _summed(cells: np.ndarray, num_groups: int) -> np.ndarray:
    return np.pad(cells.reshape(num_groups, -1).cumsum(axis=1), ((0, 0), (1, 0)))


def _count(
    parts: tuple[Part, Part | None], store: Store, num_groups: int, order: Order, tokens: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the cells (group x X + bin) that have examples, how many, and their tokens."""
    part, lengths = parts
    ids, group, score = order.read(store, part)
    if len(group) and not 0 <= group.min() <= group.max() < num_groups:
        raise ValueError(
            f"{store.address(order.folder, part.file)}: {order.column} from {group.min()} to "
            f"{group.max()}, expected 0 to {num_groups - 1}, one per source in info"
        )
    cell = group * np.int64(order.bins) + order.bins_of(ids, score)
    places, which, here = np.unique(cell, return_inverse=True, return_counts=True)
    sums = None
    if tokens is not None:
        weights = lengths_in(store, tokens, lengths, ids)
        sums = np.bincount(which, weights, len(places)).astype(np.int64)
    return places.astype(np.uint32), here.astype(np.uint32), sums


def lengths_in(store: Store, tokens: str, part: Part | None, example_id: np.ndarray) -> np.ndarray:
    """Return the tokens of examples, int64 [N]. part: of the tokens stage `tokens`, which has
    them."""
    if part is None or not len(example_id):
        assert not len(example_id), f"{tokens}: has no part for these examples"
        return np.empty(0, np.int64)
    table = store.read_part(tokens, part, ["example_id", "input_ids"])
    at = rows_in(store, tokens, part, table["example_id"], example_id)
    return pc.list_value_length(table["input_ids"].take(at)).to_numpy().astype(np.int64)


def rows_in(
    store: Store, folder: str, part: Part, ids: pa.ChunkedArray, example_id: np.ndarray
) -> pa.Array:
    """Return the row of each example in a part with these ids. ValueError if one is missing."""
    at = pc.index_in(pa.array(example_id), value_set=ids)
    if at.null_count:
        missing = example_id[at.is_null().to_numpy(zero_copy_only=False)]
        raise ValueError(
            f"{store.address(folder, part.file)}: has no example {missing[0]}, which was chosen "
            f"({len(missing)} such ids); the groups may come from another corpus"
        )
    return at


def members(
    store: Store,
    groups: Manifest,
    order: Order,
    first_G: np.ndarray,
    last_G: np.ndarray,
    tokens: Manifest,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, groups, scores and tokens of the examples in these bins of each group."""
    args = store, order, first_G, last_G, tokens.folder
    found = fold_parts(_members, _with_tokens(groups, tokens), *args)
    ids, group, score, lengths = (np.concatenate(each) for each in zip(*found, strict=True))
    return ids, group, score, lengths


def _members(
    parts: tuple[Part, Part | None],
    store: Store,
    order: Order,
    first_G: np.ndarray,
    last_G: np.ndarray,
    tokens: str,
) -> tuple[np.ndarray, ...]:
    ids, group, score = order.read(store, parts[0])
    bins = order.bins_of(ids, score)
    here = (first_G[group] <= bins) & (bins <= last_G[group])
    lengths = lengths_in(store, tokens, parts[1], ids[here])
    return ids[here], group[here], score[here], lengths
