"""The part of a tokenizer that turns text into ids, for workers.

It comes from the package `tokenizers` and pickles small, so a worker needs neither `transformers`,
which imports torch, nor the tokenizer's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer


class TextTokenizer:
    """Gives the ids that the tokenizer of `transformers` gives which it was made of."""

    is_fast = True  # it can tell offsets

    def __init__(
        self,
        backend: Tokenizer,
        name: str,
        bos_token_id: int | None,
        eos_token_id: int | None,
        special_tokens_map: dict[str, Any],
        chat_template: str | dict[str, str] | None,
    ) -> None:
        self.backend, self.name_or_path = backend, name
        self.bos_token_id, self.eos_token_id = bos_token_id, eos_token_id
        self.special_tokens_map, self.chat_template = special_tokens_map, chat_template

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return self.backend.get_added_tokens_decoder()

    def __reduce__(self) -> tuple[Any, ...]:
        ends = self.bos_token_id, self.eos_token_id
        rest = self.name_or_path, *ends, self.special_tokens_map, self.chat_template
        return _restored, (self.backend.to_str(), self.backend.encode_special_tokens, *rest)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        return_offsets_mapping: bool = False,
    ) -> dict[str, Any]:
        """Return input_ids and, if asked for, offset_mapping, of one text or of each."""
        texts = [text] if isinstance(text, str) else text
        # The offsets take half as long again.
        encode = self.backend.encode_batch if return_offsets_mapping else self._encode_fast
        found = encode(texts, add_special_tokens=add_special_tokens)
        columns: dict[str, Any] = {"input_ids": [each.ids for each in found]}
        if return_offsets_mapping:
            columns["offset_mapping"] = [each.offsets for each in found]
        one = isinstance(text, str)
        return {name: column[0] if one else column for name, column in columns.items()}

    def _encode_fast(self, texts: Any, *, add_special_tokens: bool) -> Any:
        return self.backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


def text_tokenizer(tokenizer: Any) -> Any:
    """Return the part of a tokenizer that is for text; the tokenizer itself if it cannot be parted.

    That is so if it has no `tokenizers` inside, or adds to what that does.
    """
    if isinstance(tokenizer, TextTokenizer):
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer
    for name in ("__call__", "_encode_plus"):
        if getattr(type(tokenizer), name) is not getattr(PreTrainedTokenizerFast, name):
            return tokenizer
    backend = tokenizer.backend_tokenizer
    # What `transformers` does before it encodes.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    chats = dict(tokenizer.special_tokens_map), tokenizer.chat_template
    return TextTokenizer(backend, tokenizer.name_or_path, *ends, *chats)


def _restored(definition: str, split: bool, *rest: Any) -> TextTokenizer:
    return TextTokenizer(_backend(definition, split), *rest)


@lru_cache(maxsize=2)  # a worker gets many parts
def _backend(definition: str, split: bool) -> Tokenizer:
    backend = Tokenizer.from_str(definition)
    backend.encode_special_tokens = split
    return backend
