"""What the numbers of a run's stages say that may make its selection worthless, in words.

T checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import mul
from typing import NamedTuple

import numpy as np

from s2l_ray.config import RunConfig
from s2l_ray.formatting import measured, plural, share
from s2l_ray.store.views import ClustersView, CorpusView, SelectionView, TokensView

REJECTED = 0.05  # share of the rows, from which on it is alarming
UNLABELLED = 0.05  # share of the examples, from which on it is alarming
TRUNCATED = 0.10  # share of the examples, above which it is alarming
LABELS = 0.05  # share of the tokens, below which it is alarming
LEARNED = 0.02  # fall of the median loss, as a share of it, below which it is alarming
LARGEST = 0.5  # share of the examples in one cluster, above which it is alarming
FAR, FEW = 0.05, 10  # share of new examples far from the old, above which it is alarming; at least
LENGTHS = 1.5  # ratio of mean lengths, above which it is alarming


class Alarm(NamedTuple):
    """kind: a name for programs. headline: what was found, without a full stop. advice: what it
    means and what to try."""

    kind: str
    headline: str
    advice: str

    def __str__(self) -> str:
        return f"{self.headline}. {self.advice}"


def of_corpus(corpus: CorpusView) -> Iterator[Alarm]:
    if corpus.rows_read and corpus.rejected / corpus.rows_read >= REJECTED:
        yield Alarm(
            "rejected",
            f"{share(corpus.rejected, corpus.rows_read)} of the rows were rejected",
            f"{plural(corpus.rejected, 'row')} of {corpus.rows_read:,}; the report and "
            "corpus/*/rejected have the reasons.",
        )


def of_tokens(tokens: TokensView) -> Iterator[Alarm]:
    rows, unlabelled = tokens.manifest.rows, tokens.manifest.rows - tokens.trainable
    if rows and tokens.truncated / rows > TRUNCATED:
        at = f" at {tokens.max_length:,} tokens" if tokens.max_length else ""
        yield Alarm(
            "truncated",
            f"{share(tokens.truncated, rows)} of the examples are truncated{at}",
            "Losses and training see only the beginning of "
            f"{plural(tokens.truncated, 'example')}. Raise prompt.max_length.",
        )
    if rows and unlabelled / rows >= UNLABELLED:
        yield Alarm(
            "unlabelled",
            f"{share(unlabelled, rows)} of the examples cannot be chosen",
            f"{plural(unlabelled, 'example')} have no response token left. If they were "
            "truncated, raise prompt.max_length.",
        )
    if tokens.trainable_tokens and tokens.label_tokens / tokens.trainable_tokens < LABELS:
        yield Alarm(
            "labels",
            f"Only {share(tokens.label_tokens, tokens.trainable_tokens)} of the tokens are labels",
            "Losses are means over few tokens. See whether each response is marked as labels: "
            "`s2l-ray inspect CONFIG.yaml`; then change prompt.template or the rows.",
        )


def of_losses(
    config: RunConfig,
    steps: list[int],
    means_T: np.ndarray,
    medians_T: np.ndarray,
    vocabulary: int | None,
    unseen: bool = False,
) -> Iterator[Alarm]:
    """means_T, medians_T: over the examples with a loss. vocabulary: tokens that the proxy knows;
    None if unknown. unseen: the losses are of examples that the proxies were not trained on."""
    first, last = float(means_T[0]), float(means_T[-1])
    guessing = math.inf if vocabulary is None else math.log(vocabulary)
    proxy = "The proxy" if config.losses is None else "The training behind losses.path"
    if last > guessing:
        told, bound = _apart(last, guessing)
        yield Alarm(
            "diverged",
            f"{proxy} diverged: its mean loss is {told} at the last checkpoint (step "
            f"{steps[-1]:,}), above {bound}, that of guessing among {vocabulary:,} tokens",
            advice(config, "Lower"),
        )
    elif last > first and unseen:
        before, after = _apart(first, last)
        yield Alarm(
            "overfitted",
            f"The mean loss of examples that the proxies have not seen rose from {before} at the "
            f"first checkpoint to {after} at the last",
            "The proxies memorise what they are trained on. Lower proxy.epochs.",
        )
    elif last > first:
        before, after = _apart(first, last)
        yield Alarm(
            "diverged",
            f"{proxy} diverged: its mean loss rose from {before} at the first checkpoint to "
            f"{after} at the last",
            advice(config, "Lower" if last > (1 + LEARNED) * first else "Raise"),
        )
    elif len(steps) > 1:  # one checkpoint says nothing about change
        yield from _of_medians(config, proxy, float(medians_T[0]), float(medians_T[-1]))


def _of_medians(config: RunConfig, proxy: str, first: float, last: float) -> Iterator[Alarm]:
    if first > 0 and last > (1 - LEARNED) * first:
        before, after = _apart(first, last)
        moved = f"fell by {share(first - last, first)}" if last < first else "did not fall"
        yield Alarm(
            "unlearned",
            f"{proxy} did not learn: its median loss {moved}, from {before} at the first "
            f"checkpoint to {after} at the last",
            f"The trajectories say little beyond the level of the loss. {advice(config, 'Raise')}",
        )


def of_clusters(clusters: ClustersView) -> Iterator[Alarm]:
    sizes = clusters.sizes
    most = max(LARGEST, 1.5 / len(sizes)) * sum(sizes)  # of two, one always holds half
    if len(sizes) > 1 and max(sizes) > most:
        yield Alarm(
            "one_cluster",
            f"One cluster of {len(sizes):,} holds {share(max(sizes), sum(sizes))} of the examples",
            "The budget is spread over clusters, so an example outside it is far more likely to be "
            "chosen. Look at the clusters in the report; try another clusters.n_clusters, or "
            "selection.selector=loss_strata, whose groups are equally large.",
        )


def of_drift(clusters: ClustersView, first_T: Sequence[float]) -> Iterator[Alarm]:
    """first_T: the mean losses of the first generation."""
    for number, each in enumerate(clusters.drift, 1):
        sources = [
            f"{share(far, count)} of {source}"
            for source, (far, count) in sorted(each["by_source"].items(), key=_most)
            if far > max(FAR * count, FEW)
        ]
        if each["far"] > max(FAR * each["examples"], FEW) or sources:
            of = f" ({', '.join(sources[:3])})" if sources else ""
            old, new = (
                [measured(losses[n]) for n in (0, -1)] for losses in (first_T, each["mean_losses"])
            )
            yield Alarm(
                "drift",
                f"{share(each['far'], each['examples'])} of generation {number} lie "
                f"further from their cluster's center than 99% of the first generation{of}; their "
                f"mean loss goes from {new[0]} to {new[1]}, that of the first from {old[0]} to "
                f"{old[1]}",
                "The proxy has not seen their like, so their clusters say little. Train it again "
                "on all examples with `s2l-ray refit`.",
            )


def _most(item: tuple[str, list[int]]) -> float:
    far, count = item[1]
    return -far / count


def of_selection(selection: SelectionView, tokens: TokensView) -> Iterator[Alarm]:
    if not (selection.examples and tokens.trainable and tokens.trainable_tokens):
        return
    chosen = selection.tokens / selection.examples
    corpus = tokens.trainable_tokens / tokens.trainable
    ratio = chosen / corpus
    if max(ratio, 1 / ratio) > LENGTHS:
        yield Alarm(
            "lengths",
            f"The chosen examples have {measured(chosen)} tokens on average, those of the corpus "
            f"{measured(corpus)}",
            f"Training on them takes {measured(ratio)} times the tokens of as many random "
            "examples. To compare at equal tokens, give selection.budget in tokens or set "
            "compare.match=[tokens].",
        )
    if selection.weights is not None and selection.by_cluster is not None:
        stood_for = round(sum(map(mul, selection.weights, selection.by_cluster)))
        if (missing := selection.candidates - stood_for) > 0:
            yield Alarm(
                "weights",
                f"{share(missing, selection.candidates)} of the examples are in clusters that no "
                "example is chosen from, so no weight stands for them",
                "There are more clusters than chosen examples. Raise selection.budget, or lower "
                "clusters.n_clusters.",
            )


def _apart(one: float, other: float) -> tuple[str, str]:
    """Return two numbers with as many digits as tell them apart, three at least."""
    digits = 3
    while one != other and digits < 9 and measured(one, digits) == measured(other, digits):
        digits += 1
    return measured(one, digits), measured(other, digits)


def advice(config: RunConfig, change: str) -> str:
    """Say what to try. change: of the learning rate, "Raise" or "Lower"."""
    if config.losses is not None:
        return (
            f"Look at that training, and at the order of the losses in {config.losses.path!r}: "
            "step, epoch, or column."
        )
    if config.proxy.checkpoints is not None:
        return "Look at that training, and at the order of proxy.checkpoints."
    rate = f"{change} proxy.learning_rate ({config.proxy.learning_rate:g})"
    if change == "Lower":
        return f"{rate}."
    return f"{rate}, train longer (proxy.epochs), or keep an earlier checkpoint."
