"""The laws that selections would have, from trajectories that a run directory has.

Starts no Ray and writes nothing: a uniform sample of the trajectories stands for all.

N examples of the sample, G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.analysis.inclusion import bins_of, properties
from s2l_ray.analysis.laws import Law, Tally, law, tally
from s2l_ray.config import RunConfig, SelectionConfig
from s2l_ray.pipeline.copies import Cap
from s2l_ray.pipeline.plan import Plan
from s2l_ray.scoring.trajectories import losses_array, sample_trajectories
from s2l_ray.selection.kinds import (
    Cluster,
    Cover,
    Draw,
    Known,
    Rank,
    Selector,
    Winner,
    gives_weights,
)
from s2l_ray.selection.order import stratum_of
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import CorpusView, GroupsView


class Planned(NamedTuple):
    """Laws by selector, from so many examples; unknown: why those of others are not known."""

    examples: int
    names: list[str]
    tally: Tally
    unknown: dict[str, str]

    def law(self, place: int) -> Law:
        return law(self.tally, place)


class _Unknown(Exception):
    """Why a law is not known."""


def planned_laws(config: RunConfig, plan: Plan, store: Store, chosen: int) -> Planned | None:
    """Return the laws of the run's selector and its baselines; None without trajectories.

    chosen: examples that the budget is.
    """
    trajectories = store.manifest(plan.seen_by(config.selection).folder)
    corpus = store.manifest(plan.corpus.folder)
    if trajectories is None or corpus is None:
        return None
    sample = sample_trajectories(store, trajectories)
    count = max(1, round(chosen * len(sample) / trajectories.rows))
    names, chances, uniform = list[str](), list[np.ndarray](), list[bool]()
    unknown = dict[str, str]()
    baselines = config.evaluation.baselines if config.target is not None else []
    for name in dict.fromkeys([config.selection.selector, *baselines]):
        choice = config.selection.model_copy(update={"selector": name})
        try:
            chance_N = _chance(store, plan, choice, sample, count)
            if not chance_N.any():
                raise _Unknown("it chooses none of these examples")
            chances.append(chance_N)
            names.append(name)
            uniform.append(_is_uniform(selector_named(name)))
        except _Unknown as reason:
            unknown[name] = str(reason)
    if not names:
        return None
    told_apart = properties(store, trajectories, CorpusView(corpus).by_source)
    found = tally(np.array(chances), bins_of(sample, told_apart), uniform)
    return Planned(len(sample), names, found, unknown)


def _chance(
    store: Store, plan: Plan, choice: SelectionConfig, sample: pa.Table, count: int
) -> np.ndarray:
    """The probability [N] of each example of the sample if `count` of them are chosen."""
    selector = selector_named(choice.selector)
    if Cap.of(plan) is not None:
        raise _Unknown("selection.near_duplicates leaves out examples that are still to be found")
    if isinstance(selector, Winner):
        raise _Unknown("its winner is still to be seen")
    if selector.like == "shares":
        raise _Unknown("its shares are those of another selection")
    if isinstance(selector, Cluster) and selector.least_fall:
        raise _Unknown("which clusters it leaves out is still to be seen")
    if gives_weights(selector):
        raise _Unknown("how it divides the budget is still to be measured")
    if _is_uniform(selector):
        return np.full(len(sample), min(1.0, count / len(sample)))
    groups = plan.groups(choice)
    made = store.manifest(groups.folder)
    if made is None and len(groups.inputs) > 1:  # signals, for one
        raise _Unknown("it needs more than the losses at the checkpoints")
    by_source = isinstance(selector, Draw) and selector.groups == "sources"
    sampled = plan.seen_by(plan.config.selection)
    if made is None and not by_source and plan.seen_by(choice).folder != sampled.folder:
        raise _Unknown("it looks at other trajectories")
    if isinstance(selector, Rank | Cover):
        score_N = _score(store, selector, made, sample)
        chance_N = np.zeros(len(sample))
        chance_N[np.argsort(score_N, kind="stable")[:count]] = 1.0
        return np.where(np.isfinite(score_N), chance_N, 0.0)
    assert isinstance(selector, Draw | Cluster)
    group_N, sources = _groups(store, plan, selector, made, sample)
    candidate_N = group_N >= 0
    sizes_G = np.bincount(group_N[candidate_N], minlength=len(sources))
    quotas_G = selector.quotas(sizes_G, sources, min(count, int(candidate_N.sum())))
    return np.where(candidate_N, (quotas_G / np.maximum(sizes_G, 1))[group_N], 0.0)


def _is_uniform(selector: Selector) -> bool:
    return isinstance(selector, Draw) and selector.groups == "all"


def _groups(
    store: Store, plan: Plan, selector: Draw | Cluster, made: Manifest | None, sample: pa.Table
) -> tuple[np.ndarray, list[str | None]]:
    """Return the group [N] of each example, -1 if it is no candidate, and the groups' sources."""
    if made is not None:
        name = "cluster_id" if isinstance(selector, Cluster) else "group"
        group_N = _column(store, made, sample, name).fill_null(-1).to_numpy()
        return group_N, GroupsView(made).sources
    if isinstance(selector, Draw) and selector.groups == "sources":
        names = pc.unique(sample["source"]).sort().to_pylist()
        return pc.index_in(sample["source"], value_set=pa.array(names)).to_numpy(), names
    clusters, losses_NT = plan.config.clusters, losses_array(sample)
    count: list[str | None] = [None] * clusters.n_clusters
    if isinstance(selector, Draw):
        score_N = _scored(selector, sample)
        return stratum_of(score_N, np.sort(score_N), clusters.n_clusters), count
    if selector.groups == "clusters_of_means":
        losses_NT = losses_NT.mean(axis=1, keepdims=True, dtype=np.float64)
    elif selector.groups != "clusters":
        raise _Unknown("its clusters are still to be made")
    from s2l_ray.clustering.kmeans import KMeans  # imports scikit-learn

    kmeans = KMeans(
        clusters.n_clusters,
        init=selector.init or clusters.init,
        max_iter=clusters.max_iter,
        tol=clusters.tol,
        random_state=clusters.random_state,
    )
    try:
        return kmeans.fit_predict(losses_NT), count
    except ValueError as error:
        raise _Unknown(str(error)) from None


def _score(
    store: Store, selector: Rank | Cover, made: Manifest | None, sample: pa.Table
) -> np.ndarray:
    """Return the score [N] by which the smallest are chosen; inf if there is none."""
    if made is not None:
        score_N = _column(store, made, sample, "score").fill_null(np.inf).to_numpy()
        ranked = GroupsView(made).ranked
        return score_N if ranked is None else np.where(score_N < ranked, score_N, np.inf)
    if isinstance(selector, Cover) or selector.order == "middle":  # of all examples
        raise _Unknown("its ranking is still to be made")
    return _scored(selector, sample)


def _scored(selector: Rank | Draw, sample: pa.Table) -> np.ndarray:
    return selector.score(Known(losses_array(sample), sample["num_label_tokens"].to_numpy()))


def _column(store: Store, made: Manifest, sample: pa.Table, name: str) -> pa.Array:
    """Return a column of a finished stage for the sample's examples, null for those it lacks.

    Its parts have the ids of the trajectories' parts, so the first ones have the sample's.
    """
    last = sample["example_id"][-1].as_py()
    read = []
    for part in made.parts:
        read.append(store.read_part(made.folder, part, ["example_id", name]))
        if read[-1].num_rows and read[-1]["example_id"][-1].as_py() >= last:
            break
    table = pa.concat_tables(read).combine_chunks()
    at = pc.index_in(sample["example_id"].combine_chunks(), value_set=table["example_id"])
    return table[name].combine_chunks().take(at)
