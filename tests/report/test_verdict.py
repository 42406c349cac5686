"""The verdict: numbers by hand, and no more than they support."""

from __future__ import annotations

import dataclasses
import math

import pytest
from support.reports import Page, arms_of, report_data

from s2l_ray.report import gather
from s2l_ray.report.page import render
from s2l_ray.report.verdict import other_measures, summarize
from s2l_ray.report.verdict import verdict as verdict_of


def verdict(arms, **names) -> str:
    told, notes = verdict_of(arms, **names)
    return " ".join([told, *notes])


def test_verdict_better() -> None:
    # differences -1, -2, -3, -1, -2, -3 (x 0.01): mean -0.02, variance 0.8e-4, SE 0.0036515
    arms = arms_of(s2l=[0.99, 0.98, 0.97, 0.99, 0.98, 0.97], random=[1.0] * 6)
    text = verdict(arms, main="s2l")
    assert text.startswith("s2l is better than random")
    assert "0.0200 ± 0.0037 lower" in text and "6 pairs" in text
    assert "−0.0294 to −0.0106" in text  # 0.02 ± 2.571 x 0.0036515


def test_the_verdict_has_the_error_over_examples_too() -> None:
    arms = arms_of(s2l=[0.99, 0.98, 0.97, 0.99, 0.98, 0.97], random=[1.0] * 6)
    # Differences of the influences: ±0.01 in two groups, for all seeds: 2 (1 + 1) times 0.0001.
    known = [
        arm._replace(influences=[0.02, -0.02] if arm.selector == "s2l" else [0.01, -0.01])
        for arm in arms
    ]
    text = verdict(known, main="s2l")
    assert text.startswith("s2l is not distinguishable from random")
    assert "−0.0200 ± 0.020." in text  # √(0.0036515² + 0.0004)
    one_lacks = [arms[0], *known[1:]]
    assert verdict(one_lacks, main="s2l") == verdict(arms, main="s2l")


def test_verdict_worse_and_noise() -> None:
    worse = arms_of(s2l=[1.01, 1.02, 1.03, 1.01, 1.02, 1.03], random=[1.0] * 6)
    assert verdict(worse, main="s2l").startswith("s2l is worse than random")
    assert "0.0200 ± 0.0037 higher" in verdict(worse, main="s2l")
    noise = arms_of(s2l=[0.9, 1.1, 0.8, 1.2, 0.95, 1.0], random=[1.0] * 6)
    text = verdict(noise, main="s2l")
    assert text.startswith("s2l is not distinguishable from random") and "−0.00833 ± 0.058" in text


@pytest.mark.parametrize(
    ("main", "lead", "numbers"),
    [
        ([0.9], "No verdict", "0.100 lower than that of random. Basis: one pair"),
        ([1.1], "s2l did not beat random in this run", "0.100 higher"),
        ([1.0], "s2l did not beat random in this run", "the same as that of random"),
        ([0.9, 0.8], "No verdict", "0.150 ± 0.050 lower than that of random. Basis: mean"),
        ([1.1, 1.2], "s2l did not beat random in this run", "0.150 ± 0.050 higher"),
        ([0.5, 0.5, 0.5, 0.5], "No verdict", "0.500 ± 0 lower"),
        (
            [0.9, 0.8, 0.9, 0.8, 0.7],
            "No verdict",
            "5 pairs of targets with the same seed; with "
            "signs flipped at random, p = 0.0625. A verdict",
        ),
    ],
)
def test_too_few_pairs_support_no_verdict(main: list[float], lead: str, numbers: str) -> None:
    text = verdict(arms_of(s2l=main, random=[1.0] * len(main)), main="s2l")
    assert text.startswith(lead) and numbers in text
    assert "A verdict needs at least 6 pairs." in text


def test_equal_differences_support_no_verdict() -> None:
    text = verdict(arms_of(s2l=[0.75] * 6, random=[1.0] * 6), main="s2l")
    assert text.startswith("No verdict") and "0.250 ± 0 lower" in text
    assert "over 6 pairs" in text and "A verdict needs some spread among the pairs." in text


def test_verdict_has_the_standard_error_over_held_out_examples() -> None:
    arms = arms_of(s2l=[0.9, 0.8, 0.7], random=[1.0] * 3)
    assert "one pair's difference" not in verdict(arms, main="s2l")
    for row, error in enumerate((0.02, 0.05, 0.04)):
        arms[row] = arms[row]._replace(error_over_examples=error)
    assert "one pair's difference has a standard error of 0.040." in verdict(arms, main="s2l")
    one = verdict([arms[0], arms[3]], main="s2l")
    assert "one pair of targets with the same seed, so no standard error over seeds." in one
    assert "one pair's difference has a standard error of 0.020." in one


def test_verdict_pairs_by_seed() -> None:
    # seeds 0 and 1 pair; seed 2 of random has no partner. Unpaired means would say "worse".
    arms = arms_of(s2l=[2.9, 0.9], random=[3.0, 1.0, 0.1])
    assert "0.100 ± 0 lower" in verdict(arms, main="s2l")
    assert "2 pairs" in verdict(list(reversed(arms)), main="s2l")


def test_verdict_without_a_comparison() -> None:
    assert "was not measured" in verdict(arms_of(s2l=[1.0]), main="s2l")
    assert "was not measured" in verdict([], main="s2l")
    assert "baseline" in verdict(arms_of(random=[1.0]), main="random")
    with pytest.raises(ValueError, match="'s2l' with selection seed 0"):
        verdict(arms_of(s2l=[1.0]) * 2, main="s2l")


def test_verdict_names_lost_runs_and_unequal_steps_and_tokens() -> None:
    arms = arms_of(s2l=[0.9, math.nan], random=[1.0, 1.0])
    assert "Left out because a loss is not finite: 1 pair." in verdict(arms, main="s2l")
    arms[0] = arms[0]._replace(n_steps=99)
    assert "The targets differ in steps: s2l 51–99, random 51." in verdict(arms, main="s2l")
    assert "tokens" not in verdict(arms, main="s2l")
    arms[1] = arms[1]._replace(n_tokens=9181)
    expected = "The subsets differ in tokens: s2l 9,000–9,181, random 9,000. All pairs share one"
    assert expected in verdict(arms, main="s2l")


def test_summary_of_selectors() -> None:
    s2l, random = summarize(arms_of(s2l=[1.0, 3.0], random=[2.0, 2.0]), baseline="random")
    assert s2l[:7] == ("s2l", 2, "1,100", "9,000", "51", 2.0, 1.0)
    assert s2l[7:] == (0.0, 1.0, 2)
    assert random.difference is None and random.standard_error == 0.0


def test_other_metrics_have_a_line_each_and_a_table() -> None:
    record = {
        "seed": 0, "examples": 9, "steps": 2, "tokens": 90, "loss": 1.0, "macro": 1.5,
        "by_source": {"a": 1.0}, "examples_by_source": {"a": 4}, "answer_loss": None,
    }  # fmt: skip
    right = {"s2l": [5, 7], "random": [3, 3]}
    records = [
        record | {"method": name, "selection_seed": seed, "training_seed": seed}
        | {"exact_match": {"sums": {"correct": correct, "questions": 20}}}
        for name, counts in right.items()
        for seed, correct in enumerate(counts)
    ]  # fmt: skip
    arms = gather.arms_of(records)
    lines = other_measures(arms)
    assert lines == [
        "held-out loss, mean over sources: s2l 1.50 ± 0, random 1.50 ± 0",
        "sums, share of correct answers: s2l 0.300 ± 0.050, random 0.150 ± 0",
    ]
    page = Page(render(dataclasses.replace(report_data(), arms=arms)))
    assert "Other measures" in page.texts("summary")
    cells = page.texts("td")
    assert cells[cells.index("0.300 ± 0.050") + 1] == "0.150 ± 0"
    assert "Other measures" not in Page(render(report_data())).texts("summary")
    assert gather.arms_of([]) == [] and other_measures([]) == []
