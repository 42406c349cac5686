"""The answer of a pilot, from differences made by hand."""

import math

import pytest

from s2l_ray.analysis.decision import FULL, Headroom, decide, headroom
from s2l_ray.analysis.measures import SHARE, Metric
from s2l_ray.analysis.paired import Outcome
from s2l_ray.pipeline.arms import FULL_COMPUTE

LOSS = Metric("loss", "held-out loss")
WOBBLE = [-0.002, -0.001, 0.0, 0.0005, 0.001, 0.0015]  # over six seeds; sums to 0


def arms(s2l, balanced=0.0, full=-0.1, seeds=6, spread=1.0):
    """Losses of random at 3, and of the others at so much from it."""
    found = []
    for number, noise in enumerate(WOBBLE[:seeds]):
        noise *= spread
        for method, difference in (
            ("random", 0.0),
            ("s2l", s2l + noise),
            ("random_balanced", balanced - 0.7 * noise),
            (FULL, full + noise / 2),
        ):
            found.append(Outcome(method, 0.1, number, number, {"loss": 3 + difference}))
    return found


def answer(*given, **more):
    return decide(arms(*given, **more), LOSS, "s2l")


def test_the_name_of_training_on_everything_is_that_of_the_comparison():
    assert FULL == FULL_COMPUTE


def test_a_selector_that_is_better_is_taken():
    found = answer(-0.03)
    assert found.answer == "select" and "s2l is better than random" in found.why
    assert found.would == ""


def test_source_balanced_random_is_taken_if_the_selector_is_no_better_than_that():
    found = answer(-0.03, balanced=-0.03)
    assert found.answer == "take source-balanced random"
    assert answer(0.0, balanced=-0.03).answer == "take source-balanced random"
    # Better than balanced, too.
    assert answer(-0.06, balanced=-0.03).answer == "select"


def test_a_selector_that_is_worse_is_not_taken():
    assert answer(0.03).answer == "do not select"


def test_a_selector_that_can_gain_little_is_not_taken():
    found = answer(-0.0005)  # the interval ends far from half of 0.1
    assert found.answer == "do not select" and "gains less than 50%" in found.why


def test_a_selector_that_may_still_gain_much_is_undecided_and_seeds_would_decide():
    found = answer(-0.02, full=-0.05, spread=15)
    assert found.answer == "undecided" and "not distinguishable" in found.why
    # Half of the headroom, 0.025; standard deviation 15 x 0.0013 = 0.0196: 7 pairs at 80% power.
    assert found.would.startswith("about 7 seeds")


def test_without_headroom_nothing_is_decided():
    found = answer(0.0, full=-0.0005)
    assert found.answer == "undecided"
    assert "cannot tell selections apart" in found.why and "a smaller budget" in found.would
    # Full data that is worse than random is no headroom either.
    assert answer(0.0, full=0.2).answer == "undecided"


def test_a_verdict_stands_without_headroom():
    assert answer(0.5, full=0.0).answer == "do not select"
    assert answer(-0.03, full=0.0).answer == "select"
    assert answer(0.0, balanced=-0.03, full=0.0).answer == "take source-balanced random"
    # Balanced random is told apart, the selector is not.
    found = answer(0.0, balanced=0.5, full=0.2)
    assert found.answer == "undecided" and "s2l is not distinguishable from random" in found.why
    assert "cannot tell selections apart" not in found.why and "a smaller budget" in found.would


def test_few_seeds_decide_nothing():
    found = answer(-0.03, seeds=3)
    assert found.answer == "undecided" and found.why.startswith("no verdict: 3 seeds, ")


def test_the_check_of_headroom_can_be_replaced():
    closed = decide(arms(0.0), LOSS, "s2l", lambda *_: Headroom(False, 0.0, "closed", "a key"))
    assert (closed.answer, closed.would) == ("undecided", "a key")
    assert closed.why == "closed, so this setting cannot tell selections apart"


def test_headroom_takes_five_standard_errors():
    # The full arm's differences vary by WOBBLE / 2: a standard error of 0.000282.
    assert headroom(arms(0, full=-0.0015), LOSS).passed
    assert not headroom(arms(0, full=-0.0013), LOSS).passed
    assert headroom(arms(0, full=-0.05), LOSS).size == pytest.approx(0.05)
    without = [arm for arm in arms(0) if arm.selector != FULL]
    found = headroom(without, LOSS)
    assert "no target was trained on the whole corpus" in found.why and not found.measured
    for seeds in (1, 2):
        few = headroom(arms(0, full=-0.2, seeds=seeds), LOSS)
        assert not few.measured and "and the headroom takes 3 (" in few.why
    assert headroom(arms(0, full=-0.2, seeds=3), LOSS).measured


def test_a_corpus_whose_targets_diverge_was_trained_on():
    lost = [
        arm._replace(metrics={"loss": math.nan}) if arm.selector == FULL else arm for arm in arms(0)
    ]
    found = headroom(lost, LOSS)
    assert not found.measured
    assert found.why == "no pair of full, equal compute and random has finite values"


def test_a_share_of_correct_answers_is_better_if_it_is_higher():
    right = Metric("loss", "share", False, SHARE)
    turned = [arm._replace(metrics={"loss": 6 - arm.metrics["loss"]}) for arm in arms(-0.03)]
    assert decide(turned, right, "s2l").answer == "select"
    assert headroom(turned, right).size == pytest.approx(0.1)
    assert "+0.100" in headroom(turned, right).why and SHARE in headroom(turned, right).why
    worse = [arm._replace(metrics={"loss": 6 - arm.metrics["loss"]}) for arm in arms(0.03)]
    assert decide(worse, right, "s2l").answer == "do not select"
    balanced = [arm._replace(metrics={"loss": 6 - arm.metrics["loss"]}) for arm in
                arms(-0.03, balanced=-0.03)]  # fmt: skip
    assert decide(balanced, right, "s2l").answer == "take source-balanced random"


def test_more_seeds_do_not_help_against_few_examples():
    few = [
        arm._replace(influences={"loss": [0.05 * (arm.selector == "s2l"), 0.0, 0.0, 0.0]})
        for arm in arms(-0.02)
    ]
    found = decide(few, LOSS, "s2l")
    assert found.answer == "undecided" and found.would.startswith("more evaluation examples")
