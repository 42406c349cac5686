"""The tokenizer of a model, loaded or trained on the corpus, and stored in the run directory."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.pretrained import check_weights, load_config
from s2l_ray.corpus.rows import Example, texts_of
from s2l_ray.errors import Damaged
from s2l_ray.execution.hub import commit_of_revision, only_cached
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.checksums import checksum_of
from s2l_ray.store.schemas import EXAMPLES, completed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

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
) -> Manifest:
    """Train the model's tokenizer on the corpus or copy it from its source, into `folder`, and
    commit it. Return the manifest.

    chat_template: the text of a template that takes the place of the tokenizer's own. Damaged if
    the tokenizer is there, but a file of it is missing or cut short.
    """
    manifest = store.manifest(folder) or _adopted(store, folder)
    if manifest is not None:
        if fault := store.fault(manifest):
            raise Damaged(fault, folder)
        return manifest
    if model.tokenizer_vocab is not None:
        tokenizer: Any = train_tokenizer(_texts(store, examples), model.tokenizer_vocab)
    else:
        origin = model.tokenizer or model.name
        assert origin is not None
        config, revision, refused = None, model.revision, partial(_unusable, origin)
        if not Path(origin).is_dir():
            revision = commit_of_revision(store, origin, revision, refused)
        from transformers import AutoTokenizer

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
        files = store.upload(local, folder)
    return _commit(store, folder, files)


def _adopted(store: Store, folder: str) -> Manifest | None:
    """Commit a tokenizer of version 0.1, which kept no checksums; None if there is none that can
    be loaded."""
    names = store.names(folder)
    if not {"tokenizer_config.json", "tokenizer.json"} <= {*names}:
        return None
    if any(name.startswith("manifest-damaged-") for name in names):
        return None  # its files may be what is damaged
    try:
        load_tokenizer(store, folder)
    except Exception as error:  # of transformers and tokenizers
        logger.warning(f"{store.address(folder)}: cannot be loaded ({error}); it is made again")
        return None
    logger.info(f"{store.address(folder)}: has no checksums yet; they are taken from it as it is")
    files = []
    for name in names:
        data = store.read_bytes(folder, name)
        files.append(Part(name, name, 0, len(data), checksum_of(data)))
    return _commit(store, folder, files)


def _commit(store: Store, folder: str, files: list[Part]) -> Manifest:
    return store.commit(folder, folder.rpartition("/")[2], [], {}, files)


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
    from transformers import AutoTokenizer

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
    from transformers import PreTrainedTokenizerFast

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
