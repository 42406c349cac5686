"""The selection stage: quotas per group, an exact sharded cut, the subset in rank order.

The driver holds a histogram per group. Examples and their ids stay on the workers. G groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np

from s2l_ray.clustering.clusters import read_centers
from s2l_ray.config import SelectionConfig, parse_budget
from s2l_ray.corpus.copies import Copies
from s2l_ray.errors import TooFew
from s2l_ray.selection.histogram import Histogram, Order, histogram_of, members
from s2l_ray.selection.kinds import Cluster
from s2l_ray.selection.quotas import weights as weights_of
from s2l_ray.selection.selectors import selector_named
from s2l_ray.selection.spread import root_mean_squares
from s2l_ray.selection.subset import write_subset
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import GroupsView, PurposeView, SelectionView, TokensView


def choose(
    store: Store,
    config: SelectionConfig,
    *,
    corpus: Manifest,
    tokens: Manifest,
    groups: Manifest,
    like: Manifest | None = None,
    toward: tuple[Manifest, float] | None = None,
    copies: Copies | None = None,
    spread: Manifest | None = None,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Select by config.selector and write the subset.

    groups: the clusters stage (cluster_id; info["sources"]: the source of each cluster, None if
    clusters cross sources), the selector's ranking, or, for a selector without groups, the
    trajectories. Its rows are the examples that can be chosen. like: the selection whose tokens or
    source shares the selector takes. toward: the purpose's examples assigned to the clusters, and
    selection.toward_share. spread: the signals that the selector's quotas and weights come from.
    copies: examples that are passed over, as if the groups did not have them.
    Subset parts have the schema `SUBSET` (with weights WEIGHTED), in rank order over all parts.
    info: selector, budget, seed, examples, tokens, by_source, by_cluster, candidates,
    groups_above_quota; with toward also toward: share, examples, by_cluster; with weights also
    weights (by cluster) and effective_examples.
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
    elif spread is not None:
        assert isinstance(selector, Cluster)
        spread_G = root_mean_squares(store, groups, spread, selector.spread)
        quotas_of = partial(quotas_of, spread_G=spread_G)
    elif like is not None:
        budget = f"{SelectionView(like).tokens} tokens"
    sources = view.sources
    order = Order.of(groups, config.seed, copies)
    in_tokens = parse_budget(budget)[0] == "tokens"
    histogram = histogram_of(
        store, groups, len(sources), order, lengths=tokens if in_tokens else None
    )
    sizes = histogram.sizes
    if isinstance(selector, Cluster) and selector.least_fall:
        sizes = np.where(_learned(store, groups, selector.least_fall), sizes, 0)
    quotas_at = partial(quotas_of, sizes, sources)
    if in_tokens:
        quotas = _within_tokens(store, budget, quotas_at, sizes, histogram, groups, tokens, order)
    else:
        quotas = quotas_at(examples_for(budget, int(sizes.sum()), store, tokens))
    count = int(quotas.sum())
    if view.ranked is not None and count > view.ranked:
        # The chosen are much shorter than the corpus's examples.
        raise TooFew(
            f"selection.budget: {config.budget!r} is enough for {count:,} examples, but "
            f"{config.selector} ranked {view.ranked:,}; give the budget in examples"
        )
    weights_G = None if spread is None else weights_of(sizes, quotas)
    reasons = [selector.reason(group, source) for group, source in enumerate(sources)]
    parts, by_source, num_tokens = write_subset(
        store, quotas, histogram, order, groups, corpus, tokens, folder, clustered, reasons,
        weights_G,
    )  # fmt: skip
    info = {
        "selector": config.selector,
        "budget": config.budget,
        "seed": config.seed,
        "examples": count,
        "candidates": int(sizes.sum()),
        "tokens": num_tokens,
        "by_source": by_source,
        "by_cluster": quotas.tolist() if clustered else None,
        "groups_above_quota": float((quotas < sizes).mean()),
    }
    if toward is not None:
        info["toward"] = {
            "share": toward[1],
            "examples": int(counts_G.sum()),
            "by_cluster": counts_G.tolist(),
        }
    if weights_G is not None:
        info["weights"] = weights_G.tolist()
        info["effective_examples"] = float((quotas @ weights_G) ** 2 / (quotas @ weights_G**2))
    text = json.dumps(info, indent=1, ensure_ascii=False)
    told = store.write_beside(text.encode(), folder, "selection.json")
    return store.commit(folder, fingerprint, parts, info, [told])


def _learned(store: Store, clusters: Manifest, least_fall: float) -> np.ndarray:
    """Return which clusters learn: whose mean loss falls by this share or more; bool [G]."""
    centers_GT = read_centers(store, clusters)
    return centers_GT[:, -1] <= (1 - least_fall) * centers_GT[:, 0]


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


def _within_tokens(
    store: Store,
    budget: int | float | str,
    quotas_at: Callable[[int], np.ndarray],
    sizes: np.ndarray,
    histogram: Histogram,
    groups: Manifest,
    tokens: Manifest,
    order: Order,
) -> np.ndarray:
    """Return the quotas of the most examples whose tokens are within the budget.

    Smaller budgets nest in larger ones, so their tokens only grow. The histogram narrows the count
    down; the examples of the bins that are still in question decide.
    """
    amount, total = int(parse_budget(budget)[1]), int(sizes.sum())
    have = histogram.tokens_at(sizes)[0]
    if have < amount:
        raise _too_many_tokens(budget, have)
    low = _largest(0, total, lambda count: histogram.tokens_at(quotas_at(count))[1] <= amount)
    high = _largest(low, total, lambda count: histogram.tokens_at(quotas_at(count))[0] <= amount)
    first_G, last_G = histogram.bins_at(quotas_at(low)), histogram.bins_at(quotas_at(high))
    ids, group, score, lengths = members(store, groups, order, first_G, last_G, tokens)
    by_order = order.sorted(ids, group, score)
    # Sums over all members, from the first of group 0 on; a group's own is a difference of two.
    sums = np.concatenate([[0], lengths[by_order].cumsum()])
    starts_G = np.searchsorted(group[by_order], np.arange(len(sizes)))
    rows = np.arange(len(sizes))
    assert histogram.tokens_GX is not None
    begun_G = histogram.counts_GX[rows, first_G]
    known = int(histogram.tokens_GX[rows, first_G].sum())

    def fits(count: int) -> bool:
        more_G = np.maximum(quotas_at(count) - begun_G, 0)
        return known + int((sums[starts_G + more_G] - sums[starts_G]).sum()) <= amount

    count = _largest(low, high, fits)
    if not count:
        raise TooFew(f"selection.budget: {budget!r} is smaller than the shortest candidate")
    return quotas_at(count)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest count up to `high` that fits, at least `low`, which does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
