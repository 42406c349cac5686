"""Evaluation of a target: response loss on examples that no training has seen, and exact match of
what it answers to questions."""

from s2l_ray.evaluation.answers import RULE
from s2l_ray.evaluation.exact_match import Answering, answer, answer_sets, counts, judge
from s2l_ray.evaluation.heldout import (
    check_marker,
    errors_over_examples,
    heldout_examples,
    nothing_left,
    read_losses,
    summarise,
    summarise_answers,
)
from s2l_ray.evaluation.leaks import notes

__all__ = [
    "RULE",
    "Answering",
    "answer",
    "answer_sets",
    "check_marker",
    "counts",
    "errors_over_examples",
    "heldout_examples",
    "judge",
    "notes",
    "nothing_left",
    "read_losses",
    "summarise",
    "summarise_answers",
]
