"""The rule that decides a race, by hand."""

import math

import pytest

from s2l_ray.analysis.race import run_race


def records(primary="loss", influences=None, **values):
    """Records of three trainings per candidate; values: of the measure, by candidate."""
    found = []
    for candidate, mine in values.items():
        for seed, value in enumerate(mine):
            record = {
                "method": candidate, "budget": "10", "selection_seed": 0, "training_seed": seed,
                "loss": value, "macro": value, "by_source": {"a": value},
                "examples_by_source": {"a": 50},
            }  # fmt: skip
            if primary == "exact_match":
                record["exact_match"] = {"exam": {"correct": value, "questions": 100}}
            if influences is not None:
                record["influences"] = {"loss": influences[candidate]}
            found.append(record)
    return found


BASE = [1.0, 1.1, 1.2]


def less(*differences):
    return [value + difference for value, difference in zip(BASE, differences, strict=True)]


def one_sided(t):
    """Of Student's t with two degrees of freedom, in closed form."""
    return 0.5 - t / (2 * math.sqrt(2 + t**2))


def test_a_candidate_that_is_better_beyond_noise_wins():
    # Mean −0.11, standard deviation 0.01: t = 0.11 / (0.01 / √3). The other's mean is 0: p = 1/2.
    found = run_race(records(random=BASE, b=less(0.01, -0.01, 0), a=less(-0.1, -0.11, -0.12)), None)
    assert found.winner == "a"
    p = {row.method: row.adjusted_p for row in found.rows}
    assert p["a"] == pytest.approx(2 * one_sided(11 * math.sqrt(3)))  # Holm: two candidates
    assert p["b"] == pytest.approx(0.5) and p["random"] is None
    assert found.told.startswith("a won (a − random: −0.110 [−0.135, −0.085] nats per token, over")
    assert "p = 0.00274, one-sided, after Holm's correction for 2 candidates" in found.told
    info = found.as_info()
    assert info["winner"] == "a" and info["measure"] == "loss"
    assert [entry["candidate"] for entry in info["candidates"]] == ["random", "b", "a"]
    assert info["candidates"][2]["difference"] == pytest.approx(-0.11)


def test_random_is_kept_if_none_is_better_beyond_noise():
    # t = 0.05 / (0.0458 / √3) = 1.89: p = 0.10. The mean is better, and that is not enough.
    found = run_race(
        records(random=BASE, a=less(-0.1, -0.01, -0.04), b=less(0.3, 0.31, 0.32)), None
    )
    assert found.winner == "random" and found.leader == "a"
    assert found.told.startswith("random is kept, no candidate is better beyond noise; the nearest")
    # One that is as surely worse is no winner either.
    assert {row.method: row.adjusted_p for row in found.rows}["b"] > 0.99


def test_the_correction_decides_who_wins():
    # Alone, t = 0.05 / (0.02 / √3) = 4.33 has p = 0.025; with two others that show nothing, 0.074.
    mine, nothing = less(-0.05, -0.07, -0.03), less(0.01, -0.01, 0)
    one = run_race(records(random=BASE, a=mine), None)
    three = run_race(records(random=BASE, a=mine, b=nothing, c=nothing), None)
    t = 0.05 / (0.02 / math.sqrt(3))
    assert one.winner == "a" and one.rows[1].adjusted_p == pytest.approx(one_sided(t))
    assert three.winner == "random"
    assert three.rows[1].adjusted_p == pytest.approx(3 * one_sided(t))


def test_of_two_winners_the_larger_mean_wins_and_of_equals_the_first():
    near, far = less(-0.1, -0.101, -0.102), less(-0.2, -0.22, -0.18)
    assert run_race(records(random=BASE, a=near, b=far), None).winner == "b"  # p is smaller for a
    for order in (("a", "b"), ("b", "a")):
        tied = run_race(records(random=BASE, **dict.fromkeys(order, far)), None)
        assert tied.winner == order[0]


def test_the_same_subset_and_a_diverged_training_cannot_win():
    lost = less(-0.2, -0.22, math.nan)
    found = run_race(records(random=BASE, same=BASE, lost=lost), None)
    assert found.winner == "random"
    assert [row.adjusted_p for row in found.rows] == [None, None, None]
    assert found.as_info()["candidates"][2]["mean"] is None  # JSON has no NaN
    assert "it cannot win" in found.told


def test_more_is_better_where_the_measure_says_so():
    right = [30, 31, 32]
    many, few = [each + 20 for each in right], [each - 20 + each % 2 for each in right]
    many[0] += 1
    found = run_race(records("exact_match", random=right, few=few, many=many), None)
    assert found.winner == "many" and found.metric.key == "exact_match/exam"
    # By the loss, which is said to be less if it is better, the other one wins.
    assert (
        run_race(records("exact_match", random=right, few=few, many=many), "loss").winner == "few"
    )


def test_the_error_over_the_examples_counts():
    mine = less(-0.1, -0.11, -0.12)
    none = {"random": [0.0, 0.0], "a": [0.0, 0.0]}
    assert run_race(records(influences=none, random=BASE, a=mine), None).winner == "a"
    # Two groups of examples that each move the difference by 0.05: V = 2 · (0.05² + 0.05²) = 0.1².
    much = {"random": [0.0, 0.0], "a": [0.05, -0.05]}
    found = run_race(records(influences=much, random=BASE, a=mine), None)
    assert found.winner == "random"
    assert found.rows[1].over_examples == pytest.approx(0.1)
