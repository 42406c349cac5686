"""The three sentences that a comparison ends with: true whoever wins, and if nobody does."""

from __future__ import annotations

import math

import pytest

from s2l_ray.report.closing import closing


def records(**losses: list[float]) -> list[dict]:
    return [
        {
            "method": name, "budget": "0.1", "match": "examples", "selection_seed": seed,
            "training_seed": seed, "loss": loss, "macro": 2 * loss, "by_source": {},
            "examples_by_source": {},
        }
        for name, values in losses.items()
        for seed, loss in enumerate(values)
    ]  # fmt: skip


SPREAD = [0.00, 0.01, -0.01, 0.02, -0.02, 0.00]


def around(mean: float, spread: float = 1.0, turn: int = 0, count: int = 6) -> list[float]:
    turned = SPREAD[turn:] + SPREAD[:turn]
    return [mean + spread * each for each in turned][:count]


def test_a_selector_wins() -> None:
    found = records(s2l=around(0.8), random=around(1.0, turn=1), other=around(0.9, turn=2))
    won, noise, after = closing(found, main="s2l")
    assert won == (
        "s2l won on the primary measure, held-out loss, nats per response token (lower is better): "
        "s2l 0.8000, other 0.9000, random 1.000."
    )
    assert noise.startswith("The lead of s2l over other is beyond noise (+0.100 [")
    assert " and over random is beyond noise (+0.200 [" in noise and "6 pairs" in noise
    assert after == "Next: keep s2l, which is better than random beyond noise, and run finetune."
    assert closing(found, main="other")[2].startswith("Next: set selection.selector to s2l, ")


def test_the_own_selector_is_kept_if_only_noise_is_between_it_and_the_first() -> None:
    found = records(s2l=around(0.81, turn=1), random=around(1.2), other=around(0.80, turn=4))
    won, noise, after = closing(found, main="s2l")
    assert won.startswith("other won")
    assert "over s2l is not beyond noise" in noise and "over random is beyond noise" in noise
    assert after.startswith("Next: keep s2l,")


def test_random_wins() -> None:
    won, noise, after = closing(records(s2l=around(1.2), random=around(1.0, turn=1)), main="s2l")
    assert won.startswith("random won") and "over s2l is beyond noise (+0.200 [" in noise
    assert after.startswith("Next: take random, which needs no proxy")


def test_nobody_wins_beyond_noise() -> None:
    found = records(s2l=around(0.99, 5), random=around(1.0, 5, turn=2))
    won, noise, after = closing(found, main="s2l")
    assert won.startswith("s2l won") and "over random is not beyond noise" in noise
    assert after.startswith("Next: take random")


def test_few_seeds_decide_nothing() -> None:
    found = records(s2l=around(0.5, count=2), random=around(1.0, turn=1, count=2))
    won, noise, after = closing(found, main="s2l")
    assert won.startswith("s2l won")
    assert "over random is undecided (" in noise and "a verdict needs 6 pairs)" in noise
    assert "evaluation.seeds=[0,1,2,3,4,5]" in after


def test_equal_means_and_no_spread() -> None:
    won, noise, after = closing(records(s2l=[1.0] * 6, random=[1.0] * 6), main="s2l")
    assert won.startswith("No selector won")
    assert "a verdict needs some spread among the pairs" in noise
    assert after.startswith("Next: take random")


def test_higher_is_better_of_answers() -> None:
    found = records(s2l=around(1.0), random=around(1.0))
    for number, record in enumerate(found):
        right = (20 if record["method"] == "s2l" else 10) + number % 4
        record["exact_match"] = {"exam": {"correct": right, "questions": 100}}
    won, noise, _ = closing(found, main="s2l", primary="exact_match/exam")
    assert won.startswith("s2l won on the primary measure, exam, share of correct answers (higher")
    assert "over random is beyond noise (−0.093 [" in noise


@pytest.mark.parametrize("losses", [
    {"random": [1.0] * 6},
    {"s2l": [1.0, 2.0], "random": [math.nan, 2.0]},
    {"s2l": [math.inf, 2.0], "random": [1.0, 2.0]},
    {},
])  # fmt: skip
def test_nothing_to_compare(losses: dict[str, list[float]]) -> None:
    assert closing(records(**losses), main="s2l") == []


def test_a_selector_with_too_few_examples_is_passed_over() -> None:
    found = records(s2l=around(0.8), random=around(1.0, turn=1))
    found.append({"method": "other", "too_few": "why"})
    assert "other" not in " ".join(closing(found, main="s2l"))
