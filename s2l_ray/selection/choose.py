"""The selection stage: quotas per group, an exact sharded cut, the subset in rank order.

The driver holds a histogram per group (groups x BINS) and the ids of the chosen examples. Texts
stay on the workers. N examples, B chosen, G groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from s2l_ray.clustering.clusters import read_centers
from s2l_ray.config import SelectionConfig, parse_budget
from s2l_ray.errors import TooFew
from s2l_ray.execution.parts import fold_parts
from s2l_ray.selection.cut import Chosen, cut, keys
from s2l_ray.selection.kinds import BINS, Cluster
from s2l_ray.selection.selectors import selector_named
from s2l_ray.selection.subset import lengths_of, write_subset
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import CorpusView, GroupsView, PurposeView, SelectionView, TokensView


def choose(
    store: Store,
    config: SelectionConfig,
    *,
    corpus: Manifest,
    tokens: Manifest,
    groups: Manifest,
    like: Manifest | None = None,
    toward: tuple[Manifest, float] | None = None,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Select by config.selector and write the subset.

    groups: the clusters stage (cluster_id; info["sources"]: the source of each cluster, None if
    clusters cross sources), the selector's ranking, or, for a selector without groups, the
    trajectories. Its rows are the examples that can be chosen. like: the selection whose tokens or
    source shares the selector takes. toward: the purpose's examples assigned to the clusters, and
    selection.toward_share. Subset parts have the schema `SUBSET`, in rank order over all
    parts. info: selector, budget, seed, examples, tokens, by_source, by_cluster, candidates,
    groups_above_quota; with toward also toward: share, examples, by_cluster.
    TooFew if the budget exceeds what the selector can choose from. ValueError for groups of another
    corpus, or for groups without clusters if the selector draws from clusters.
    """
    selector = selector_named(config.selector)
    clustered = isinstance(selector, Cluster)
    view = GroupsView(groups)
    if clustered and not view.has("sources"):
        raise ValueError(
            f"{groups.folder}: no sources in the manifest's info; {config.selector} draws from "
            f"clusters, expected the source of each (null if clusters cross sources)"
        )
    assert (like is not None) == (selector.like is not None)
    quotas_of: Callable[..., np.ndarray] = selector.quotas
    budget = config.budget
    if like is not None and selector.like == "shares":
        quotas_of = partial(selector.quotas, like=SelectionView(like).by_source)
    elif toward is not None:
        counts_G = np.array(PurposeView(toward[0]).sizes)
        quotas_of = partial(quotas_of, counts_G=counts_G, share=toward[1])
    elif like is not None:
        budget = f"{SelectionView(like).tokens} tokens"
    sources = view.sources
    order = _Order.of(groups, config.seed)
    histogram_GX = _histogram(store, groups, len(sources), order)
    sizes = histogram_GX.sum(axis=1)
    if isinstance(selector, Cluster) and selector.least_fall:
        sizes = np.where(_learned(store, groups, selector.least_fall), sizes, 0)
    subset = _cut_to_budget(
        store, budget, quotas_of, sizes, sources, histogram_GX, groups, tokens, order,
        CorpusView(corpus),
    )  # fmt: skip
    if (
        view.ranked is not None and len(subset.example_id) > view.ranked
    ):  # the chosen are much shorter than the corpus's examples
        raise TooFew(
            f"selection.budget: {config.budget!r} is enough for {len(subset.example_id):,} "
            f"examples, but {config.selector} ranked {view.ranked:,}; give the budget in examples"
        )
    reasons = [selector.reason(group, source) for group, source in enumerate(sources)]
    parts, by_source, num_tokens = write_subset(
        store, subset, corpus, tokens, folder, clustered, reasons
    )
    by_group = np.bincount(subset.group, minlength=len(sizes))
    info = {
        "selector": config.selector,
        "budget": config.budget,
        "seed": config.seed,
        "examples": len(subset.example_id),
        "candidates": int(sizes.sum()),
        "tokens": num_tokens,
        "by_source": by_source,
        "by_cluster": by_group.tolist() if clustered else None,
        "groups_above_quota": float((by_group < sizes).mean()),
    }
    if toward is not None:
        info["toward"] = {
            "share": toward[1],
            "examples": int(counts_G.sum()),
            "by_cluster": counts_G.tolist(),
        }
    text = json.dumps(info, indent=1, ensure_ascii=False)
    told = store.write_beside(text.encode(), folder, "selection.json")
    return store.commit(folder, fingerprint, parts, info, [told])


def _learned(store: Store, clusters: Manifest, least_fall: float) -> np.ndarray:
    """Return which clusters learn: whose mean loss falls by this share or more; bool [G]."""
    centers_GT = read_centers(store, clusters)
    return centers_GT[:, -1] <= (1 - least_fall) * centers_GT[:, 0]


@dataclass(frozen=True)
class _Order:
    """The order of examples within a group: by score if there is one, ties by key.

    column: the column of the groups. edges [BINS - 1]: between bins of scores; None if keys alone
    decide.
    """

    column: str | None
    edges: np.ndarray | None
    seed: int

    @classmethod
    def of(cls, groups: Manifest, seed: int) -> _Order:
        view = GroupsView(groups)
        column = "group" if view.has("edges") else "cluster_id" if view.has("sources") else None
        return cls(column, None if view.edges is None else np.array(view.edges), seed)

    def bins(self, example_id: np.ndarray, score: np.ndarray) -> np.ndarray:
        if self.edges is None:
            return (keys(example_id, self.seed) // np.uint64(2**64 // BINS)).astype(np.int64)
        return np.searchsorted(self.edges, score, "right")


def examples_for(
    budget: int | float | str, total: int, store: Store, tokens: Manifest, *, slack: float = 1.2
) -> int:
    """Return how many of the `total` candidates a budget is enough for; for a budget in tokens,
    about `slack` times as many.

    tokens: those of the corpus, which a share refers to. TooFew if the budget exceeds them.
    """
    kind, amount = parse_budget(budget)
    if kind == "share":
        count = max(1, round(amount * TokensView(tokens).trainable))
    elif kind == "examples":
        count = int(amount)
    else:
        have = TokensView(tokens).trainable_tokens
        if amount > have:
            raise _too_many_tokens(budget, have)
        count = min(total, 1 + int(slack * amount / have * total))
    if count > total:
        raise TooFew(f"selection.budget: {count:,} examples, but only {total:,} can be chosen")
    return count


def _too_many_tokens(budget: int | float | str, have: int) -> TooFew:
    return TooFew(f"selection.budget: {budget!r}, but only {have:,} tokens can be chosen")


def _cut_to_budget(
    store: Store,
    budget: int | float | str,
    quotas_of: Callable[..., np.ndarray],
    sizes: np.ndarray,
    sources: list[str | None],
    histogram_GX: np.ndarray,
    groups: Manifest,
    tokens: Manifest,
    order: _Order,
    corpus: CorpusView,
) -> Chosen:
    kind, amount = parse_budget(budget)
    total = int(sizes.sum())
    count = examples_for(budget, total, store, tokens)
    while True:
        quotas = quotas_of(sizes, sources, count)
        candidates = _candidates(store, groups, quotas, histogram_GX, order)
        chosen = cut(*candidates, quotas, order.seed)
        if kind != "tokens":
            return chosen
        lengths = lengths_of(store, tokens, chosen.example_id, corpus)
        have = int(lengths.sum())
        if have < amount and count == total:  # not all that have tokens are candidates
            raise _too_many_tokens(budget, have)
        if have > amount or count == total:
            break
        count = min(total, count * 2)
    # Smaller budgets nest in this one: find the largest that fits the tokens.
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        within = chosen.place < quotas_of(sizes, sources, middle)[chosen.group]
        low, high = (middle, high) if lengths[within].sum() <= amount else (low, middle - 1)
    within = chosen.place < quotas_of(sizes, sources, low)[chosen.group]
    if not within.any():
        raise TooFew(f"selection.budget: {budget!r} is smaller than the shortest candidate")
    return Chosen(chosen.example_id[within], chosen.group[within], chosen.place[within])


def _read_groups(
    store: Store, folder: str, part: Part, order: _Order
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, groups and scores (zeros if there are none) of a part's rows."""
    columns = ["example_id"] + ([order.column] if order.column else [])
    table = store.read_part(folder, part, columns + ([] if order.edges is None else ["score"]))
    ids = table["example_id"].to_numpy()
    group = table[order.column].to_numpy() if order.column else np.zeros(len(ids), np.int32)
    score = np.zeros(len(ids)) if order.edges is None else table["score"].to_numpy()
    return ids, group, score


def _part_histogram(
    part: Part, store: Store, folder: str, num_groups: int, order: _Order
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places (group x BINS + bin) that have examples, and how many each has."""
    ids, group, score = _read_groups(store, folder, part, order)
    if len(group) and not 0 <= group.min() <= group.max() < num_groups:
        raise ValueError(
            f"{store.address(folder, part.file)}: {order.column} from {group.min()} to "
            f"{group.max()}, expected 0 to {num_groups - 1}, one per source in info"
        )
    return np.unique(group * np.int64(BINS) + order.bins(ids, score), return_counts=True)


def _part_candidates(
    part: Part, store: Store, folder: str, last_bin: np.ndarray, order: _Order
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, group, score = _read_groups(store, folder, part, order)
    near = order.bins(ids, score) <= last_bin[group]
    return ids[near], group[near], score[near]


def _histogram(store: Store, groups: Manifest, num_groups: int, order: _Order) -> np.ndarray:
    total = np.zeros(num_groups * BINS, np.int64)
    args = store, groups.folder, num_groups, order
    for places, counts in fold_parts(_part_histogram, groups.parts, *args):
        total[places] += counts
    return total.reshape(num_groups, BINS)


def _candidates(
    store: Store,
    groups: Manifest,
    quotas: np.ndarray,
    histogram_GX: np.ndarray,
    order: _Order,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, groups and scores of the examples up to the bin that fills a group's quota."""
    reached_GX = histogram_GX.cumsum(axis=1) >= quotas[:, None]
    last_bin = np.where(quotas > 0, reached_GX.argmax(axis=1), -1)
    found = fold_parts(_part_candidates, groups.parts, store, groups.folder, last_bin, order)
    ids, group, score = (np.concatenate(each) for each in zip(*found, strict=True))
    return ids, group, score
