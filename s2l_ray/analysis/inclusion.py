"""The probability of each example to be chosen, from finished stages, folded over parts.

The driver holds sums (analysis.laws.Tally), never the probabilities. N examples, G groups,
S selections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.analysis.laws import Bins, Tally, add, bin_of, tally, tenths
from s2l_ray.corpus.copies import Copies
from s2l_ray.execution.parts import fold_parts
from s2l_ray.scoring.trajectories import losses_array, sample_trajectories
from s2l_ray.selection.cut import keys
from s2l_ray.selection.kinds import Cover, Rank
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import CorpusView, GroupsView, SelectionView


class Last(NamedTuple):
    """The last example that a ranking's cut takes: its score, then its key, then its id."""

    score: float
    key: int
    example_id: int
    seed: int


class Chances(NamedTuple):
    """How a worker gets the probabilities of a part's examples: from their groups, or by the last
    one that is chosen. Examples without a row there are no candidates."""

    folder: str
    parts: dict[str, Part]  # by unit
    column: str | None  # of the groups; None: one group
    of_group_G: np.ndarray
    last: Last | None = None
    copies: Copies | None = None  # examples that are no candidates either

    @property
    def uniform(self) -> bool:
        """Whether all candidates are one group, and the subset a uniform draw from it."""
        return self.column is None and self.last is None


class Properties(NamedTuple):
    """What examples are told apart by. Edges are between tenths, of a sample of SAMPLE_ROWS
    examples or of all if there are fewer."""

    loss_edges: np.ndarray  # of the mean loss over the checkpoints
    length_edges: np.ndarray  # label tokens
    sources: list[str]


def chances(
    store: Store,
    selection: Manifest,
    groups: Manifest,
    corpus: CorpusView,
    copies: Copies | None = None,
) -> Chances:
    """Return how to get the probabilities of a finished selection.

    groups: what it draws from (pipeline.plan.Plan.groups). copies: what it passes over.
    """
    view, selector = SelectionView(selection), selector_named(SelectionView(selection).drawn_by)
    parts = {part.unit.rpartition("/")[2]: part for part in groups.parts}
    if isinstance(selector, Rank | Cover):
        last = _last(store, selection, groups, corpus)
        return Chances(groups.folder, parts, None, np.ones(1), last, copies)
    sources = GroupsView(groups).sources
    if view.by_cluster is not None:
        column, quotas_G = "cluster_id", np.array(view.by_cluster)
    elif not GroupsView(groups).has("sources"):
        chance = np.array([view.examples / view.candidates])
        return Chances(groups.folder, parts, None, chance, copies=copies)
    else:
        column, quotas_G = "group", np.empty(0)
    sizes_G = np.zeros(len(sources), np.int64)
    args = store, groups.folder, column, len(sources), copies
    for counts_G in fold_parts(_sizes, groups.parts, *args):
        sizes_G += counts_G
    if view.by_cluster is None and sources != [None] * len(sources):
        quotas_G = np.array([view.by_source.get(source or "", 0) for source in sources])
    elif view.by_cluster is None:
        quotas_G = selector.quotas(sizes_G, sources, view.examples)
    of_group_G = quotas_G / np.maximum(sizes_G, 1)
    return Chances(groups.folder, parts, column, of_group_G, copies=copies)


def properties(store: Store, trajectories: Manifest, sources: Iterable[str]) -> Properties:
    """Return the bins to tell examples apart by. sources: of the corpus."""
    sample = sample_trajectories(store, trajectories)
    lengths = sample["num_label_tokens"].to_numpy()
    return Properties(tenths(_mean(sample)), tenths(lengths), sorted(sources))


def measure(
    store: Store, trajectories: Manifest, told_apart: Properties, of: Sequence[Chances]
) -> Tally:
    """Tally the probabilities of the selections `of`, over all examples with a trajectory."""
    found = fold_parts(
        part_tally, trajectories.parts, store, trajectories.folder, told_apart, list(of)
    )
    return reduce(add, found)


def part_tally(
    part: Part, store: Store, folder: str, told_apart: Properties, of: Sequence[Chances]
) -> Tally:
    """Tally one part of the trajectories."""
    table = store.read_part(folder, part)
    ids = table["example_id"].combine_chunks()
    chance_SN = np.array([_chance(store, part.unit, ids, each) for each in of])
    return tally(chance_SN, bins_of(table, told_apart), [each.uniform for each in of])


def bins_of(table: pa.Table, told_apart: Properties) -> dict[str, Bins]:
    """Return the bins of a table of trajectories."""
    sources = pc.index_in(table["source"], value_set=pa.array(told_apart.sources, pa.string()))
    return {
        "loss": bin_of(_mean(table), told_apart.loss_edges),
        "length": bin_of(table["num_label_tokens"].to_numpy(), told_apart.length_edges),
        "source": Bins(sources.to_numpy(), len(told_apart.sources)),
    }


def _mean(trajectories: pa.Table) -> np.ndarray:
    return losses_array(trajectories).mean(axis=1, dtype=np.float64)


def _chance(store: Store, unit: str, ids: pa.Array, of: Chances) -> np.ndarray:
    chance_N = np.zeros(len(ids))
    if unit not in of.parts:  # none of its examples is a candidate
        return chance_N
    columns = [of.column] if of.column else ["score"] if of.last else []
    table = store.read_part(of.folder, of.parts[unit], ["example_id", *columns])
    at = pc.index_in(ids, value_set=table["example_id"])
    known_N = at.is_valid().to_numpy(zero_copy_only=False)
    rows = at.drop_null().to_numpy()
    if of.last is not None:
        score, found = table["score"].to_numpy()[rows], ids.to_numpy()[known_N]
        chance_N[known_N] = _up_to(of.last, score, found)
    elif of.column is not None:
        chance_N[known_N] = of.of_group_G[table[of.column].to_numpy()[rows]]
    else:
        chance_N[known_N] = of.of_group_G[0]
    if of.copies is not None:
        chance_N[~of.copies.kept(store, ids.to_numpy())] = 0.0
    return chance_N


def _up_to(last: Last, score: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return whether each example comes at or before the last one that is chosen."""
    key = keys(ids, last.seed)
    same = (score == last.score) & (key == np.uint64(last.key))
    tied = (score == last.score) & (key < np.uint64(last.key))
    return (score < last.score) | tied | (same & (ids <= last.example_id))


def _last(store: Store, selection: Manifest, groups: Manifest, corpus: CorpusView) -> Last:
    """Find the last chosen example: subsets are in rank order, parts are ranges of ids."""
    ids = store.read_part(selection.folder, selection.parts[-1], ["example_id"])["example_id"]
    last, seed = ids[-1].as_py(), SelectionView(selection).seed
    key = int(keys(np.array([last]), seed)[0])
    for part in groups.parts:
        first, end = corpus.ids_of(part.unit)
        if first <= last < end:  # one part; of a corpus that grew, one per generation
            table = store.read_part(groups.folder, part, ["example_id", "score"])
            at = pc.index(table["example_id"], last).as_py()
            if at >= 0:
                return Last(table["score"][at].as_py(), key, last, seed)
    raise ValueError(f"{groups.folder}: has no example {last}, which was chosen")


def _sizes(
    part: Part, store: Store, folder: str, column: str, count: int, copies: Copies | None
) -> np.ndarray:
    table = store.read_part(folder, part, ["example_id", column])
    groups = table[column].to_numpy()
    if copies is not None:
        groups = groups[copies.kept(store, table["example_id"].to_numpy())]
    return np.bincount(groups, minlength=count)
