"""What a run logs about its corpus and tokens: what there is, what was lost, how labels came."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from s2l_ray.analysis.alarms import of_corpus, of_tokens
from s2l_ray.config import CorpusConfig, RunConfig, parse_budget
from s2l_ray.corpus.accounts import most_common, rejected_told
from s2l_ray.corpus.ingest import check_folders, check_rejected
from s2l_ray.corpus.sources import shown
from s2l_ray.formatting import percent, plural
from s2l_ray.pipeline.alarms import tell
from s2l_ray.store import Manifest
from s2l_ray.store.views import CorpusView, TokensView

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


def corpus_told(config: CorpusConfig, corpus: CorpusView, rejected: str) -> list[str]:
    """Return lines on a corpus. rejected: where its rejected rows are kept."""
    sources = plural(len(corpus.by_source), "source")
    heldout = f" and {corpus.heldout:,} held out" if corpus.heldout else ""
    lines = [
        f"corpus: {plural(corpus.examples, 'example')} from {sources}{heldout}, of "
        f"{plural(corpus.rows_read, 'row')} in {plural(len(corpus.files), 'file')}"
    ]
    if corpus.duplicates:
        done = "dropped" if config.duplicates == "drop" else "kept (corpus.duplicates: number)"
        lines.append(f"corpus: {plural(corpus.duplicates, 'exact duplicate')} {done}")
    if corpus.rejected:
        share = percent(corpus.rejected, corpus.rows_read)
        lines.append(
            f"corpus: {plural(corpus.rejected, 'row')} ({share}) rejected: "
            f"{most_common(corpus.rejected_reasons)}; kept in {rejected}"
        )
    if corpus.rejected_by_file and len(corpus.files) > 1:
        lines.append(f"corpus: rejected rows by file: {rejected_told(corpus.rejected_by_file)}")
    if blank := corpus.files_without_rows:
        lines.append(f"corpus: {plural(len(blank), 'file')} without rows: {shown(blank)}")
    return lines


def tokens_told(tokens: TokensView) -> list[str]:
    """Return lines on tokenized examples."""
    rows, have = tokens.manifest.rows, tokens.trainable_tokens
    lines = [
        f"tokens: {plural(have, 'token')} in {plural(tokens.trainable, 'example')}, "
        f"{percent(tokens.label_tokens, have)} of them labels"
    ]
    if tokens.truncated:
        lost = f", {tokens.response_lost:,} have no response left" if tokens.response_lost else ""
        lines.append(
            f"tokens: {tokens.truncated:,} of {plural(rows, 'example')} truncated at "
            f"{tokens.max_length:,} tokens{lost}; raise prompt.max_length"
        )
    if unlabelled := rows - tokens.trainable - tokens.refused - tokens.response_lost:
        lines.append(f"tokens: {plural(unlabelled, 'example')} without a label token")
    return lines


def budget_told(config: RunConfig, tokens: TokensView) -> list[str]:
    """Return a line on the budget, unless it is a number of examples."""
    kind, amount = parse_budget(config.selection.budget)
    have = tokens.trainable
    if kind == "share":
        count = max(1, round(amount * have))
        return [
            f"selection.budget: {share_told(amount)} of the {plural(have, 'example')} with a label "
            f"token: {plural(count, 'example')}"
        ]
    if kind == "tokens":
        share = percent(amount, tokens.trainable_tokens)
        return [f"selection.budget: {amount:,.0f} of {tokens.trainable_tokens:,} tokens ({share})"]
    return []


def share_told(share: float) -> str:
    """Return such as "11%" or "0.25%"."""
    return f"{100 * share:.4g}%"


def check_corpus(config: CorpusConfig, run: Run, corpus: Manifest) -> None:
    """Damaged if a folder below the corpus's own is; ValueError if too many rows were rejected; an
    alarm if many were."""
    check_folders(run.store, corpus, config)
    check_rejected(run.store, corpus, config)
    tell(run, "corpus", [*of_corpus(CorpusView(corpus))])


def check_tokens(name: str, run: Run, tokens: Manifest) -> None:
    """Tell how chats get their labels, once a run, and which examples the template refuses.
    ValueError if there are too many of these."""
    view = TokensView(tokens)
    if name == "tokens":  # of the proxy
        tell(run, name, [*of_tokens(view)])
    for sentence in labels_told(view):
        if sentence not in run.told:
            run.told.add(sentence)
            logger.info(f"{name}: {sentence}")
    if view.refused_first is None:
        return
    count, (file, row, why) = view.refused, view.refused_first
    most = run.config.corpus.max_rejected_share
    text = f"{name}: {count:,} of {tokens.rows:,} examples ({file}:{row} for one): {why}"
    if count > most * tokens.rows:
        raise ValueError(f"{text}; more than corpus.max_rejected_share {most:.1%}")
    logger.warning(f"{text}; they are left out")


def check_tokenizer_kept(run: Run, tokens: Manifest, tokenizer: Manifest) -> None:
    """Raise ValueError if the tokenizer was made again since, and is another one."""
    made_with = TokensView(tokens).tokenizer_checksum
    if made_with is not None and made_with != tokenizer.checksum:
        raise ValueError(
            f"{run.store.address(tokenizer.folder)}: found files with checksum "
            f"{tokenizer.checksum}, but {tokens.folder} was made with {made_with}: it was made "
            f"again, and its source or the version of transformers has changed. Use another "
            f"run_dir, or put the old files back"
        )


def labels_told(tokens: TokensView) -> list[str]:
    """Return sentences on how chats got their labels; none if no chat template was used."""
    told = [tokens.labels] if tokens.labels else []
    if tokens.differs_first is not None:
        file, row, how = tokens.differs_first
        told.append(
            f"that text differs from the tokenizer's own chat template, in {file}:{row} for one: "
            f"{how}"
        )
    return told
