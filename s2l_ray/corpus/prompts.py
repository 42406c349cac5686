"""What a model generates an answer from, and the tokens that end the answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import ONE_TURN
from s2l_ray.corpus.tokenization import chats_of, encode


def prompts_of(
    examples: Sequence[Example], prompt: PromptConfig, tokenizer: Any
) -> list[list[int]]:
    """Return the ids up to each example's first response, not truncated.

    With the chat template, they end as the template's generation prompt does.
    """
    if prompt.template != "chat":
        rows = encode(examples, _uncut(prompt), tokenizer)
        return [ids[: mask.index(True)] for ids, mask, *_ in rows]
    chats = chats_of(tokenizer)
    texts = [chats.of(example).prompt(example) for example in examples]
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def end_tokens(prompt: PromptConfig, tokenizer: Any) -> list[int]:
    """Return the ids that end a response: the end token, and what a chat template ends it with."""
    [(ids, mask, *_)] = encode([ONE_TURN], _uncut(prompt), tokenizer)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    labels = [id for id, is_label in zip(ids, mask, strict=True) if is_label]
    # Some templates also put special tokens before the text, and a line break after the end.
    text = [
        n for n, id in enumerate(labels) if id not in special and tokenizer.decode([id]).strip()
    ]
    ends = {id for id in labels[max(text, default=-1) + 1 :] if id in special}
    if prompt.template == "chat" and not chats_of(tokenizer).plain.closes:
        # The token that opens the next turn ends an answer.
        [(ids, mask, *_)] = encode([Example(ONE_TURN.turns * 2)], _uncut(prompt), tokenizer)
        ends.add(ids[mask.index(False, mask.index(True)) - 1])
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token, and its chat "
            f"template ends a response without a special token"
        )
    return sorted(ends)


def _uncut(prompt: PromptConfig) -> PromptConfig:
    return prompt.model_copy(update={"max_length": sys.maxsize})
