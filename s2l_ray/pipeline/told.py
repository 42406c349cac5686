"""What is said of a tokens stage: how chats get their labels, and what the template refuses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from s2l_ray.store import Manifest
from s2l_ray.store.views import TokensView

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


def check_tokens(name: str, run: Run, tokens: Manifest) -> None:
    """Tell how chats get their labels, once a run, and which examples the template refuses.
    ValueError if there are too many of these."""
    view = TokensView(tokens)
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
