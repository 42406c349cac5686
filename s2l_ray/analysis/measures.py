"""The metrics in the records of evaluated targets (pipeline.targets.evaluate).

A key names a value of a record: "loss", or one of several, such as "by_source/aqua".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from s2l_ray.analysis.examples import variance
from s2l_ray.formatting import plural

ArmRecord = Mapping[str, Any]

LARGE = 100  # held-out examples of a source that counts in the mean over sources
MEANS = ("exact_match", "files")  # means over what the user gave, if it is several
NATS, SHARE = "nats per token", "share of correct answers"
TEXT_METRICS = {"bleu": "BLEU", "rouge_l": "ROUGE-L", "bert_score": "BERTScore"}


class Metric(NamedTuple):
    key: str
    words: str
    lower_is_better: bool = True
    unit: str = NATS
    is_large: bool = True  # not of a source with fewer than LARGE held-out examples

    def gain(self, difference: float) -> float:
        """Return by how much a difference is an improvement."""
        return -difference if self.lower_is_better else difference


def metrics_of(records: Sequence[ArmRecord], primary: str | None = None) -> list[Metric]:
    """Return the metrics that every record has, the primary one first.

    primary: the key of one. None, or one that a record lacks (see `lacking`), means the first of
    these: the mean over the sets of questions (exact_match), the mean over evaluation.files
    (files), the mean over sources with at least LARGE held-out examples if there are two or more
    (macro_100), the loss.
    """
    found = _known(records)
    keys = [metric.key for metric in found]
    for wanted in (primary, "exact_match", "files", "macro_100", "loss"):
        # The mean over one set or file is that set or file.
        named = [key for key in keys if key == wanted]
        only = [key for key in keys if wanted in MEANS and key.startswith(f"{wanted}/")]
        if first := (named + only)[:1]:
            return sorted(found, key=lambda metric: metric.key != first[0])
    return found


def lacking(records: Sequence[ArmRecord], primary: str | None) -> list[str]:
    """Return that some record lacks the primary measure, and what stands in its place."""
    trained = [record for record in records if "too_few" not in record]
    if primary is None or not trained:
        return []
    key = metrics_of(trained, primary)[0].key
    if key == primary or (primary in MEANS and key.startswith(f"{primary}/")):
        return []
    return [
        f"compare.primary: {primary} is not in these records; verdicts are on {key}. Run compare "
        "again to measure it: no target is trained again"
    ]


def _known(records: Sequence[ArmRecord]) -> list[Metric]:
    first = records[0]
    known = [
        Metric("loss", "held-out loss, nats per response token"),
        Metric("macro", "held-out loss, mean over sources"),
        Metric(
            "macro_100",
            f"held-out loss, mean over the {len(_large(first)):,} sources with at least {LARGE} "
            "held-out examples",
        ),
    ]
    counts = first["examples_by_source"]
    files, sets = first.get("by_file", {}), first.get("exact_match", {})
    if len(files) > 1:
        known.append(Metric("files", f"loss, mean over {len(files):,} evaluation files"))
    known += [Metric(f"files/{name}", f"loss on {name}") for name in files]
    known += [
        Metric("answer_loss", "held-out loss on answer tokens"),
        Metric("answer_macro", "held-out loss on answer tokens, mean over sources"),
    ]
    known += [
        Metric(
            f"by_source/{source}",
            f"held-out loss on {source} ({plural(counts[source], 'example')})",
            is_large=counts[source] >= LARGE,
        )
        for source in first["by_source"]
    ]
    if len(sets) > 1:
        known.append(Metric("exact_match", f"{SHARE}, mean over {len(sets):,} sets", False, SHARE))
    known += [Metric(f"exact_match/{name}", f"{name}, {SHARE}", False, SHARE) for name in sets]
    for key in first.get("texts", {}):
        name, _, metric = key.rpartition("/")
        words = TEXT_METRICS[metric]
        known.append(Metric(f"texts/{key}", f"{name}, {words}", False, words))
    return [metric for metric in known if all(_has(record, metric.key) for record in records)]


def value_of(record: ArmRecord, key: str) -> float:
    """Return the record's value of a metric, NaN if it has none."""
    if not _has(record, key):
        return math.nan
    name, _, inner = key.partition("/")
    if name == "exact_match":
        shares = {
            each: found["correct"] / found["questions"] for each, found in record[name].items()
        }
        return shares[inner] if inner else fmean(shares.values())
    if name == "files":
        return record["by_file"][inner] if inner else fmean(record["by_file"].values())
    if name == "macro_100":
        return fmean(_large(record).values())
    return float(record[name][inner] if inner else record[name])


def influences_of(record: ArmRecord, key: str) -> list[float] | None:
    """Return how groups of evaluation examples influence the value (analysis.examples). None for a
    record of an earlier version, and for a metric without them: only seeds are known to vary."""
    found = record.get("influences", {})
    if key != "exact_match":
        return found.get(key)
    sets = [found.get(f"exact_match/{name}") for name in record.get("exact_match", {})]
    if not sets or None in sets:
        return None
    # The sets are independent, so a group may hold questions of each.
    longest = max(map(len, sets))
    padded = [[*each, *[0.0] * (longest - len(each))] for each in sets]
    return [sum(group) / len(sets) for group in zip(*padded, strict=True)]


def error_over_examples(mine: ArmRecord, other: ArmRecord, key: str) -> float | None:
    """Return the standard error of the difference of two records over draws of the evaluation
    examples; None if it is not known."""
    ours, theirs = influences_of(mine, key), influences_of(other, key)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    found = variance([x - y for x, y in zip(ours, theirs, strict=True)])
    return None if found is None else math.sqrt(found)


def check_primary(key: str, sources: Mapping[str, int] | None, config: Any) -> None:
    """Refuse a primary measure that targets will not have. sources: held-out examples by source, or
    None if that is unknown. config: EvaluationConfig."""
    fixed = ["loss", "macro"]
    if sources is None or sum(count >= LARGE for count in sources.values()) > 1:
        fixed.append("macro_100")
    if config.answer_marker is not None:
        fixed += ["answer_loss", "answer_macro"]
    for kind, names in (("files", config.files), ("exact_match", config.answers)):
        if names:
            fixed += [kind, *(f"{kind}/{name}" for name in names)]
    metrics = ["bleu", "rouge_l"] + ["bert_score"] * (config.bert_score_model is not None)
    fixed += [f"texts/{name}/{metric}" for name in config.texts for metric in metrics]
    of_source = key.startswith("by_source/")
    if of_source and (sources is None or key.removeprefix("by_source/") in sources):
        return
    if key not in fixed:
        shown = [f"by_source/{name}" for name in list(sources or ())[:5]] or ["by_source/NAME"]
        raise ValueError(
            f"compare.primary: found {key!r}, expected a measure that targets will have: "
            f"{', '.join([*fixed, *shown])}"
        )


def _large(record: ArmRecord) -> dict[str, float]:
    """Return the losses of the sources with enough held-out examples."""
    counts = record["examples_by_source"]
    return {source: loss for source, loss in record["by_source"].items() if counts[source] >= LARGE}


def _has(record: ArmRecord, key: str) -> bool:
    name, _, inner = key.partition("/")
    if name == "macro_100":
        return len(_large(record)) > 1
    if name == "files":
        name = "by_file"
    return bool(record.get(name) is not None and (not inner or inner in record[name]))
