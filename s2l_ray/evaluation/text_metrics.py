"""BLEU, ROUGE-L and BERTScore of generated texts against references. No Ray, no I/O but models.

BLEU is of a whole set: counts of parts are added. The others are means over texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

COUNTS = 10  # of BLEU: length of texts, of references; n-grams that match, and all, for n = 1 to 4


def bleu_counts(texts: Sequence[str], references: Sequence[str]) -> list[int]:
    """Count what BLEU is made of, with sacrebleu's tokenization 13a."""
    from sacrebleu.metrics import BLEU

    if not texts:
        return [0] * COUNTS
    found = BLEU(force=True).corpus_score(list(texts), [list(references)])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def bleu(counts: Sequence[int]) -> float:
    """Return BLEU, from 0 to 100, with sacrebleu's default smoothing (exp)."""
    from sacrebleu.metrics import BLEU

    texts, references, *grams = (int(each) for each in counts)
    return BLEU.compute_bleu(grams[:4], grams[4:], texts, references, smooth_method="exp").score


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return each text's ROUGE-L (F1, from 0 to 1), without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(texts, references, strict=True)
    return [scorer.score(reference, text)["rougeL"].fmeasure for text, reference in pairs]


def bert_score(
    texts: Sequence[str], references: Sequence[str], model: str, layer: int
) -> list[float]:
    """Return each text's BERTScore (F1), neither weighted by idf nor rescaled; 0 without a text.

    model: a local folder in Hugging Face format. layer: whose output is compared, from 1.
    """
    scores = np.zeros(len(texts))
    filled = [n for n, pair in enumerate(zip(texts, references, strict=True)) if all(
        each.strip() for each in pair)]  # fmt: skip
    if filled:
        scorer = _scorer(model, layer)
        _, _, f1 = scorer.score([texts[n] for n in filled], [references[n] for n in filled])
        scores[filled] = f1.numpy()
    return scores.tolist()


@lru_cache(1)
def _scorer(model: str, layer: int) -> Any:
    from bert_score import BERTScorer

    try:
        scorer = BERTScorer(model, num_layers=layer, use_fast_tokenizer=True)
    except AssertionError as error:  # its check of the layer
        raise ValueError(f"evaluation.bert_score_layer: {error}") from None
    except OSError as error:
        raise ValueError(f"evaluation.bert_score_model: {error}") from None
    most = scorer._model.config.max_position_embeddings - 2  # as RoBERTa counts them
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, most)
    return scorer
