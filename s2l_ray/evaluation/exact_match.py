"""Exact match: targets answer questions by greedy generation, and the answers are judged.

The restart unit is one part of the questions under one target.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.analysis.examples import in_groups, of_mean_over_tokens
from s2l_ray.config import CorpusConfig, EvaluationConfig, PromptConfig, TrajectoriesConfig
from s2l_ray.evaluation.asking import Asking, few_shot_rows, read_questions
from s2l_ray.evaluation.leaks import without_corpus
from s2l_ray.evaluation.texts import TextMetrics
from s2l_ray.execution.parts import Actors, StageParts, map_stages
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import AnswersView

PARTS = 32  # of a set of questions, to spread over actors; minutes each on a CPU


@dataclass(frozen=True)
class Answering:
    """A stage of answers to make: of one target to one set of questions.

    model: a folder in Hugging Face format, below the run directory (or an absolute local path).
    made_of: checksum of that folder's files. Parts of an earlier run that were made with other
    files are made again; None keeps them. at_most: how many questions to ask, in the order of their
    ids. Ids are hashes, so these are a random sample.
    """

    questions: Manifest
    model: str
    folder: str
    fingerprint: str
    made_of: str | None = None
    at_most: int | None = None

    def stage(self) -> StageParts:
        units: list[dict[str, Any]] = []
        left = self.questions.rows if self.at_most is None else self.at_most
        for part in self.questions.parts:  # in the order of ids
            if left > 0:
                units.append(
                    {
                        "unit": part.unit,
                        "questions": self.questions.folder,
                        "part": part,
                        "rows": min(left, part.rows),
                        "model": self.model,
                        "made_of": self.made_of,
                    }
                )
                left -= part.rows
        return StageParts(self.folder, self.fingerprint, units, {"of": self.questions.rows})


def answer_sets(
    store: Store, examples: Manifest, config: EvaluationConfig, like: CorpusConfig
) -> dict[str, Manifest]:
    """Read each set of questions, by name, as examples: the user asks, and the assistant's turn is
    the expected answer.

    Leaves out questions that the corpus `examples` or evaluation.few_shot asks too (leaks.py).
    like: the settings that the corpus was read with; the sets leave out the same keys. ValueError
    names the file and row of a bad one.
    """
    if config.answers and importlib.util.find_spec("math_verify") is None:
        raise ValueError(
            "evaluation.answers: math-verify is not installed; install the extra 'answers'"
        )
    found = {
        name: read_questions(store, config, name, path, like, f"answers: {name}", PARTS)
        for name, path in config.answers.items()
    }
    shots = few_shot_rows(store, config, like) if found else []
    return without_corpus(store, examples, found, "answers", shots)


def answer(
    store: Store,
    answerings: list[Answering],
    config: TrajectoriesConfig,
    *,
    tokenizer_folder: str,
    prompt: PromptConfig,
    max_new_tokens: int,
    setting: str,
    how: Asking | TextMetrics,
) -> list[Manifest]:
    """Make stages of answers, or of texts, with one actor pool; return their manifests in order.

    Parts have the names of the questions' parts, and the schema ANSWERS, or TEXTS with TextMetrics.
    setting: the config field of the workers, for messages.
    """
    stages = [answering.stage() for answering in answerings]
    return map_stages(
        store,
        stages,
        _make_answerer,
        (how, store, config, tokenizer_folder, prompt, max_new_tokens),
        label="answer",
        actors=Actors(config.workers, config.max_workers, setting=setting),
    )


def counts(answers: Manifest) -> dict[str, int]:
    """Count answers: correct, no_answer (no answer found in the generated text), questions (asked),
    of (questions in the set), and programs_NAME for each way that programs failed."""
    view, failed = AnswersView(answers), Counter[str]()
    for part in view.programs_failed_by_part:
        failed.update(part)
    return {
        "correct": view.correct,
        "no_answer": view.no_answer,
        "questions": answers.rows,
        "of": view.of,
    } | {f"programs_{why}": count for why, count in sorted(failed.items())}


def told_room(generated: Manifest, name: str) -> str | None:
    """Say how many texts of a stage of answers or texts are cut, because a prompt leaves too few of
    the model's positions; None if none is. ValueError if no prompt leaves any."""
    view, rows = AnswersView(generated), generated.rows
    if not view.cut:
        return None
    if view.without_room == rows:
        raise ValueError(
            f"evaluation: {name}: each of {rows:,} prompts takes all positions of the model, which "
            "leaves none for an answer; lower evaluation.few_shot_examples, or take a model with "
            "more"
        )
    return (
        f"evaluation: {name}: {view.cut:,} of {rows:,} prompts leave fewer tokens than "
        f"evaluation.max_new_tokens, since the model's positions end; {view.without_room:,} of "
        "them leave none, so their answer is empty"
    )


def influences_of_answers(store: Store, answers: Manifest, column: str = "correct") -> list[float]:
    """Return how groups of questions influence the mean of a column, such as the share of correct
    answers (analysis.examples)."""
    parts = [
        store.read_part(answers.folder, part, ["example_id", column]) for part in answers.parts
    ]
    table = pa.concat_tables(parts).sort_by("example_id")
    values = table[column].to_numpy().astype(float)
    return in_groups(of_mean_over_tokens(values, np.ones(len(values))), np.arange(len(values)))


def _make_answerer(how: Asking | TextMetrics, *args: Any) -> Any:
    # Only actors import it: the driver starts without torch and models.
    from s2l_ray.evaluation.generation import Answerer, Writer

    return Answerer(how, *args) if isinstance(how, Asking) else Writer(how, *args)
