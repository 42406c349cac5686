"""Tables of paired differences, by hand and by scipy, and their verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from s2l_ray.analysis.paired import Outcome, caveats, conclusions, paired_differences, table
from s2l_ray.analysis.statistics import Interval, Seeds, holm


def outcomes(seeds: list[Seeds] | None = None, **values: list[float]) -> list[Outcome]:
    return [
        Outcome(selector, 100, *(seeds[i] if seeds else (i, i)), {"loss": value})
        for selector, found in values.items()
        for i, value in enumerate(found)
    ]


def test_differences_are_method_minus_baseline_with_the_same_seeds() -> None:
    arms = outcomes([(1, 1), (2, 2), (3, 3)], s2l=[1.0, 3.0, math.nan], random=[0.75, 4.0, 1.0])
    found = paired_differences([*reversed(arms)], "loss", "s2l")
    assert found == {(1, 1): 0.25, (2, 2): -1.0}


BASE = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]
NOISE = [0.01, -0.01, 0.02, -0.02, 0.005, -0.005]


def shifted(by: float, noise: float = 1.0) -> list[float]:
    return [base + by + noise * e for base, e in zip(BASE, NOISE, strict=True)]


def test_table_and_its_sentences() -> None:
    arms = outcomes(
        random=BASE,
        s2l=shifted(-0.1),
        longest=shifted(0.1),
        strata=shifted(0.001),
        early=shifted(-0.1)[:4],
        copies=[base - 0.25 for base in BASE],
        broken=[*shifted(-0.1)[:5], math.nan],
    )
    rows = {row.method: row for row in table(arms, "loss")}
    assert {name: row.verdict for name, row in rows.items()} == {
        **{"random": None, "s2l": "better", "longest": "worse", "strata": "not distinguishable"},
        **{"early": "no verdict", "copies": "no verdict", "broken": "better"},
    }
    s2l = rows["s2l"]
    expected = stats.ttest_rel(shifted(-0.1), BASE)
    assert s2l.difference.p_value == pytest.approx(expected.pvalue)
    assert (s2l.runs, s2l.mean) == (6, pytest.approx(0.9))
    assert s2l.standard_error == pytest.approx(stats.sem(shifted(-0.1)))
    p = [rows[name].difference.p_value for name in ("s2l", "longest", "strata", "broken")]
    assert s2l.adjusted_p == holm(p)[0] > s2l.difference.p_value
    assert (rows["broken"].pairs, rows["broken"].left_out) == (5, 1)
    assert math.isnan(rows["broken"].mean) and rows["random"].difference == Interval()

    text = "\n".join([*conclusions([*rows.values()]), *caveats([*rows.values()])])
    low, high = (f"{x:.3f}".replace("-", "−") for x in s2l.difference[2:4])
    assert f"Better than random: s2l −0.100 [{low}, {high}] (6 pairs, p " in text
    assert "; broken −0.099 [" in text and "Worse than random: longest +0.100 [" in text
    assert "Not distinguishable from random: strata +0.0010 [" in text
    assert "No verdict: early −0." in text and "copies −0.250 (6 pairs). A verdict needs" in text
    assert "at least 5 selection seeds" in text and "correction for 4 comparisons" in text
    assert "because a value is not finite: 1 pair of broken and random." in text


def test_higher_is_better_for_some_metrics() -> None:
    rows = table(outcomes(random=BASE, s2l=shifted(-0.1)), "loss", lower_is_better=False)
    assert [row.verdict for row in rows] == [None, "worse"]
    rows = table(outcomes(a=shifted(0.1), b=BASE), "loss", baseline="b", lower_is_better=False)
    assert [row.verdict for row in rows] == ["better", None]
    assert conclusions(rows)[0].startswith("Better than b: a +0.1")


def test_many_comparisons_need_more() -> None:
    def verdict_on(a: list[float], **others: list[float]) -> str | None:
        return table(outcomes(random=BASE, a=a, **others), "loss")[1].verdict

    a = shifted(-0.02)  # p = 0.02: t = 0.02 / (0.0145 / sqrt(6)) = 3.4
    assert verdict_on(a) == "better"
    noise = {name: shifted(0.001) for name in "bcd"}
    assert verdict_on(a, **noise) == "not distinguishable"
    rows = table(outcomes(random=BASE, a=a, **noise), "loss")
    assert rows[1].difference.high < 0 and "may exclude zero" in " ".join(caveats(rows))


@pytest.mark.parametrize(
    "seeds",
    [
        [(0, i) for i in range(6)],  # one subset, trained on six times
        [(i, 0) for i in range(6)],
        [(i // 2, i) for i in range(6)],  # three seeds, two trainings each
    ],
)
def test_pairs_that_share_seeds_are_not_enough_for_a_verdict(seeds: list[Seeds]) -> None:
    row = table(outcomes(seeds, random=BASE, s2l=shifted(-0.1)), "loss")[1]
    assert (row.pairs, row.verdict, row.adjusted_p) == (6, "no verdict", None)
    assert row.units == min(len(set(kind)) for kind in zip(*seeds, strict=True))
    assert row.difference.mean == pytest.approx(-0.1)


def test_more_trainings_of_five_seeds_keep_the_verdict() -> None:
    arms = outcomes(
        [(i // 2, i) for i in range(10)], random=BASE[:5] * 2, s2l=shifted(-0.1)[:5] * 2
    )
    assert [(row.units, row.verdict) for row in table(arms, "loss")] == [(0, None), (5, "better")]


def test_pairs_that_share_seeds_do_not_count_as_many() -> None:
    # Five draws with three trainings each. The draws differ, so 15 pairs show less.
    by = np.repeat([-0.1, -0.02, -0.08, 0.03, 0.0], 3)
    base = np.resize(BASE, 15)
    method = base + by + np.resize(NOISE, 15) / 10
    arms = outcomes(random=[*base], a=[*method])
    assert table(arms, "loss")[1].verdict == "better"
    arms = outcomes([(i // 3, i) for i in range(15)], random=[*base], a=[*method])
    row = table(arms, "loss")[1]
    assert row.verdict == "not distinguishable"
    assert (row.selection_seeds, row.training_seeds) == (5, 15)


def test_tables_that_cannot_be_made() -> None:
    arms = outcomes(random=[1.0, 2.0], s2l=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"found \[100, '11%'\], expected the arms of one budget"):
        table([*arms, arms[0]._replace(budget="11%")], "loss")
    with pytest.raises(
        ValueError, match=r"found arms of \['random', 's2l'\], expected some of 'rnd'"
    ):
        table(arms, "loss", baseline="rnd")
    with pytest.raises(ValueError, match=r"of 'random' .*found \['loss'\], expected 'exact_match'"):
        table(arms, "exact_match")
    for arm in (arms[0], arms[2]):
        with pytest.raises(ValueError, match=f"'{arm.selector}' with selection seed 0"):
            table([*arms, arm], "loss")
