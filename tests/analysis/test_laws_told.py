"""Laws in words, from laws by hand."""

import numpy as np
import pytest

from s2l_ray.analysis.laws import Bins, Law, tally
from s2l_ray.analysis.laws_told import alike_told, headline, sentences, table


def law(subset, corpus=None, **changes):
    corpus = corpus or [1 / len(subset)] * len(subset)
    known = {"examples": 1000, "chosen": 100.0, "reach": 1.0, "effective": 40.0}
    bins = {"loss": corpus, "length": [0.5, 0.5], "source": [1.0]}
    mine = {"loss": subset, "length": [0.25, 0.75], "source": [1.0]}
    return Law(**known | changes, corpus=bins, subset=mine)


@pytest.mark.parametrize(
    ("most", "place"),
    [(9, "highest"), (8, "second highest"), (5, "fifth highest"), (4, "fifth lowest"),
     (1, "second lowest"), (0, "lowest")],
)  # fmt: skip
def test_a_headline_names_where_more_is_chosen(most, place):
    shares = [0.59 / 9] * 10
    shares[most] = 0.41
    assert headline(law(shares)) == (
        f"41.0% of the subset comes from the tenth of examples with the {place} loss (total "
        f"variation from uniform 0.31)"
    )


def test_headlines_without_a_difference_and_without_tenths():
    even = law([0.11, 0.09] + [0.1] * 8)
    assert headline(even) == (
        "The subset’s losses are spread like the corpus’s (total variation from uniform 0.01)"
    )
    # More than its share, not the largest share: equal losses filled the first bin.
    found = law([0.5, 0.5], [0.8, 0.2])
    assert headline(found).startswith("50.0% of the subset comes from the 20.0% of examples with")


def test_sentences_on_the_subset_as_a_sample():
    assert sentences(law([0.5, 0.5])) == [
        "To estimate a mean over the corpus, the 100 chosen ones are worth 40 uniformly drawn ones "
        "(Kish’s effective sample size).",
        "The total variation of their lengths from the corpus’s is 0.25.",
    ]
    reach, worth, _ = sentences(law([0.5, 0.5], reach=0.6))
    assert reach == "60.0% of the examples can be chosen, the others cannot."
    assert worth.startswith("To estimate a mean over these, the 100 chosen ones are worth 40")
    # A ranking reaches what it chooses, and is no sample of it.
    assert len(sentences(law([0.5, 0.5], reach=0.1))) == 2


def test_a_table_with_the_distance_from_random():
    bins = {name: Bins(np.array([0, 0, 1, 1]), 2) for name in ("loss", "length", "source")}
    found = tally(np.array([[0.5] * 4, [0.25, 0.25, 0.5, 1.0], [1.0, 0, 0, 1.0]]), bins)
    head, random, s2l, rank = (line.split() for line in table(["random", "s2l", "longest"], found))
    assert head[-2:] == ["from", "random"]
    assert random == ["random", "50.0%", "0.00", "0.00", "0.00", "2", "100%", "0%"]
    # 1.5 of 2 from the upper half; 16 / (4 + 4 + 2 + 1); min: .25 .25 .5 .5.
    assert s2l == ["s2l", "75.0%", "0.25", "0.25", "0.25", "1", "100%", "25.0%"]
    assert rank == ["longest", "50.0%", "0.00", "0.00", "0.00", "2", "50.0%", "50.0%"]
    assert not table(["s2l"], tally(np.array([[0.5] * 4]), bins))[0].endswith("random")


def test_pairs_that_differ_like_draws():
    bins = {"loss": Bins(np.arange(100) % 10, 10)}
    found = tally(np.array([[0.2] * 100, [0.2] * 100, [0.0, 0.4] * 50]), bins)
    names = ["random", "strata", "odd"]
    assert alike_told(names, found) == [
        "The subsets of random and strata differ by no more than draws do, by loss, length and "
        "source: a difference between their targets is unlikely to show with 6 seeds."
    ]
    assert alike_told(names, found, lambda one, other: {(0, 1): 0.09}[one, other]) == [
        "The subsets of random and strata differ in 9.00% of their examples, two draws of one of "
        "them in 80.0%. They differ by no more than draws do, by loss, length and source: a "
        "difference between their targets is unlikely to show with 6 seeds."
    ]
