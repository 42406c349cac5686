"""What a comparison means for a user: select, do not select, or take source-balanced random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from s2l_ray.analysis.measures import Metric
from s2l_ray.analysis.paired import Outcome, Row, of_examples, paired_differences
from s2l_ray.analysis.statistics import MIN_UNITS, Interval, interval, pairs_needed
from s2l_ray.analysis.verdicts import table
from s2l_ray.config import BASELINE
from s2l_ray.formatting import plural, with_interval

BALANCED = "random_balanced"
FULL = "full, equal compute"  # pipeline.arms.FULL_COMPUTE
ERRORS = 5.0  # standard errors by which all the data must beat random
USEFUL = 0.5  # share of the headroom that a selection must be able to gain to be worth more seeds
GATE = 3  # seeds from which on the headroom is looked at
WOULD = "a smaller budget, more target.epochs, or a harder evaluation (docs/price.md)"

Answer = Literal["select", "do not select", "take source-balanced random", "undecided"]


class Headroom(NamedTuple):
    """Whether a setting can tell selections apart. size: what all the data gains over random, in
    the metric. would: what would give the setting headroom, if it has none. measured: whether the
    whole corpus was trained on, with GATE seeds or more."""

    passed: bool
    size: float
    why: str
    would: str = ""
    measured: bool = True

    @property
    def told(self) -> str:
        """Why, and what follows if no selection is better or worse."""
        closed = self.measured and not self.passed
        return f"{self.why}, so this setting cannot tell selections apart" if closed else self.why


class Decision(NamedTuple):
    """The answer, why, and what would decide it if it is undecided."""

    answer: Answer
    why: str
    would: str = ""


Check = Callable[[Sequence[Outcome], Metric], Headroom]


def headroom(arms: Sequence[Outcome], metric: Metric) -> Headroom:
    """Check that all the data, trained on for as many tokens, beats random by ERRORS standard
    errors. If even that does not, few subsets could be seen to be better: one that beats all the
    data is possible, but rare."""
    difference = _rows(arms, metric).get(FULL)
    if difference is None:
        why = f"no target was trained on the whole corpus ({FULL})"
        return Headroom(False, 0.0, why, WOULD, measured=False)
    mean, error, *_ = difference.difference
    if mean is None:
        why = f"no pair of {FULL} and {BASELINE} has finite values"
        return Headroom(False, 0.0, why, "a lower target.learning_rate", measured=False)
    gain, shown = metric.gain(mean), _shown(difference.difference, metric)
    if difference.units < GATE:
        has = f"{plural(difference.units, 'seed')} of the whole corpus"
        why = f"{has}, and the headroom takes {GATE} ({shown})"
        return Headroom(False, max(0.0, gain), why, "more seeds", measured=False)
    assert error is not None  # from two pairs on
    if not gain > ERRORS * error:
        why = (
            f"all the data at equal compute does not beat {BASELINE} by {ERRORS:g} standard errors "
            f"({shown})"
        )
        return Headroom(False, max(0.0, gain), why, WOULD)
    return Headroom(True, gain, f"all the data at equal compute beats {BASELINE} by {shown}")


def decide(arms: Sequence[Outcome], metric: Metric, main: str, check: Check = headroom) -> Decision:
    """Say what to do. check: the headroom. Without it, selections that are not distinguishable
    decide nothing; a verdict of better or worse stands."""
    rows = _rows(arms, metric)
    row, balanced = rows[main], rows.get(BALANCED)
    shown = f"{main} − {BASELINE}: {_shown(row.difference, metric)}"
    if row.units < MIN_UNITS:
        why = f"no verdict: {plural(row.units, 'seed')}, and one takes {MIN_UNITS} ({shown})"
        return Decision("undecided", why, "a higher price, for more seeds")
    if main != BALANCED and balanced is not None and balanced.verdict == "better":
        found = _difference(arms, metric, main, BALANCED)
        if not _is_better(found, metric):
            return Decision(
                "take source-balanced random",
                f"{BALANCED} is better than {BASELINE} ({_shown(balanced.difference, metric)}) and "
                f"{main} is not better than that ({_shown(found, metric)})",
            )
    if row.verdict == "better":
        answer: Answer = "take source-balanced random" if main == BALANCED else "select"
        return Decision(answer, f"{main} is better than {BASELINE} ({shown})")
    if row.verdict == "worse":
        return Decision("do not select", f"{main} is worse than {BASELINE} ({shown})")
    room = check(arms, metric)
    if not room.passed:
        if balanced is None or balanced.verdict not in ("better", "worse"):
            return Decision("undecided", room.told, room.would)
        why = f"{main} is not distinguishable from {BASELINE} ({shown}), and {room.why}"
        return Decision("undecided", why, room.would)
    low, high, error = row.difference.low, row.difference.high, row.difference.standard_error
    if row.verdict == "no verdict" or low is None or high is None or not error:
        return Decision("undecided", f"the pairs show no spread ({shown})", "other seeds")
    useful = USEFUL * room.size
    if max(metric.gain(low), metric.gain(high)) < useful:
        return Decision(
            "do not select",
            f"{main} gains less than {USEFUL:.0%} of what {room.why.partition(' beats ')[0]} gains "
            f"({shown})",
        )
    why = (
        f"{main} is not distinguishable from {BASELINE}, and may still gain {USEFUL:.0%} of what "
        f"all the data gains ({shown})"
    )
    if 2 * (row.over_examples or 0.0) > useful:
        would = f"more evaluation examples: these alone hide differences of {useful:.2g}"
        return Decision("undecided", why, would)
    needed = max(
        pairs_needed((row.over_seeds or 0.0) * math.sqrt(row.units), useful), row.units + 1
    )
    would = f"about {needed} seeds, which show a difference of {useful:.2g}"
    return Decision("undecided", why, would)


def _rows(arms: Sequence[Outcome], metric: Metric) -> dict[str, Row]:
    found = table(arms, metric.key, BASELINE, metric.lower_is_better)
    return {row.method: row for row in found}


def _difference(arms: Sequence[Outcome], metric: Metric, main: str, other: str) -> Interval:
    found = paired_differences(arms, metric.key, main, other)
    return interval(found.values(), found, of_examples(arms, metric.key, main, other))


def _is_better(difference: Interval, metric: Metric) -> bool:
    """Whether a whole interval is on the better side of zero."""
    _, _, low, high, _ = difference
    if low is None or high is None:
        return False
    return high < 0 if metric.lower_is_better else low > 0


def _shown(difference: Interval, metric: Metric) -> str:
    mean, _, low, high, _ = difference
    return "unknown" if mean is None else f"{with_interval(mean, low, high)} {metric.unit}"
