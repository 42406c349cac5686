"""Evaluation of targets: response loss on held-out examples, and exact match of answers."""

from s2l_ray.evaluation.answers import RULE
from s2l_ray.evaluation.exact_match import (
    Answering,
    answer,
    answer_sets,
    counts,
    influences_of_answers,
)
from s2l_ray.evaluation.heldout import (
    by_file,
    check_marker,
    heldout_examples,
    influences,
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
    "by_file",
    "check_marker",
    "counts",
    "heldout_examples",
    "influences",
    "influences_of_answers",
    "judge",
    "notes",
    "nothing_left",
    "read_losses",
    "summarise",
    "summarise_answers",
]
