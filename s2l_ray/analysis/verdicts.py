"""Verdicts on paired comparisons, corrected over all tables of a metric, and their sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s2l_ray.analysis.paired import Outcome, Row, Verdict, rows
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, holm
from s2l_ray.formatting import measured, plural, with_interval


def table(
    arms: Sequence[Outcome],
    metric: str,
    baseline: str = "random",
    lower_is_better: bool = True,
    margin: float | str | None = None,
) -> list[Row]:
    """Return `rows` with verdicts, corrected for the methods of this table alone."""
    [judged] = judge([rows(arms, metric, baseline, margin)], lower_is_better)
    return judged


def judge(tables: Sequence[list[Row]], lower_is_better: bool = True) -> list[list[Row]]:
    """Return tables of one metric with verdicts. p is after Holm's correction over all methods of
    all tables that meet what a verdict needs: `MIN_UNITS` selection seeds, as many training seeds,
    and some spread. References are not tested.

    Better and worse need p ≤ `ALPHA` of a difference, equal p ≤ `ALPHA` of equality, which has a
    Holm's correction of its own.
    """
    tested = [
        (place, number)
        for place, table in enumerate(tables)
        for number, row in enumerate(table)
        if _is_tested(row)
    ]
    found = [list(table) for table in tables]
    of = [tables[place][number] for place, number in tested]
    differ = holm([row.difference.p_value for row in of if row.difference.p_value is not None])
    equal = iter(holm([row.equal_p for row in of if row.equal_p is not None]))
    for (place, number), row, adjusted in zip(tested, of, differ, strict=True):
        equal_p = None if row.equal_p is None else next(equal)
        row = row._replace(adjusted_p=adjusted, equal_p=equal_p)
        found[place][number] = row._replace(verdict=_verdict(row, lower_is_better))
    return found


def num_tested(tables: Sequence[Sequence[Row]]) -> int:
    """Return for how many comparisons `judge` corrects."""
    return sum(_is_tested(row) for table in tables for row in table)


def _is_tested(row: Row) -> bool:
    enough = row.units >= MIN_UNITS and row.difference.p_value is not None
    return enough and row.verdict is not None and not row.is_reference


def _verdict(row: Row, lower_is_better: bool) -> Verdict:
    mean, adjusted = row.difference.mean, row.adjusted_p
    assert mean is not None and adjusted is not None  # since there is a p
    if adjusted <= ALPHA:
        return "better" if (mean < 0) == lower_is_better else "worse"
    return "equal" if row.equal_p is not None and row.equal_p <= ALPHA else "not distinguishable"


def conclusions(rows: Sequence[Row]) -> list[str]:
    """Return the verdicts of a table in sentences, with differences and 95% intervals."""
    baseline = _baseline(rows)
    by_verdict: dict[Verdict, list[Row]] = {}
    for row in rows:
        if row.verdict is not None:
            by_verdict.setdefault(row.verdict, []).append(row)
    found = []
    for verdict, words in (("better", "Better than"), ("worse", "Worse than")):
        if mine := by_verdict.get(verdict):  # type: ignore[call-overload]
            found.append(f"{words} {baseline}: {_listed(mine)}.")
    if equal := by_verdict.get("equal"):
        margin = equal[0].margin
        assert margin is not None  # since they are equal within it
        found.append(f"Equal to {baseline} within {measured(margin)}: {_listed(equal)}.")
    if alike := by_verdict.get("not distinguishable"):
        found.append(
            f"Not distinguishable from {baseline}: {_listed(alike)}. This does not show that they "
            "are equal."
        )
        found += ruled_out(alike, f"They differ from {baseline}")
    if few := by_verdict.get("no verdict"):
        found.append(
            f"No verdict: {_listed(few)}. A verdict needs pairs from at least {MIN_UNITS} "
            "selection seeds, with finite values and some spread. Further trainings on the subset "
            "of one seed do not count as seeds."
        )
    return found


def ruled_out(rows: Sequence[Row], who: str) -> list[str]:
    """Return by how much rows that are not distinguishable differ at most, in a sentence."""
    known = [
        f"{row.method} {measured(row.within)}"
        for row in rows
        if row.verdict == "not distinguishable" and row.within is not None
    ]
    if not known:
        return []
    return [f"{who} by less than (5% error each, not corrected): {'; '.join(known)}."]


def caveats(rows: Sequence[Row], tested: int) -> list[str]:
    """Return what narrows the verdicts of a table: the correction for so many comparisons, pairs
    without a value, and errors that are not known."""
    found = []
    if tested > 1:
        found.append(
            f"p is after Holm's correction for {tested} comparisons; better and worse need "
            f"p ≤ {ALPHA}. The 95% intervals are not corrected, so one may exclude zero at p > "
            f"{ALPHA}."
        )
    if any(row.over_examples is None and row.pairs > 1 for row in rows if row.verdict is not None):
        found.append(
            "The error over evaluation examples is not known for all: those intervals are over "
            "seeds alone, for these examples."
        )
    for row in rows:
        if row.left_out:
            found.append(
                f"Left out because a value is not finite: {plural(row.left_out, 'pair')} of "
                f"{row.method} and {_baseline(rows)}."
            )
    return found


def _baseline(rows: Sequence[Row]) -> str:
    return next(row.method for row in rows if row.verdict is None)


def _listed(rows: Iterable[Row]) -> str:
    return "; ".join(f"{row.method} {_numbers(row)}" for row in rows)


def _numbers(row: Row) -> str:
    mean, _, low, high, _ = row.difference
    found = plural(row.pairs, "pair")
    if row.p_of_verdict is not None:
        found += f", {'equality ' * (row.verdict == 'equal')}{_p(row.p_of_verdict)}"
    elif row.signs_p is not None:
        found += f"; signs flipped, {_p(row.signs_p)}"
    return f"({found})" if mean is None else f"{with_interval(mean, low, high)} ({found})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"
