"""Groups and scores of examples that come of no clusters: what the selectors that rank, and those
that draw from sources or strata, choose by. N examples, T checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.selectors import SELECTORS
from s2l_ray.selectors.scores import Known
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.trajectories import SAMPLE_ROWS, losses_array, sources_of
from s2l_ray.units import run_units

BINS = 256  # of the scores, between quantiles: what a cut looks at together


def rank(
    store: Store,
    trajectories: Manifest,
    *,
    selector: str,
    n_strata: int,
    before: Manifest | None,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Parts: example_id, group int32, and score float64 (smallest first) where the selector ranks.

    before: losses before the proxy's training, for a selector that asks for them. info: sources (of
    each group; None for those that cross sources), edges [BINS - 1] (of bins of the score).
    Strata, medians and edges are of a sample of SAMPLE_ROWS examples: of all, where there are no
    more. ValueError for a score that is not finite.
    """
    chosen = SELECTORS[selector]
    sources: list[str | None] = [None]
    if chosen.groups == "sources":
        sources = sources_of(store, trajectories)
    elif chosen.groups == "strata":
        sources = [None] * n_strata
    sample_N, edges = np.empty(0), None
    if chosen.score is not None:
        sample_N = np.sort(_sample(store, selector, trajectories, before))
        seen_N = _from_the_median(sample_N, sample_N) if chosen.order == "middle" else sample_N
        if chosen.order != "draw":
            edges = np.quantile(seen_N, np.arange(1, BINS) / BINS).tolist()
    before_of = _by_unit(before)
    units = [
        {"unit": part.unit, "part": asdict(part), "before": asdict(before_of[part.unit])}
        if before
        else {"unit": part.unit, "part": asdict(part)}
        for part in trajectories.parts
    ]
    return run_units(
        store,
        units,
        _Rank,
        (store, selector, trajectories.folder, before and before.folder, sources, sample_N),
        folder=folder,
        fingerprint=fingerprint,
        label=f"rank {selector}",
        info={"sources": sources, "edges": edges},
    )


def falls(store: Store, trajectories: Manifest, *, folder: str, fingerprint: str) -> Manifest:
    """The trajectories' falls, losses[t] - losses[t + 1], of the examples whose loss fell from the
    first checkpoint to the last; in the trajectories' schema, a point less.

    Our reading of S2L in "Prune, then Select": what is not learned is dropped before clustering.
    ValueError if no loss fell.
    """
    manifest = run_units(
        store,
        [{"unit": part.unit, "part": asdict(part)} for part in trajectories.parts],
        _Falls,
        (store, trajectories.folder),
        folder=folder,
        fingerprint=fingerprint,
        label="falls",
        info={"steps": trajectories.info["steps"][1:]},
    )
    if not manifest.rows:
        raise ValueError(
            f"selection.selector: prune_then_cluster drops the examples whose loss does not fall, "
            f"and none of {trajectories.rows:,} has one that falls"
        )
    return manifest


class _Rank:
    def __init__(
        self,
        store: Store,
        selector: str,
        folder: str,
        before_folder: str | None,
        sources: list[str | None],
        sample_N: np.ndarray,
    ) -> None:
        self.store, self.selector = store, SELECTORS[selector]
        self.folder, self.before_folder = folder, before_folder
        self.sources, self.sample_N = sources, sample_N

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, Part(**unit["part"]))
        groups = np.zeros(table.num_rows, np.int32)
        columns = {"example_id": table["example_id"]}
        if self.selector.groups == "sources":
            place = {source: number for number, source in enumerate(self.sources)}
            names = table["source"].to_pylist()
            groups = np.array([place[name] for name in names], np.int32)
        if self.selector.score is not None:
            before = Part(**unit["before"]) if "before" in unit else None
            known = _known(self.store, table, self.before_folder, before)
            score_N = self.selector.score(known)
            bad = np.flatnonzero(~np.isfinite(score_N))
            if len(bad):
                raise ValueError(
                    f"{self.folder}, {unit['part']['file']}: the score of example_id "
                    f"{table['example_id'][bad[0]]} is {score_N[bad[0]]}, a finite number is wanted"
                )
            if self.selector.groups == "strata":
                place_N = _place_of(score_N, self.sample_N) * len(self.sources)
                place_N //= 2 * len(self.sample_N)
                groups = np.minimum(place_N, len(self.sources) - 1).astype(np.int32)
            elif self.selector.order == "middle":
                score_N = _from_the_median(score_N, self.sample_N)
            if self.selector.order != "draw":
                columns["score"] = pa.array(score_N)
        return pa.table(columns | {"group": pa.array(groups)}), {}


class _Falls:
    def __init__(self, store: Store, folder: str) -> None:
        self.store, self.folder = store, folder

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, Part(**unit["part"]))
        losses_NT = losses_array(table)
        fell_N = losses_NT[:, -1] < losses_NT[:, 0]
        falls_NT = (losses_NT[:, :-1] - losses_NT[:, 1:])[fell_N]
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(falls_NT.reshape(-1)), losses_NT.shape[1] - 1
        )
        table = table.filter(pa.array(fell_N))
        return table.set_column(table.schema.get_field_index("losses"), "losses", column), {}


def _known(store: Store, table: pa.Table, folder: str | None, part: Part | None) -> Known:
    before_N = None
    if folder and part:
        before = store.read_part(folder, part)
        if not before["example_id"].equals(table["example_id"]):
            raise ValueError(f"{folder}, {part.file}: the losses are of different examples")
        before_N = before["loss"].to_numpy()
    return Known(losses_array(table), table["num_label_tokens"].to_numpy(), before_N)


def _sample(
    store: Store, selector: str, trajectories: Manifest, before: Manifest | None
) -> np.ndarray:
    score = SELECTORS[selector].score
    assert score is not None
    before_of = _by_unit(before)
    found, have = [], 0
    for part in trajectories.parts:
        table = store.read_part(trajectories.folder, part)
        folder = before.folder if before else None
        found.append(score(_known(store, table, folder, before_of.get(part.unit))))
        have += part.rows
        if have >= SAMPLE_ROWS:
            break
    return np.concatenate(found)[:SAMPLE_ROWS]


def _by_unit(before: Manifest | None) -> dict[str, Part]:
    """Part of the losses before training, by the unit of the trajectories."""
    return {part.unit.rpartition("/")[2]: part for part in before.parts} if before else {}


def _place_of(score_N: np.ndarray, sorted_N: np.ndarray) -> np.ndarray:
    """Twice how many of a sorted sample come before: the middle of those that are equal, exact."""
    left, right = (np.searchsorted(sorted_N, score_N, side) for side in ("left", "right"))
    return left + right


def _from_the_median(score_N: np.ndarray, sorted_N: np.ndarray) -> np.ndarray:
    return np.abs(_place_of(score_N, sorted_N) - len(sorted_N)).astype(np.float64)
