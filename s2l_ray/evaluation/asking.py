"""How a question is put to a target: what follows it, and the answered examples before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from s2l_ray.config import CorpusConfig, EvaluationConfig
from s2l_ray.corpus.ingest import ingest_once
from s2l_ray.corpus.rows import Example, Turn
from s2l_ray.corpus.sources import split_of_path
from s2l_ray.errors import Damaged
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import EXAMPLES, completed

# Chain of thought: Kojima et al. 2022. Program of thought: as MAmmoTH's evaluation asks.
SUFFIXES = {
    "text": "",
    "chain": " Let's think step by step.",
    "program": " Let's write a program.",
    "program_or_text": " Let's write a program.",
}
QUESTION_COLUMNS = {"instruction": "question", "output": "answer"}


class Asking(NamedTuple):
    """evaluation.answer_with, and the examples of evaluation.few_shot: questions and answers."""

    answer_with: str = "text"
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def runs_programs(self) -> bool:
        return self.answer_with.startswith("program")

    @property
    def again(self) -> Asking | None:
        """How to ask again if there is no answer: plainly, since the examples are programs."""
        return Asking() if self.answer_with == "program_or_text" else None

    def put(self, question: Example) -> Example:
        """Return the question as the last of a conversation, whose earlier answers have no label.

        The text of its first turn gets the suffix.
        """
        first, *rest = question.turns
        asked: Turn = {**first, "text": first["text"] + SUFFIXES[self.answer_with]}
        before: list[Turn] = []
        for text, answer in self.examples:
            before += [
                {"role": "user", "text": text + SUFFIXES[self.answer_with]},
                {"role": "assistant", "text": answer, "train": False},
            ]
        return Example([*before, asked, *rest], question.tools)


def asking_of(store: Store, config: EvaluationConfig, like: CorpusConfig) -> Asking:
    """Return how evaluation.answers are asked. ValueError as of few_shot_rows."""
    rows = few_shot_rows(store, config, like)
    texts: list[Sequence[str]] = [[turn["text"] for turn in row["turns"]] for row in rows]
    return Asking(config.answer_with, tuple((text, answer) for text, answer in texts))


def few_shot_rows(
    store: Store, config: EvaluationConfig, like: CorpusConfig
) -> list[dict[str, Any]]:
    """Read the rows of evaluation.few_shot that are shown, in file order. ValueError if there are
    too few."""
    if config.few_shot is None:
        return []
    found = read_questions(store, config, "few_shot", config.few_shot, like, "few_shot")
    rows: list[dict[str, Any]] = []
    for part in found.parts:
        rows += completed(store.read_part(found.folder, part), EXAMPLES).to_pylist()
    rows.sort(key=lambda row: (row["file"], row["row"]))
    wanted = config.few_shot_examples or len(rows)
    if wanted > len(rows):
        raise ValueError(
            f"evaluation.few_shot_examples: expected at most {len(rows)}, the rows of "
            f"{config.few_shot}, got {wanted}"
        )
    return rows[:wanted]


def read_questions(
    store: Store,
    config: EvaluationConfig,
    name: str,
    path: str,
    like: CorpusConfig,
    field: str,
    num_parts: int = 1,
) -> Manifest:
    """Read a file with the columns question and answer, as examples of two turns.

    ValueError names the field evaluation.FIELD, and the file and row of a bad one.
    """
    settings = CorpusConfig(
        path=path,
        split=config.split or split_of_path(path, "test"),
        columns=dict(QUESTION_COLUMNS),
        ignore_keys=like.ignore_keys,
        source=name,
        duplicates="number",  # a question asked twice counts twice
        max_rejected_share=0,
        num_parts=num_parts,
    )
    try:
        return ingest_once(store, settings, f"evaluations/corpora/{name}")
    except Damaged:  # of the run directory: it is mended
        raise
    except ValueError as error:
        raise ValueError(f"evaluation.{field}: {error}") from error
