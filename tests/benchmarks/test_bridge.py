"""The corpus of bridge.py, worked out again from the rows that it is made of."""

import json
from collections import Counter

import pytest

from benchmarks import bridge
from benchmarks.bridge import HELDOUT, OPENINGS


@pytest.fixture(scope="module")
def groups():
    """Five patterns of 900, 800, … rows, and one of too few. An output tells its pattern."""
    lines = [
        json.dumps({"instruction": f"{place} of {topic}?", "output": f"{topic}-{place}",
                    "source": "ab"[topic % 2], "topic": str(topic)})
        for topic, size in enumerate([700, 900, 500, 800, 600, 299])
        for place in range(size)
    ]  # fmt: skip
    return bridge.patterns_of(lines)


def test_sizes_follow_zipf(groups):
    assert bridge.zipf(3, 110) == [60, 30, 20]
    study = bridge.generate(groups, 1000)
    counts = Counter(row["pattern"] for row in study.corpus)
    # 1000 / (1 + 1/2 + 1/3 + 1/4 + 1/5) = 437.96; "a/5" has too few rows to hold 100 out.
    assert counts == {"b/1": 438, "b/3": 219, "a/0": 146, "a/4": 109, "a/2": 88}
    assert list(study.large) == ["b/1", "b/3", "a/0"] and list(study.small) == ["a/4", "a/2"]
    assert {row["source"] for row in study.corpus} == {"a", "b"}


def test_the_rows_of_large_patterns_stand_there_five_times(groups):
    study = bridge.generate(groups, 1000)
    asked = Counter(row["output"] for row in study.corpus)
    for pattern, size in (("b/1", 438), ("b/3", 219), ("a/4", 109)):
        rows = [row for row in study.corpus if row["pattern"] == pattern]
        times = Counter(asked[row["output"]] for row in rows)
        assert set(times) <= ({5, size % 5} if pattern in study.large else {1})
    openings = {row["instruction"].partition("0 of 1?")[0] for row in study.corpus
                if row["instruction"].endswith(" 0 of 1?")}  # fmt: skip
    assert openings <= set(OPENINGS)
    assert len({row["instruction"] for row in study.corpus}) == len(study.corpus)


def test_held_out_rows_are_of_every_pattern_and_in_no_other_form_in_the_corpus(groups):
    study = bridge.generate(groups, 1000, wrong_share=0.2)
    assert Counter(row["source"] for row in study.heldout) == dict.fromkeys(
        [*study.large, *study.small], HELDOUT
    )
    hidden = {row["output"] for row in study.heldout}
    assert not any(row["wrong"] for row in study.heldout)
    assert hidden.isdisjoint(row["output"] for row in study.corpus)


def test_wrong_answers_are_those_of_the_same_pattern(groups):
    study = bridge.generate(groups, 1000, wrong_share=0.2)
    wrong = [row for row in study.corpus if row["wrong"]]
    # A fifth of each, less those that got the answer of their own near-duplicate.
    assert 185 <= len(wrong) <= 200
    for row in study.corpus:
        place, _, topic = row["instruction"].rstrip("?").rpartition(" of ")
        right = f"{topic}-{place.split()[-1]}"
        assert row["output"].startswith(f"{topic}-")
        assert (row["output"] != right) == row["wrong"]


def test_the_rows_depend_on_the_arguments_alone(groups):
    assert bridge.generate(groups, 900, seed=1) == bridge.generate(groups, 900, seed=1)
    assert bridge.generate(groups, 900, seed=1) != bridge.generate(groups, 900, seed=2)
    with pytest.raises(ValueError, match="lower --examples"):
        bridge.generate(groups, 60_000)
