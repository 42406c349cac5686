"""The tokenizer of a model, loaded or trained on the corpus, and stored in the run directory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.pretrained import check_weights, load_config
from s2l_ray.corpus.rows import Example, texts_of
from s2l_ray.execution.hub import commit_of_revision, only_cached
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import EXAMPLES, completed

# Enough for a vocabulary; in id order, which is random.
TOKENIZER_EXAMPLES, TOKENIZER_CHARACTERS = 50_000, 2**28
LONG = 256  # characters of a word. Training takes time with the square of its longest words.
LONG_WORD = re.compile(rf"[^\W\d_]{{{LONG + 1},}}|(?:[^\w\s]|_){{{LONG + 1},}}")
LONG_SPACE = re.compile(rf"(\s{{{LONG}}})\s+")
END_TOKEN = "<|endoftext|>"


def prepare_tokenizer(
    store: Store,
    model: ModelConfig,
    examples: Manifest,
    *,
    folder: str,
    chat_template: str | None = None,
) -> None:
    """Train the model's tokenizer on the corpus or copy it from its source, into `folder`.

    chat_template: the text of a template that takes the place of the tokenizer's own.
    """
    if store.exists(folder, "tokenizer_config.json"):
        return
    if model.tokenizer_vocab is not None:
        tokenizer: Any = train_tokenizer(_texts(store, examples), model.tokenizer_vocab)
    else:
        origin = model.tokenizer or model.name
        assert origin is not None
        config, revision, refused = None, model.revision, partial(_unusable, origin)
        if not Path(origin).is_dir():
            revision = commit_of_revision(store, origin, revision, refused)
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                origin,
                revision=revision,
                trust_remote_code=False,
                local_files_only=only_cached(origin),
            )
            if model.name is not None:  # fail now if the model cannot be used
                config = load_config(model.name, revision, local_files_only=only_cached(model.name))
                check_weights(config)
        except Exception as error:  # of transformers, huggingface_hub and tokenizers
            raise refused(error) from error
        sizes = (model.architecture or {}) if config is None else vars(config.get_text_config())
        _check_size(tokenizer, origin, sizes.get("vocab_size"))
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    with TemporaryDirectory() as local:
        tokenizer.save_pretrained(local)
        store.upload(local, folder, last="tokenizer_config.json")


def _unusable(origin: str, error: Exception) -> ValueError:
    return ValueError(
        f"model: {origin!r} cannot be used (code in a model's folder is never run): {error}"
    )


def _check_size(tokenizer: Any, origin: str | None, vocab_size: int | None) -> None:
    found = max(tokenizer.get_vocab().values(), default=-1) + 1
    if vocab_size is not None and found > vocab_size:
        raise ValueError(
            f"model: the tokenizer of {origin!r} has {found:,} tokens, but the model has "
            f"embeddings for {vocab_size:,}: use the tokenizer that the model was trained with"
        )


def load_tokenizer(store: Store, folder: str) -> Any:
    return AutoTokenizer.from_pretrained(store.download(folder), trust_remote_code=False)


def _texts(store: Store, examples: Manifest) -> Iterator[str]:
    seen, size = 0, 0
    for part in examples.parts:
        table = completed(store.read_part(examples.folder, part), EXAMPLES)
        for text in texts_of_table(table):
            yield text
            size += len(text)
            if size >= TOKENIZER_CHARACTERS:
                return
        seen += table.num_rows
        if seen >= TOKENIZER_EXAMPLES:
            return


def texts_of_table(examples: pa.Table) -> Iterator[str]:
    """Yield all text of each example of a table (schemas.EXAMPLES)."""
    for row in examples.select(["turns", "tools"]).to_pylist():
        yield "\n".join(text for _, text in texts_of(Example(row["turns"], row["tools"])))


def _with_short_words(text: str) -> str:
    """Divide words of more than LONG letters or signs, such as base64, and cut white space."""

    words = text.split()
    if max(map(len, words), default=0) > LONG:
        text = LONG_WORD.sub(lambda found: " ".join(_pieces(found[0])), text)
    spaces = len(text) - sum(map(len, words))
    return LONG_SPACE.sub(r"\1", text) if spaces >= len(words) + LONG else text


def _pieces(word: str) -> list[str]:
    return [word[at : at + LONG] for at in range(0, len(word), LONG)]


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; it can encode any text. Long words are divided."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(map(_with_short_words, texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_TOKEN, pad_token=END_TOKEN, bos_token=None
    )
