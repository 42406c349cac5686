"""The measures in records, the primary one, and what records of old versions give."""

import math

import pytest

from s2l_ray.analysis.measures import (
    check_primary,
    error_over_examples,
    influences_of,
    metrics_of,
    value_of,
)
from s2l_ray.config import EvaluationConfig

OLD = {
    "loss": 2.0, "macro": 3.0, "by_source": {"a": 1.0, "b": 2.0, "c": 6.0},
    "examples_by_source": {"a": 100, "b": 300, "c": 11},
}  # fmt: skip
SETS = {
    "sums": {"correct": 10, "questions": 40, "no_answer": 1, "of": 40},
    "words": {"correct": 3, "questions": 4, "no_answer": 0, "of": 9},
}


def primary(record, named=None):
    return metrics_of([record], named)[0].key


def test_the_primary_measure_is_the_first_that_there_is():
    small = OLD | {"examples_by_source": {"a": 99, "b": 300, "c": 11}}
    assert primary(small) == "loss"  # one large source is no mean
    assert primary(OLD) == "macro_100"
    files = OLD | {"by_file": {"exam": 1.0, "quiz": 2.0}}
    assert primary(files) == "files"
    assert primary(OLD | {"by_file": {"exam": 1.0}}) == "files/exam"
    assert primary(files | {"exact_match": SETS}) == "exact_match"
    assert primary(files | {"exact_match": {"sums": SETS["sums"]}}) == "exact_match/sums"


def test_the_primary_measure_by_its_name():
    record = OLD | {"exact_match": SETS}
    for name in ("loss", "macro", "macro_100", "by_source/c", "exact_match/words"):
        assert primary(record, name) == name
    assert primary(OLD | {"by_file": {"exam": 1.0}}, "files") == "files/exam"
    assert primary(record, "files") == "exact_match"  # not measured: as without a name


def test_values_by_hand():
    record = OLD | {"exact_match": SETS, "by_file": {"exam": 1.0, "quiz": 2.0}}
    values = {metric.key: value_of(record, metric.key) for metric in metrics_of([record])}
    assert values == {
        "exact_match": (0.25 + 0.75) / 2, "exact_match/sums": 0.25, "exact_match/words": 0.75,
        "files": 1.5, "files/exam": 1.0, "files/quiz": 2.0, "loss": 2.0, "macro": 3.0,
        "macro_100": 1.5, "by_source/a": 1.0, "by_source/b": 2.0, "by_source/c": 6.0,
    }  # fmt: skip
    by_key = {metric.key: metric for metric in metrics_of([record])}
    assert not by_key["exact_match"].lower_is_better and by_key["files"].lower_is_better
    assert [by_key[f"by_source/{name}"].is_large for name in "abc"] == [True, True, False]
    assert math.isnan(value_of(OLD, "answer_loss"))


def test_sets_of_questions_are_independent():
    """The mean of two sets: groups hold half of each set's influence, the shorter one's first."""
    influences = {"exact_match/sums": [0.1, -0.1, 0.0], "exact_match/words": [0.2, -0.2]}
    record = OLD | {"exact_match": SETS, "influences": influences}
    assert influences_of(record, "exact_match") == pytest.approx([0.15, -0.15, 0.0])
    assert influences_of(record, "exact_match/words") == [0.2, -0.2]
    one_lacks = record | {"influences": {"exact_match/sums": [0.1, -0.1]}}
    assert influences_of(one_lacks, "exact_match") is None
    assert influences_of(OLD, "loss") is None


def test_the_error_of_a_difference_of_two_records():
    mine = OLD | {"influences": {"loss": [0.2, -0.2]}}
    other = OLD | {"influences": {"loss": [0.1, -0.1]}}
    assert error_over_examples(mine, other, "loss") == pytest.approx(math.sqrt(2 * 0.02))
    assert error_over_examples(mine, OLD, "loss") is None
    assert error_over_examples(mine, other, "macro") is None


def test_a_primary_measure_that_targets_will_not_have_is_refused():
    plain, counts = EvaluationConfig(), {"a": 100, "b": 300, "c": 11}
    for name in ("loss", "macro", "macro_100", "by_source/c"):
        check_primary(name, counts, plain)
    check_primary("by_source/x", None, plain)  # files have sources that are not known yet
    rich = EvaluationConfig(
        files={"exam": "e.jsonl"},
        answers={"sums": "s.jsonl"},
        texts={"notes": "n.jsonl"},
        answer_marker="So:",
    )
    named = ("files", "files/exam", "exact_match", "exact_match/sums", "answer_loss")
    for name in (*named, "texts/notes/bleu", "texts/notes/rouge_l"):
        check_primary(name, None, rich)
        with pytest.raises(ValueError, match=rf"compare.primary: found '{name}', expected a meas"):
            check_primary(name, counts, plain)
    with pytest.raises(ValueError, match=r"loss, macro, by_source/a, by_source/b$"):
        check_primary("macro_100", {"a": 99, "b": 300}, plain)
    with pytest.raises(ValueError, match="found 'texts/notes/bert_score'"):
        check_primary("texts/notes/bert_score", None, rich)  # without a model
    with pytest.raises(ValueError, match="found 'by_source/x'"):
        check_primary("by_source/x", counts, plain)
