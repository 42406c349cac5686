"""Rankings: the group and the score of each example, for selectors that rank or that draw from
sources or strata. N examples, T checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.execution.parts import map_parts
from s2l_ray.scoring.trajectories import SAMPLE_ROWS, losses_array, sampled, sources_of
from s2l_ray.selection.histogram import num_bins
from s2l_ray.selection.kinds import Draw, Known, Rank
from s2l_ray.selection.order import place_of, stratum_of
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import GROUPS, RANKING

MOST_EDGES = 1 << 13  # in the manifest, from a sample of SAMPLE_ROWS


def rank(
    store: Store,
    trajectories: Manifest,
    *,
    selector: str,
    n_strata: int,
    beside: Mapping[str, Manifest],
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Write the group of each example, and its score if the selector ranks.

    Parts: example_id, group int32, and with Rank score float64, smallest first. info: sources (of
    each group; None if a group crosses sources), edges [X - 1] between bins of the score.
    beside: what the selector needs beside the trajectories: the signals at the "early" and the
    "final" checkpoint, the losses "before" the proxy's training and "without_prompt". Strata,
    medians and edges come from a sample of SAMPLE_ROWS examples, or from all if there are fewer.
    ValueError for a score that is not finite.
    """
    chosen = selector_named(selector)
    assert isinstance(chosen, Draw | Rank)
    sources: list[str | None] = [None]
    if isinstance(chosen, Draw) and chosen.groups == "sources":
        sources = sources_of(store, trajectories)
    elif isinstance(chosen, Draw) and chosen.groups == "strata":
        sources = [None] * n_strata
    units = units_beside(trajectories, beside)
    sample_N, edges = np.empty(0), None
    if _is_scored(chosen):
        sample_N = np.sort(_sample(store, chosen, trajectories.folder, units))
        if isinstance(chosen, Rank):
            middle = chosen.order == "middle"
            seen_N = _from_the_median(sample_N, sample_N) if middle else sample_N
            bins = num_bins(trajectories.rows, most=MOST_EDGES)
            edges = np.quantile(seen_N, np.arange(1, bins) / bins).tolist()
    return map_parts(
        store,
        units,
        _Rank,
        (store, chosen, trajectories.folder, sources, sample_N),
        folder=folder,
        fingerprint=fingerprint,
        label=f"rank {selector}",
        info={"sources": sources, "edges": edges},
    )


class _Rank:
    def __init__(
        self,
        store: Store,
        selector: Draw | Rank,
        folder: str,
        sources: list[str | None],
        sample_N: np.ndarray,
    ) -> None:
        self.store, self.selector, self.folder = store, selector, folder
        self.sources, self.sample_N = sources, sample_N

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, unit["part"])
        groups = np.zeros(table.num_rows, np.int32)
        columns = {"example_id": table["example_id"]}
        strata = isinstance(self.selector, Draw) and self.selector.groups == "strata"
        if isinstance(self.selector, Draw) and self.selector.groups == "sources":
            place = {source: number for number, source in enumerate(self.sources)}
            names = table["source"].to_pylist()
            groups = np.array([place[name] for name in names], np.int32)
        if _is_scored(self.selector):
            score_N = self.selector.score(_known(self.store, table, self.selector, unit["beside"]))
            bad = np.flatnonzero(~np.isfinite(score_N))
            if len(bad):
                raise ValueError(
                    f"{self.folder}, {unit['part'].file}: the score of example_id "
                    f"{table['example_id'][bad[0]]} is {score_N[bad[0]]}, expected a finite number"
                )
            if strata:
                groups = stratum_of(score_N, self.sample_N, len(self.sources))
            elif isinstance(self.selector, Rank) and self.selector.order == "middle":
                score_N = _from_the_median(score_N, self.sample_N)
            if isinstance(self.selector, Rank):
                columns["score"] = pa.array(score_N)
        columns["group"] = pa.array(groups)
        return pa.table(columns, schema=RANKING if "score" in columns else GROUPS), {}


def units_beside(trajectories: Manifest, beside: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """Return a unit per part of the trajectories, with the same part of each other stage. Units of
    losses have the same names behind their checkpoint's."""
    parts = {
        name: {part.unit.rpartition("/")[2]: part for part in stage.parts}
        for name, stage in beside.items()
    }
    return [
        {
            "unit": part.unit,
            "part": part,
            "beside": {
                name: {"folder": stage.folder, "part": parts[name][part.unit]}
                for name, stage in beside.items()
            },
        }
        for part in trajectories.parts
    ]


def _known(
    store: Store, table: pa.Table, selector: Draw | Rank, beside: Mapping[str, Mapping[str, Any]]
) -> Known:
    losses: dict[str, Any] = {
        f"{name}_N": read_beside(store, table, beside[name], ("loss",))["loss"].to_numpy()
        for name in ("before", "without_prompt")
        if name in beside
    }
    details: dict[str, Any] = {}
    for when, names in selector.details.items():
        found = read_beside(store, table, beside[when], names)
        details[when] = {name: found[name].to_numpy() for name in names}
    return Known(losses_array(table), table["num_label_tokens"].to_numpy(), **losses, **details)


def read_beside(
    store: Store, table: pa.Table, beside: Mapping[str, Any], names: Sequence[str]
) -> pa.Table:
    """Read columns from the same part of another stage; ValueError if its rows differ."""
    folder, part = beside["folder"], beside["part"]
    found = store.read_part(folder, part, ["example_id", *names])
    if not found["example_id"].equals(table["example_id"]):
        raise ValueError(
            f"{folder}, {part.file}: its examples differ from those of the trajectories"
        )
    return found


def _sample(
    store: Store, selector: Draw | Rank, folder: str, units: list[dict[str, Any]]
) -> np.ndarray:
    found = []
    parts = sampled([unit["part"] for unit in units])
    for part, unit in zip(parts, units, strict=False):
        known = _known(store, store.read_part(folder, part), selector, unit["beside"])
        found.append(selector.score(known))
    return np.concatenate(found)[:SAMPLE_ROWS]


def _is_scored(selector: Draw | Rank) -> bool:
    return isinstance(selector, Rank) or selector.groups == "strata"


def _from_the_median(score_N: np.ndarray, sorted_N: np.ndarray) -> np.ndarray:
    return np.abs(place_of(score_N, sorted_N) - len(sorted_N)).astype(np.float64)
