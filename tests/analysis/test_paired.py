"""Tables of paired differences, by hand and by scipy, and their verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from s2l_ray.analysis.paired import Outcome, paired_differences, rows
from s2l_ray.analysis.statistics import Interval, Seeds, holm
from s2l_ray.analysis.verdicts import caveats, conclusions, judge, num_tested, table


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
        broken=[math.nan, *shifted(-0.1)[1:]],
    )
    rows = {row.method: row for row in table(arms, "loss")}
    assert {name: row.verdict for name, row in rows.items()} == {
        **{"random": None, "s2l": "better", "longest": "worse", "strata": "not distinguishable"},
        **{"early": "no verdict", "copies": "no verdict", "broken": "no verdict"},
    }
    s2l = rows["s2l"]
    expected = stats.ttest_rel(shifted(-0.1), BASE)
    assert s2l.difference.p_value == pytest.approx(expected.pvalue)
    assert (s2l.runs, s2l.mean) == (6, pytest.approx(0.9))
    assert s2l.standard_error == pytest.approx(stats.sem(shifted(-0.1)))
    p = [rows[name].difference.p_value for name in ("s2l", "longest", "strata")]
    assert s2l.adjusted_p == holm(p)[0] > s2l.difference.p_value
    assert (rows["broken"].pairs, rows["broken"].left_out) == (5, 1)
    assert math.isnan(rows["broken"].mean) and rows["random"].difference == Interval()

    text = "\n".join([*conclusions([*rows.values()]), *caveats([*rows.values()], 3)])
    low, high = (f"{x:.3f}".replace("-", "−") for x in s2l.difference[2:4])
    assert f"Better than random: s2l −0.100 [{low}, {high}] (6 pairs, p " in text
    assert "; broken −0.102 [" in text and "Worse than random: longest +0.100 [" in text
    assert "Not distinguishable from random: strata +0.0010 [" in text
    assert "No verdict: early −0." in text and "copies −0.250 (6 pairs; signs flipped" in text
    assert "at least 6 selection seeds" in text and "correction for 3 comparisons" in text
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
    assert rows[1].difference.high < 0 and "may exclude zero" in " ".join(caveats(rows, 4))


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


def test_more_trainings_of_six_seeds_keep_the_verdict() -> None:
    arms = outcomes([(i % 6, i) for i in range(12)], random=BASE * 2, s2l=shifted(-0.1) * 2)
    assert [(row.units, row.verdict) for row in table(arms, "loss")] == [(0, None), (6, "better")]


def test_pairs_that_share_seeds_do_not_count_as_many() -> None:
    # Six draws with three trainings each. The draws differ, so 18 pairs show less.
    by = np.repeat([-0.1, -0.02, -0.08, 0.03, 0.0, -0.01], 3)
    base = np.resize(BASE, 18)
    method = base + by + np.resize(NOISE, 18) / 10
    arms = outcomes(random=[*base], a=[*method])
    assert table(arms, "loss")[1].verdict == "better"
    arms = outcomes([(i // 3, i) for i in range(18)], random=[*base], a=[*method])
    row = table(arms, "loss")[1]
    assert row.verdict == "not distinguishable"
    assert (row.selection_seeds, row.training_seeds) == (6, 18)


def test_verdicts_are_corrected_over_all_budgets_and_methods() -> None:
    tables = [
        rows(outcomes(random=BASE, a=shifted(-0.02), b=shifted(shift)), "loss")
        for shift in (0.001, -0.1)
    ]
    assert num_tested(tables) == 4
    p = [row.difference.p_value for table in tables for row in table[1:]]
    found = [row.adjusted_p for table in judge(tables) for row in table[1:]]
    assert found == holm(p)
    # Alone, a table of two corrects for two.
    [alone] = judge(tables[:1])
    assert alone[1].adjusted_p == pytest.approx(2 * p[0]) and alone[1].verdict == "better"
    assert judge(tables)[0][1].verdict == "not distinguishable"


def test_references_are_shown_and_not_tested() -> None:
    arms = outcomes(
        random=BASE, s2l=shifted(-0.02), **{"full, equal compute": shifted(-0.1)},
        untuned=shifted(3.0), **{"random ×0.5": shifted(0.1)},
    )  # fmt: skip
    found = {row.method: row for row in table(arms, "loss")}
    assert [found[name].verdict for name in ("full, equal compute", "untuned", "random ×0.5")] == [
        "reference"
    ] * 3
    assert found["s2l"].adjusted_p == found["s2l"].difference.p_value  # one test


def test_five_seeds_have_the_exact_p_of_flipped_signs_and_no_verdict() -> None:
    arms = outcomes(random=BASE[:5], s2l=shifted(-0.1)[:5])
    row = table(arms, "loss")[1]
    assert (row.verdict, row.signs_p) == ("no verdict", 2 / 32)
    assert "(5 pairs; signs flipped, p = 0.0625)" in conclusions(table(arms, "loss"))[0]
    assert table(outcomes(random=BASE, s2l=shifted(-0.1)), "loss")[1].signs_p == 2 / 64


def test_equal_within_a_margin() -> None:
    # The differences are NOISE: mean 0, standard deviation 0.0145, error 0.0059; t_5 is 2.015.
    arms = outcomes(random=BASE, a=shifted(0.0))
    row = table(arms, "loss", margin=0.0120)[1]
    assert row.verdict == "equal" and row.equal_p == pytest.approx(0.0492, abs=1e-4)
    assert conclusions([table(arms, "loss")[0], row])[0].startswith(
        "Equal to random within 0.0120:"
    )
    # The p of the difference is 1 here; the one that is told is that of the verdict.
    assert row.adjusted_p == pytest.approx(1.0) and row.p_of_verdict == row.equal_p
    assert "(6 pairs, equality p = 0.0492)." in conclusions([table(arms, "loss")[0], row])[0]
    assert table(arms, "loss", margin=0.0118)[1].verdict == "not distinguishable"
    assert row.within == pytest.approx(2.015 * 0.01449 / math.sqrt(6), rel=1e-3)
    # 1.2% of random's mean, 1.0.
    assert table(arms, "loss", margin="1.2%")[1].margin == pytest.approx(0.012)
    told = conclusions(table(arms, "loss"))
    assert told[1].endswith("by less than (5% error each, not corrected): a 0.0119.")

    # Holm's correction doubles the smaller p of two.
    both = table(outcomes(random=BASE, a=shifted(0.0), b=shifted(0.001)), "loss", margin=0.012)
    assert both[1].equal_p == pytest.approx(2 * row.equal_p)


def test_a_share_of_the_baseline_is_of_its_finite_values() -> None:
    lost = [math.nan, *BASE[1:]]
    row = table(outcomes(random=lost, a=shifted(0.0)), "loss", margin="2%")[1]
    assert row.margin == pytest.approx(0.02) and row.left_out == 1  # the others' mean is 1.0
    assert row.equal_p is not None and row.equal_p < 0.05
    never = table(outcomes(random=[math.inf] * 6, a=shifted(0.0)), "loss", margin="2%")[1]
    assert (never.margin, never.equal_p, never.verdict) == (None, None, "no verdict")


def test_a_difference_has_the_error_over_examples_too() -> None:
    arms = outcomes(random=BASE, s2l=shifted(-0.02))
    alone = table(arms, "loss")[1]
    assert alone.over_examples is None and alone.over_seeds == alone.difference.standard_error
    # Four groups of examples that differ in the same way for all seeds.
    influences = {"s2l": [0.03, -0.01, -0.03, 0.01], "random": [0.01, 0.01, -0.01, -0.01]}
    known = [arm._replace(influences={"loss": influences[arm.selector]}) for arm in arms]
    row = table(known, "loss")[1]
    # Differences 0.02, −0.02, −0.02, 0.02: 4/3 of 4 times 0.0004.
    assert row.over_examples == pytest.approx(math.sqrt(4 / 3 * 0.0016))
    error = math.hypot(alone.difference.standard_error, row.over_examples)
    assert row.difference.standard_error == pytest.approx(error)
    assert row.over_seeds == pytest.approx(alone.over_seeds)
    assert (alone.verdict, row.verdict) == ("better", "not distinguishable")
    assert "over seeds alone" in " ".join(caveats(table(arms, "loss"), 1))
    assert caveats(table(known, "loss"), 1) == []
    # A pair without them, of an earlier version: seeds alone.
    known[0] = known[0]._replace(influences={})
    assert table(known, "loss")[1].difference == alone.difference


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
