"""Evaluation of targets: response loss on held-out examples, and exact match of answers."""

from s2l_ray.evaluation.answers import RULE
from s2l_ray.evaluation.exact_match import Answering, answer, answer_sets, counts
from s2l_ray.evaluation.heldout import (
    check_marker,
    errors_over_examples,
    heldout_examples,
    nothing_left,
    read_losses,
    summarise,
    summarise_answers,
)
from s2l_ray.evaluation.judging import judge
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
