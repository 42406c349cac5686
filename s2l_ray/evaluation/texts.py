"""Generated texts and their references: the driver's side of text metrics."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np

from s2l_ray.config import CorpusConfig, EvaluationConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.evaluation.heldout import read_like_corpus
from s2l_ray.evaluation.leaks import without_corpus
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import TextsView

TEXTS = 1  # version of how texts are measured: part of the fingerprint of a stage of texts

PACKAGES = ("sacrebleu", "rouge_score", "bert_score")  # of the extra `metrics`


class TextMetrics(NamedTuple):
    """What BERTScore is measured with: a folder, and the layer whose output is compared."""

    model: str | None = None
    layer: int | None = None


def text_sets(
    store: Store, examples: Manifest, config: EvaluationConfig, like: CorpusConfig
) -> dict[str, Manifest]:
    """Read each set of evaluation.texts, by name, without the rows that the corpus has too."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if config.texts and missing:
        raise ValueError(
            f"evaluation.texts: {', '.join(missing)} is not installed; install the extra 'metrics'"
        )
    found = read_like_corpus(store, examples, config, like, "texts")
    return without_corpus(store, examples, found, "texts")


def reference_of(example: Example) -> str:
    """Return the text that a generated one is compared with: the first response with labels."""
    return next(
        turn["text"]
        for turn in example.turns
        if turn["role"] == "assistant" and turn.get("train") is not False
    )


def text_scores(texts: Manifest) -> dict[str, float]:
    """Return bleu (0 to 100), rouge_l and bert_score (means of F1, 0 to 1; bert_score only if it is
    measured)."""
    from s2l_ray.evaluation.text_metrics import bleu

    view = TextsView(texts)
    found = {
        "bleu": bleu(np.sum(view.bleu_counts_by_part, axis=0).tolist()),
        "rouge_l": sum(view.rouge_l_by_part) / texts.rows,
    }
    known = [each for each in view.bert_score_by_part if each is not None]
    if known:
        found["bert_score"] = sum(known) / texts.rows
    return found
