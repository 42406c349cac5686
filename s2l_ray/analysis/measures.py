"""The metrics in the records of evaluated targets (pipeline.targets.evaluate).

A key names a value of a record: "loss", or one of several, such as "by_source/aqua".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from s2l_ray.formatting import plural

ArmRecord = Mapping[str, Any]


class Metric(NamedTuple):
    key: str
    words: str
    lower_is_better: bool = True


def metrics_of(records: Sequence[ArmRecord]) -> list[Metric]:
    """Return the metrics that every record has."""
    known = [
        Metric("loss", "held-out loss, nats per response token"),
        Metric("macro", "held-out loss, mean over sources"),
        Metric("answer_loss", "held-out loss on answer tokens"),
        Metric("answer_macro", "held-out loss on answer tokens, mean over sources"),
    ]
    first = records[0]
    known += [
        Metric(
            f"by_source/{source}",
            f"held-out loss on {source} ({plural(first['examples_by_source'][source], 'example')})",
        )
        for source in first["by_source"]
    ]
    for name in first.get("exact_match", {}):
        known.append(Metric(f"exact_match/{name}", f"{name}, share of correct answers", False))
    return [metric for metric in known if all(_has(record, metric.key) for record in records)]


def value_of(record: ArmRecord, key: str) -> float:
    """Return the record's value of a metric, NaN if it has none."""
    if not _has(record, key):
        return math.nan
    name, _, inner = key.partition("/")
    if name == "exact_match":
        found = record[name][inner]
        return found["correct"] / found["questions"]
    return float(record[name][inner] if inner else record[name])


def _has(record: ArmRecord, key: str) -> bool:
    name, _, inner = key.partition("/")
    return record.get(name) is not None and (not inner or inner in record[name])
