"""What a comparison found, for programs: the rows of its tables with their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from s2l_ray.analysis.paired import Row
from s2l_ray.report.comparison_tables import Group, Table

VERDICTS = ("report", "verdicts.json")


def as_json(groups: Sequence[Group]) -> dict[str, Any]:
    """Return verdicts on the primary measure, and the exploratory measures without verdicts.

    worth: times as much random data. times, low and high are "below" or "above" beyond the amounts
    of random that were measured, from least to most.
    """
    return {
        "primary": _measure(groups[0].tables[0]) if groups else None,
        "groups": [
            {
                "budget": group.budget,
                "match": group.match,
                "headroom": group.headroom._asdict(),
                "rows": [_row(row) | _worth(group, row) for row in group.tables[0].rows],
                "controls": group.tables[0].controls,
                "not_compared": group.too_few,
                "exploratory": [
                    _measure(table) | {"rows": [_row(row) for row in table.rows]}
                    for table in group.tables[1:]
                ],
            }
            for group in groups
        ],
    }


def _measure(table: Table) -> dict[str, Any]:
    key, words, lower_is_better, unit, _ = table.metric
    return {"key": key, "words": words, "lower_is_better": lower_is_better, "unit": unit}


def _row(row: Row) -> dict[str, Any]:
    mean, error, low, high, _ = row.difference
    return {
        "method": row.method,
        "verdict": row.verdict or "baseline",
        "targets": row.runs,
        "mean": _finite(row.mean),
        "difference": _finite(mean),
        "low": _finite(low),
        "high": _finite(high),
        "standard_error": _finite(error),
        "of_examples": _finite(row.over_examples),
        "pairs": row.pairs,
        "seeds": row.units,
        "p": row.adjusted_p,
        "sign_flip_p": row.signs_p,
        "equal_margin": row.margin,
        "equal_p": None if row.adjusted_p is None else row.equal_p,
        "differs_by_less_than": _finite(row.within),
    }


def _worth(group: Group, row: Row) -> dict[str, Any]:
    found = group.worth.get(row.method)
    if found is None:
        return {}
    beyond = {0.0: "below", math.inf: "above"}
    return {"worth": {name: beyond.get(value, value) for name, value in found._asdict().items()}}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
