"""Evaluation of targets: response loss on held-out examples, exact match, and text metrics."""

from s2l_ray.evaluation.answers import RULE
from s2l_ray.evaluation.asking import Asking, asking_of
from s2l_ray.evaluation.exact_match import (
    Answering,
    answer,
    answer_sets,
    counts,
    influences_of_answers,
    told_room,
)
from s2l_ray.evaluation.halves import half_of
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
from s2l_ray.evaluation.programs import PROGRAMS
from s2l_ray.evaluation.sandbox import check_sandbox
from s2l_ray.evaluation.texts import TEXTS, TextMetrics, text_scores, text_sets

__all__ = [
    "PROGRAMS",
    "RULE",
    "TEXTS",
    "Answering",
    "Asking",
    "TextMetrics",
    "answer",
    "answer_sets",
    "asking_of",
    "by_file",
    "check_marker",
    "check_sandbox",
    "counts",
    "half_of",
    "heldout_examples",
    "influences",
    "influences_of_answers",
    "judge",
    "notes",
    "nothing_left",
    "read_losses",
    "summarise",
    "summarise_answers",
    "text_scores",
    "text_sets",
    "told_room",
]
