"""Exact match: a target's answers to questions, by greedy generation, held against the wanted ones.

The restart unit is a part of the questions, under one target.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import ray

from s2l_ray.config import CorpusConfig, EvaluationConfig, PromptConfig, TrajectoriesConfig
from s2l_ray.corpus.ingest import ingest_once
from s2l_ray.evaluation.answers import is_right
from s2l_ray.evaluation.leaks import without_corpus
from s2l_ray.execution.parts import Actors, StageParts, map_stages
from s2l_ray.store import Manifest, Store

PARTS = 32  # of a set of questions: units to spread, each generated in minutes on a CPU


@dataclass(frozen=True)
class Answering:
    """A stage of answers to make: of one target to one set of questions.

    model: a folder in Hugging Face format, below the run directory (or an absolute local path).
    made_of: mark of that folder's files, or None: parts made of others are not taken. at_most: how
    many questions, the first by id; ids are hashes, so that these are a random sample.
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


def answer_sets(store: Store, examples: Manifest, config: EvaluationConfig) -> dict[str, Manifest]:
    """The questions of each set by its name, as examples: the user asks, the assistant's turn is
    the wanted answer. Those asked in the corpus `examples` are left out (leaks.py). ValueError
    names the file and row of a bad one."""
    if config.answers and importlib.util.find_spec("math_verify") is None:
        raise ValueError("evaluation.answers: needs the package's extra 'answers' (math-verify)")
    found = {}
    for name, path in config.answers.items():
        settings = CorpusConfig(
            path=path,
            split=config.split,
            columns={"instruction": "question", "output": "answer"},
            source=name,
            duplicates="number",  # a question asked twice counts twice
            max_rejected_share=0,
            num_parts=PARTS,
        )
        try:
            found[name] = ingest_once(store, settings, f"evaluations/corpora/{name}")
        except ValueError as error:
            raise ValueError(f"evaluation.answers: {name}: {error}") from error
    return without_corpus(store, examples, found, "answers")


def answer(
    store: Store,
    answerings: list[Answering],
    config: TrajectoriesConfig,
    *,
    tokenizer_folder: str,
    prompt: PromptConfig,
    max_new_tokens: int,
) -> list[Manifest]:
    """Make stages of answers with one actor pool; their manifests in order.

    Parts as those of the questions, schema `store.ANSWERS`.
    """
    stages = [answering.stage() for answering in answerings]
    return map_stages(
        store,
        stages,
        _make_answerer,
        (store, config, tokenizer_folder, prompt, max_new_tokens),
        label="answer",
        actors=Actors(config.workers, config.max_workers, setting="trajectories.workers"),
    )


@ray.remote(num_cpus=0)
def judge(found: list[str | None], wanted: list[str]) -> list[bool]:
    """Which extracted answers are right (None is not). A task of its own, because it runs in the
    main thread of a process: the time limits of math-verify need that, and a unit's work runs in
    another thread of its actor."""
    return [
        mine is not None and is_right(mine, theirs)
        for mine, theirs in zip(found, wanted, strict=True)
    ]


def counts(answers: Manifest) -> dict[str, int]:
    """Of a stage of answers: correct, no_answer (none found in what was generated), questions
    (asked), of (in the set)."""
    stats = [part.stats for part in answers.parts]
    return {
        "correct": sum(each["correct"] for each in stats),
        "no_answer": sum(each["no_answer"] for each in stats),
        "questions": answers.rows,
        "of": answers.info["of"],
    }


def _make_answerer(*args: Any) -> Any:
    # Imported by the actors alone: the driver starts without torch and models.
    from s2l_ray.evaluation.generation import Answerer

    return Answerer(*args)
