"""Which candidate wins a race, from the records of the models trained on each one's subset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from s2l_ray.analysis.measures import ArmRecord, Metric, metrics_of
from s2l_ray.analysis.paired import Row, outcomes_of, rows
from s2l_ray.analysis.statistics import ALPHA, holm
from s2l_ray.config import BASELINE
from s2l_ray.formatting import MISSING, plural, with_interval


class Race(NamedTuple):
    """The end of a race. rows: of all candidates, in their order; adjusted_p is one-sided here, of
    being no better than random; None: the candidate cannot win."""

    winner: str
    metric: Metric
    rows: list[Row]

    @property
    def leader(self) -> str:
        """The candidate with the best mean, whether or not it is better beyond noise."""
        others = [row for row in self.rows if row.method != BASELINE]
        return max(others, key=lambda row: _gain(row, self.metric)).method

    @property
    def told(self) -> str:
        """Who won and by how much, in one sentence."""
        tested = sum(row.adjusted_p is not None for row in self.rows)
        of = self.leader if self.winner == BASELINE else self.winner
        [row] = [row for row in self.rows if row.method == of]
        mean, _, low, high, _ = row.difference
        shown = MISSING if mean is None else with_interval(mean, low, high)
        p = row.adjusted_p
        sure = "it cannot win" if p is None else f"p {'< 0.001' if p < 0.001 else f'= {p:.3g}'}"
        if p is not None:
            sure += f", one-sided, after Holm's correction for {plural(tested, 'candidate')}"
        who = f"{self.winner} won"
        if self.winner == BASELINE:
            who = f"{BASELINE} is kept, no candidate is better beyond noise; the nearest is {of}"
        return (
            f"{who} ({of} − {BASELINE}: {shown} {self.metric.unit}, over "
            f"{plural(row.pairs, 'training')} each; {sure}; measure: {self.metric.words})"
        )

    def as_info(self) -> dict[str, Any]:
        """Return the table for the manifest and selection.json."""
        return {
            "winner": self.winner,
            "told": self.told,
            "measure": self.metric.key,
            "measure_in_words": self.metric.words,
            "lower_is_better": self.metric.lower_is_better,
            "candidates": [_entry(row) for row in self.rows],
        }


def run_race(records: Sequence[ArmRecord], primary: str | None) -> Race:
    """Return the winner by the primary measure: of the candidates that are better than random, the
    one with the largest mean difference, the first if several have it; random if there is none.

    records: of one subset per candidate and the same training seeds. A candidate is better if p,
    one-sided and after Holm's correction over the candidates, is at most ALPHA. p is that of the
    mean difference, whose error is over trainings and over examples (statistics.interval). A
    candidate with a value that is not finite, or without any spread over trainings, cannot win.
    """
    metric = metrics_of(records, primary)[0]
    table = rows(outcomes_of(records, metric), metric.key, BASELINE)
    tested = [row for row in table if row.difference.p_value is not None and not row.left_out]
    adjusted = holm([_one_sided(row, metric) for row in tested])
    p_of = {row.method: p for row, p in zip(tested, adjusted, strict=True)}
    table = [row._replace(adjusted_p=p_of.get(row.method)) for row in table]
    better = [row for row in table if row.adjusted_p is not None and row.adjusted_p <= ALPHA]
    best = max(better, key=lambda row: _gain(row, metric), default=None)  # the first of equals
    return Race(BASELINE if best is None else best.method, metric, table)


def _gain(row: Row, metric: Metric) -> float:
    mean = row.difference.mean
    return -math.inf if mean is None else metric.gain(mean)


def _one_sided(row: Row, metric: Metric) -> float:
    p = row.difference.p_value
    assert p is not None
    return p / 2 if _gain(row, metric) > 0 else 1 - p / 2


def _entry(row: Row) -> dict[str, Any]:
    mean, error, low, high, _ = row.difference
    return {
        "candidate": row.method,
        "mean": row.mean if math.isfinite(row.mean or 0.0) else None,
        "difference": mean,
        "standard_error": error,
        "low": low,
        "high": high,
        "p": row.adjusted_p,
        "trainings": row.runs,
        "left_out": row.left_out,
    }
