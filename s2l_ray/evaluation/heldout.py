"""Response loss on examples that no training has seen: of whole responses, of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.config import CorpusConfig, EvaluationConfig
from s2l_ray.corpus.ingest import ingest_once
from s2l_ray.errors import Damaged
from s2l_ray.evaluation.leaks import without_corpus
from s2l_ray.store import Manifest, Store

NOTHING = "nothing to evaluate on: set corpus.heldout_share (0.05, say) or evaluation.files"


def heldout_examples(
    store: Store, examples: Manifest, config: EvaluationConfig, like: CorpusConfig
) -> dict[str, Manifest]:
    """The held-out share of the corpus under "heldout", and each evaluation file by its name,
    without what is in the corpus too (leaks.py). like: what the corpus was read with; its columns,
    but for the source's name, are those of the files too. Rows without a source have the file's
    name, or NAME (file) where the corpus has a source of that name."""
    found, files = {}, {}
    heldout = store.manifest(f"{examples.folder}/heldout")
    if heldout is None and examples.info.get("heldout"):
        missing = store.address(examples.folder, "heldout", "manifest.json")
        raise Damaged(f"{missing}: missing", examples.folder)
    if heldout is not None and heldout.rows:
        found["heldout"] = heldout
    columns = {
        ours: theirs for ours, theirs in like.columns.items() if ours != "source" or theirs is None
    }
    taken = examples.info["by_source"].keys() | examples.info.get("heldout_by_source", {}).keys()
    for name, path in config.files.items():
        settings = CorpusConfig(
            path=path,
            split=config.split,
            columns=columns,
            source=f"{name} (file)" if name in taken else name,  # of rows that name none
            duplicates="number",
        )
        try:
            files[name] = ingest_once(store, settings, f"evaluations/corpora/{name}")
        except ValueError as error:
            raise ValueError(f"evaluation.files: {name}: {error}") from error
    found |= without_corpus(store, examples, files, "files")
    if not found:
        raise ValueError(NOTHING)
    return found


def check_marker(store: Store, heldout: dict[str, Manifest], marker: str) -> None:
    """ValueError if no response that is evaluated on has the marker."""
    for examples in heldout.values():
        for part in examples.parts:
            for turns in store.read_part(examples.folder, part, ["turns"])["turns"].to_pylist():
                responses = [turn["text"] for turn in turns if turn["role"] == "assistant"]
                if responses and marker in responses[-1]:
                    return
    count = sum(examples.rows for examples in heldout.values())
    raise ValueError(f"evaluation.answer_marker: none of {count:,} responses has {marker!r} in it")


def nothing_left(examples: int = 0, marker: str | None = None) -> ValueError:
    """No held-out example has a label token; or none of so many has one after the marker."""
    if marker is None:
        return ValueError(
            "prompt.max_length: no held-out example has a response token left after the cut"
        )
    return ValueError(
        f"evaluation.answer_marker: {marker!r} stands before a label token in none of "
        f"{examples:,} held-out responses (as far as prompt.max_length leaves them)"
    )


# (held-out examples, their losses) of each set of them.
Scores = Sequence[tuple[Manifest, Manifest]]


class HeldOutLosses(NamedTuple):
    """Of N held-out examples, by set and id: the loss summed over label tokens, and how many."""

    example_id: np.ndarray
    source: np.ndarray
    total: np.ndarray
    labels: np.ndarray

    def by_source(self) -> dict[str, np.ndarray]:
        """The places of the examples of each source, by name."""
        return {
            source: np.flatnonzero(self.source == source) for source in sorted(set(self.source))
        }


def read_losses(store: Store, scores: Scores) -> HeldOutLosses:
    found = []
    for examples, losses in scores:
        tables, by_unit = [], {part.unit: part for part in examples.parts}
        for part in losses.parts:
            table = store.read_part(losses.folder, part)
            texts = store.read_part(
                examples.folder, by_unit[part.unit.split("/", 1)[1]], ["example_id", "source"]
            )
            at = pc.index_in(table["example_id"], value_set=texts["example_id"])
            tables.append(table.append_column("source", texts["source"].take(at)))
        table = pa.concat_tables(tables).sort_by("example_id")
        labels = table["num_label_tokens"].to_numpy().astype(np.float64)
        total = table["loss"].to_numpy() * labels
        found.append((table["example_id"].to_numpy(), table["source"].to_numpy(), total, labels))
    return HeldOutLosses(*(np.concatenate(each) for each in zip(*found, strict=True)))


def summarise(losses: HeldOutLosses) -> dict[str, Any]:
    """Mean response loss, nats per label token: "loss" over all, "by_source" apart, "macro" the
    mean of these; "examples_by_source" counts those that have a loss."""
    total, labels = losses.total, losses.labels
    if not len(total):
        raise nothing_left()
    rows = losses.by_source()
    by_source = {
        source: float(total[mine].sum() / labels[mine].sum()) for source, mine in rows.items()
    }
    return {
        "loss": float(total.sum() / labels.sum()),
        "macro": sum(by_source.values()) / len(by_source),
        "label_tokens": int(labels.sum()),
        "by_source": by_source,
        "examples_by_source": {source: len(mine) for source, mine in rows.items()},
    }


def errors_over_examples(mine: HeldOutLosses, others: HeldOutLosses) -> dict[str, float | None]:
    """Standard errors of the differences of two targets' "loss" and "macro" (see `summarise`) over
    the held-out examples, were these drawn anew from the like (for macro as many of each source).

    Of a mean over tokens by linearisation (Cochran 1977, Sampling Techniques). None for fewer than
    two examples, or of a source.
    """
    assert np.array_equal(mine.example_id, others.example_id)
    less = mine.total - others.total

    def error(rows: np.ndarray | slice) -> float | None:
        labels = mine.labels[rows]
        count = len(labels)
        if count < 2:
            return None
        residual = less[rows] - labels * (less[rows].sum() / labels.sum())
        return float(np.sqrt(count / (count - 1) * (residual**2).sum()) / labels.sum())

    apart = [error(rows) for rows in mine.by_source().values()]
    known = [each for each in apart if each is not None]
    macro = float(np.sqrt(np.square(known).sum())) / len(apart) if known == apart else None
    return {"loss": error(slice(None)), "macro": macro}


def summarise_answers(store: Store, scores: Scores, marker: str) -> dict[str, Any]:
    """As `summarise`, of the label tokens after the marker: answer_loss, answer_macro,
    answer_by_source, answer_label_tokens; answer_left_out counts the examples without any.

    scores: (held-out examples, their losses after the marker).
    """
    examples, scored = (sum(each[i].rows for each in scores) for i in (0, 1))
    if not scored:
        raise nothing_left(examples, marker)
    found = summarise(read_losses(store, scores))
    return {
        "answer_loss": found["loss"],
        "answer_macro": found["macro"],
        "answer_label_tokens": found["label_tokens"],
        "answer_by_source": found["by_source"],
        "answer_left_out": examples - scored,
    }
