"""What a comparison means for a user: select, do not select, or take source-balanced random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from s2l_ray.analysis.paired import Outcome, Row, paired_differences, table
from s2l_ray.analysis.statistics import MIN_UNITS, Interval, interval, pairs_needed
from s2l_ray.config import BASELINE
from s2l_ray.formatting import plural, with_interval

BALANCED = "random_balanced"
FULL = "full, equal compute"  # pipeline.arms.FULL_COMPUTE
ERRORS = 5.0  # standard errors by which all the data must beat random
USEFUL = 0.5  # share of the headroom that a selection must be able to gain to be worth more seeds

Answer = Literal["select", "do not select", "take source-balanced random", "undecided"]


class Headroom(NamedTuple):
    """Whether a setting can tell selections apart. size: what the best selection could gain, in
    the metric. would: what would give the setting headroom, if it has none."""

    passed: bool
    size: float
    why: str
    would: str = ""


class Decision(NamedTuple):
    """The answer, why, and what would decide it if it is undecided."""

    answer: Answer
    why: str
    would: str = ""


Check = Callable[[Sequence[Outcome], str], Headroom]


def headroom(arms: Sequence[Outcome], metric: str) -> Headroom:
    """Check that all the data, trained on for as many tokens, beats random by ERRORS standard
    errors. If even that does not, a better subset of the data could not be seen either."""
    would = "a smaller selection.budget, more target.epochs, or a harder evaluation (docs/price.md)"
    difference = _rows(arms, metric).get(FULL)
    if difference is None or difference.difference.mean is None:
        return Headroom(False, 0.0, f"no target was trained on the whole corpus ({FULL})", would)
    mean, error, *_ = difference.difference
    assert mean is not None
    shown = _shown(difference.difference)
    if error is None or mean + ERRORS * error >= 0:
        why = (
            f"all the data at equal compute does not beat {BASELINE} by {ERRORS:g} standard errors "
            f"({shown}), so this setting cannot tell selections apart"
        )
        return Headroom(False, max(0.0, -mean), why, would)
    return Headroom(True, -mean, f"all the data at equal compute beats {BASELINE} by {shown}")


def decide(arms: Sequence[Outcome], metric: str, main: str, check: Check = headroom) -> Decision:
    """Say what to do. Lower is better in the metric. check: the headroom, without which nothing is
    decided."""
    rows = _rows(arms, metric)
    row, balanced = rows[main], rows.get(BALANCED)
    shown = f"{main} − {BASELINE}: {_shown(row.difference)}"
    if row.units < MIN_UNITS:
        why = f"no verdict: {plural(row.units, 'seed')}, and one takes {MIN_UNITS} ({shown})"
        return Decision("undecided", why, "a higher price, for more seeds")
    room = check(arms, metric)
    if not room.passed:
        return Decision("undecided", room.why, room.would)
    if main != BALANCED and balanced is not None and balanced.verdict == "better":
        found = interval(paired_differences(arms, metric, main, BALANCED).values())
        if found.high is None or found.high >= 0:
            return Decision(
                "take source-balanced random",
                f"{BALANCED} is better than {BASELINE} ({_shown(balanced.difference)}) and {main} "
                f"is not better than that ({_shown(found)})",
            )
    if row.verdict == "better":
        answer: Answer = "take source-balanced random" if main == BALANCED else "select"
        return Decision(answer, f"{main} is better than {BASELINE} ({shown})")
    if row.verdict == "worse":
        return Decision("do not select", f"{main} is worse than {BASELINE} ({shown})")
    low, error = row.difference.low, row.difference.standard_error
    if row.verdict == "no verdict" or low is None or not error:
        return Decision("undecided", f"the pairs show no spread ({shown})", "other seeds")
    useful = USEFUL * room.size
    if -low < useful:
        return Decision(
            "do not select",
            f"{main} gains less than {USEFUL:.0%} of what {room.why.partition(' beats ')[0]} gains "
            f"({shown})",
        )
    needed = pairs_needed(error * math.sqrt(row.units), useful)
    return Decision(
        "undecided",
        f"{main} is not distinguishable from {BASELINE}, and may still gain {USEFUL:.0%} of what "
        f"all the data gains ({shown})",
        f"about {max(needed, row.units + 1)} seeds, which show a difference of {useful:.2g}",
    )


def _rows(arms: Sequence[Outcome], metric: str) -> dict[str, Row]:
    return {row.method: row for row in table(arms, metric, BASELINE)}


def _shown(difference: Interval) -> str:
    mean, _, low, high, _ = difference
    return "unknown" if mean is None else f"{with_interval(mean, low, high)} nats per token"
