"""What is alarming about a run's numbers, each by a small table worked out by hand."""

import numpy as np
import pytest
from support.runs import settings

from s2l_ray.analysis.alarms import of_clusters, of_corpus, of_losses, of_selection, of_tokens
from s2l_ray.store import Manifest, Part
from s2l_ray.store.views import ClustersView, CorpusView, SelectionView, TokensView


def tokens(rows=1000, **stats):
    """Two parts; the second has a tenth of everything."""
    counts = {"trainable": rows, "trainable_tokens": 100 * rows, "label_tokens": 50 * rows,
              "truncated": 0} | stats  # fmt: skip
    halves = [
        Part(f"part-{n:05d}", "f", rows * share // 10, 1, "c",
             {name: count * share // 10 for name, count in counts.items()})
        for n, share in enumerate((9, 1))
    ]  # fmt: skip
    return TokensView(Manifest("tokens/t", "t", halves, {"max_length": 48}))


def kinds(found):
    return [each.kind for each in found]


def test_ordinary_tokens_are_not_alarming():
    assert [*of_tokens(tokens())] == []
    assert [*of_tokens(tokens(rows=0))] == []


@pytest.mark.parametrize("truncated, alarming", [(100, False), (110, True), (1000, True)])
def test_truncation_is_alarming_above_a_tenth_of_the_examples(truncated, alarming):
    assert kinds(of_tokens(tokens(truncated=truncated))) == ["truncated"] * alarming


def test_truncation_says_how_much_and_what_to_set():
    [told] = of_tokens(tokens(truncated=230))
    assert str(told) == (
        "23.0% of the examples are truncated at 48 tokens. Losses and training see only the "
        "beginning of 230 examples. Raise prompt.max_length."
    )


@pytest.mark.parametrize("labels, alarming", [(5000, False), (4990, True), (0, True)])
def test_labels_are_alarming_below_a_twentieth_of_the_tokens(labels, alarming):
    assert kinds(of_tokens(tokens(label_tokens=labels))) == ["labels"] * alarming


def test_few_labels_say_their_share():
    [told] = of_tokens(tokens(label_tokens=3200))  # of 100,000
    assert told.headline == "Only 3.20% of the tokens are labels"
    assert "s2l-ray inspect" in told.advice


@pytest.mark.parametrize("trainable, alarming", [(960, False), (950, True)])
def test_examples_without_a_response_are_alarming_from_a_twentieth_on(trainable, alarming):
    found = of_tokens(tokens(trainable=trainable))
    assert kinds(found) == ["unlabelled"] * alarming


@pytest.mark.parametrize("rejected, alarming", [(54, False), (55, True)])
def test_rejected_rows_are_alarming_from_a_twentieth_on(rejected, alarming):
    corpus = CorpusView(Manifest("corpus/c", "c", [], {"rows_read": 1100, "rejected": rejected}))
    assert kinds(of_corpus(corpus)) == ["rejected"] * alarming


def losses(*table, vocabulary=None, **changes):
    """The alarms of a table of losses, one list per example."""
    losses_NT = np.array(table, np.float64)
    steps = [10 * (t + 1) for t in range(losses_NT.shape[1])]
    config = settings("run", **changes)
    means_T, medians_T = losses_NT.mean(axis=0), np.median(losses_NT, axis=0)
    return [*of_losses(config, steps, means_T, medians_T, vocabulary)]


def test_losses_that_fall_are_not_alarming():
    assert losses([3, 2], [2, 1], [1, 0.5], vocabulary=320) == []
    assert losses([3, 9, 2], [2, 9, 1]) == []  # what lies between does not matter


def test_a_mean_above_that_of_the_first_checkpoint_is_divergence_though_the_median_falls():
    [told] = losses([1, 0.9], [1, 0.9], [1, 1.5])  # means 1 and 1.1
    assert str(told) == (
        "The proxy diverged: its mean loss rose from 1.00 at the first checkpoint to 1.10 at the "
        "last. Lower proxy.learning_rate (0.01)."
    )


def test_losses_of_one_checkpoint_tell_only_whether_it_is_worse_than_guessing():
    assert losses([3], [2], vocabulary=320) == []
    assert kinds(losses([6], [6], vocabulary=320)) == ["diverged"]


def test_a_mean_above_that_of_guessing_is_divergence_though_it_falls():
    """ln 320 = 5.768."""
    assert losses([9, 5.76], [8, 5.77], vocabulary=320) == []
    [told] = losses([9, 5.77], [8, 5.78], vocabulary=320)
    assert told.kind == "diverged"
    assert told.headline == (
        "The proxy diverged: its mean loss is 5.78 at the last checkpoint (step 20), above 5.77, "
        "that of guessing among 320 tokens"
    )
    assert losses([9, 5.77], [8, 5.78]) == []  # of how many tokens is unknown


def test_a_mean_that_hardly_rises_calls_for_another_learning_rate_than_one_that_jumps():
    [told] = losses([2.0, 2.0], [2.0, 2.00001])
    assert told.kind == "diverged" and told.advice.startswith("Raise proxy.learning_rate (0.01)")
    assert "rose from 2.000000 at the first checkpoint to 2.000005" in told.headline
    [told] = losses([2.0, 2.1], [2.0, 2.1])
    assert told.advice == "Lower proxy.learning_rate (0.01)."


def test_the_same_losses_again_are_no_divergence_but_nothing_was_learned():
    [told] = losses([0.1, 0.1], [0.2, 0.2], [0.3, 0.3])
    assert told.kind == "unlearned"
    assert told.headline == (
        "The proxy did not learn: its median loss did not fall, from 0.200 at the first checkpoint "
        "to 0.200 at the last"
    )


@pytest.mark.parametrize("last, alarming", [(1.97, True), (1.95, False)])
def test_a_median_must_fall_by_a_fiftieth(last, alarming):
    """The mean falls from 4 to 3 or so in both cases."""
    found = losses([1, 1], [2, last], [9, 6])
    assert kinds(found) == ["unlearned"] * alarming
    if alarming:
        assert "its median loss fell by 1.50%, from 2.00 at the first" in found[0].headline
        assert "Raise proxy.learning_rate (0.01), train longer (proxy.epochs)" in found[0].advice


def test_losses_of_zero_have_nothing_left_to_learn():
    assert losses([0, 0], [0, 0], [3, 1]) == []


def test_advice_names_the_training_that_the_losses_come_from():
    [told] = losses([1, 2], [1, 2], losses={"path": "mine/"})
    assert told.headline.startswith("The training behind losses.path diverged: its mean loss")
    assert "'mine/'" in told.advice and "learning_rate" not in told.advice
    [told] = losses([1, 2], [1, 2], proxy={"model": {"name": "m"}, "checkpoints": ["a/2", "a/1"]})
    assert told.advice == "Look at that training, and at the order of proxy.checkpoints."


@pytest.mark.parametrize(
    "sizes, alarming",
    [
        ([50, 30, 20], False),
        ([51, 29, 20], True),
        ([7], False),
        ([9, 0, 0, 0], True),
        ([25, 75], False),
        ([24, 76], True),  # of two clusters, one always holds half
    ],
)
def test_a_cluster_is_alarming_above_half_of_the_examples(sizes, alarming):
    clusters = ClustersView(Manifest("clusters/c", "c", [], {"sizes": sizes}))
    assert kinds(of_clusters(clusters)) == ["one_cluster"] * alarming


def test_a_large_cluster_is_counted():
    [told] = of_clusters(ClustersView(Manifest("c/c", "c", [], {"sizes": [600, 250, 150]})))
    assert told.headline == "One cluster of 3 holds 60.0% of the examples"


@pytest.mark.parametrize(
    "chosen, ratio",
    [(150, None), (151, "1.51"), (67, None), (66, "0.660")],  # tokens of an example; 100 elsewhere
)
def test_lengths_are_alarming_beyond_a_factor_of_one_and_a_half(chosen, ratio):
    info = {"examples": 10, "tokens": 10 * chosen}
    found = [*of_selection(SelectionView(Manifest("s/s", "s", [], info)), tokens())]
    assert kinds(found) == ["lengths"] * (ratio is not None)
    if ratio is not None:
        assert f"{chosen} tokens on average" in found[0].headline.replace(".0", "")
        assert f"takes {ratio} times the tokens" in found[0].advice
