"""Response loss on examples that no training has seen: of whole responses, of their answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from s2l_ray import corpus
from s2l_ray.config import CorpusConfig, EvaluationConfig
from s2l_ray.evaluation.leaks import without_corpus
from s2l_ray.store import Damaged, Manifest, Store

NOTHING = "nothing to evaluate on: set corpus.heldout_share (0.05, say) or evaluation.files"


def heldout_examples(
    store: Store, examples: Manifest, config: EvaluationConfig, like: CorpusConfig
) -> dict[str, Manifest]:
    """The held-out share of the corpus under "heldout", and each evaluation file by its name,
    without what is in the corpus too (leaks.py). like: what the corpus was read with; its columns,
    but for the source, are those of the files too. Rows without a source have the file's name, or
    NAME (file) where the corpus has a source of that name."""
    found, files = {}, {}
    if "heldout" in config.files:
        raise ValueError("evaluation.files: the name 'heldout' is that of corpus.heldout_share")
    heldout = store.manifest(f"{examples.folder}/heldout")
    if heldout is None and examples.info.get("heldout"):
        missing = store.address(examples.folder, "heldout", "manifest.json")
        raise Damaged(f"{missing}: missing", examples.folder)
    if heldout is not None and heldout.rows:
        found["heldout"] = heldout
    columns = {ours: theirs for ours, theirs in like.columns.items() if ours != "source"}
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
            files[name] = corpus.ingest_once(store, settings, f"evaluations/corpora/{name}")
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


def summarise(store: Store, scores: list[tuple[Manifest, Manifest]]) -> dict[str, Any]:
    """Mean response loss, nats per label token: "loss" over all, "by_source" apart, "macro" the
    mean of these.

    scores: (held-out examples, their losses).
    """
    sums: dict[str, list[float]] = {}
    for examples, losses in scores:
        by_unit = {part.unit: part for part in examples.parts}
        for part in losses.parts:
            table = store.read_part(losses.folder, part)
            texts = store.read_part(
                examples.folder, by_unit[part.unit.split("/", 1)[1]], ["example_id", "source"]
            )
            at = pc.index_in(table["example_id"], value_set=texts["example_id"])
            sources = texts["source"].take(at).to_numpy()
            labels = table["num_label_tokens"].to_numpy().astype(np.float64)
            total = table["loss"].to_numpy() * labels
            for source in np.unique(sources):
                mine = sources == source
                entry = sums.setdefault(str(source), [0.0, 0.0])
                entry[0] += float(total[mine].sum())
                entry[1] += float(labels[mine].sum())
    if not sums:
        raise ValueError(
            "prompt.max_length: no held-out example has a response token left after the cut"
        )
    loss, tokens = (sum(entry[i] for entry in sums.values()) for i in (0, 1))
    by_source = {source: total / count for source, (total, count) in sorted(sums.items())}
    return {
        "loss": loss / tokens,
        "macro": sum(by_source.values()) / len(by_source),
        "label_tokens": int(tokens),
        "by_source": by_source,
    }


def summarise_answers(
    store: Store, scores: list[tuple[Manifest, Manifest]], marker: str
) -> dict[str, Any]:
    """As `summarise`, of the label tokens after the marker: answer_loss, answer_macro,
    answer_by_source, answer_label_tokens; answer_left_out counts the examples without any.

    scores: (held-out examples, their losses after the marker).
    """
    examples, scored = (sum(each[i].rows for each in scores) for i in (0, 1))
    if not scored:
        raise ValueError(
            f"evaluation.answer_marker: {marker!r} stands before a label token in none of "
            f"{examples:,} held-out responses (as far as prompt.max_length leaves them)"
        )
    found = summarise(store, scores)
    return {
        "answer_loss": found["loss"],
        "answer_macro": found["macro"],
        "answer_label_tokens": found["label_tokens"],
        "answer_by_source": found["by_source"],
        "answer_left_out": examples - scored,
    }
