"""From turns to token ids and a label mask.

Labels are the tokens of every assistant turn, end token included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import TemplateRefuses, segments
from s2l_ray.corpus.text_tokenizer import TextTokenizer, text_tokenizer
from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import EXAMPLES, TOKENS, completed

if TYPE_CHECKING:
    from s2l_ray.corpus.chat import Chats

ROWS_AT_ONCE = 1000  # tokenized together; meanwhile a tokenizer holds 150 bytes per token
GUARD = "\n"  # put before a piece if the tokenizer would put a space there: see `_encoded`


def encode(
    examples: Sequence[Example],
    prompt: PromptConfig,
    tokenizer: Any,
    marker: str | None = None,
    refused: dict[int, str] | None = None,
    differs: dict[int, str] | None = None,
) -> list[tuple[list[int], list[bool], int, bool]]:
    """Return input_ids, loss_mask, num_label_tokens and truncated for each example.

    Text is tokenized piece by piece, so that no token spans prompt and response. The first token
    is never a label, because nothing predicts it. Examples are cut at prompt.max_length.

    marker: text such as "The answer is". The ids stay the same, but only tokens that begin after
    the last marker of the last response are labels; without a marker there is none.

    refused: receives the index and reason of each example that the chat template cannot express;
    such an example has no tokens. If it is None, TemplateRefuses is raised instead.

    differs: receives the index of an example that the tokenizer's own chat template renders
    differently from the one that sets the labels, and how. One is enough.
    """
    if prompt.template != "chat":
        check_tokenizer(prompt, tokenizer)
    if marker is not None and not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} does not return character offsets, which "
            f"evaluation.answer_marker needs"
        )
    pieces = []
    chats = chats_of(tokenizer) if prompt.template == "chat" else None
    for number, example in enumerate(examples):
        try:
            pieces.append(segments(example, prompt) if chats is None else chats.segments(example))
        except TemplateRefuses as error:
            if refused is None:
                raise
            refused[number] = str(error)
            pieces.append([])
            continue
        if chats and differs is not None and not differs and (how := chats.difference(example)):
            differs[number] = how
    texts = [(piece.text, n > 0) for example in pieces for n, piece in enumerate(example)]
    encoded = _encoded(texts, tokenizer, offsets=marker is not None)
    start = [] if chats else _start_ids(tokenizer)
    rows = []
    for parts in pieces:
        ids, mask = (list(start), [False] * len(start)) if parts else ([], [])
        last = max((n for n, part in enumerate(parts) if part.is_label), default=-1)
        for number, (text, is_label, ends) in enumerate(parts):
            piece, begins = next(encoded)
            if ends:
                piece.append(tokenizer.eos_token_id)
                begins.append(len(text))
            labels = [is_label] * len(piece)
            if is_label and marker is not None:
                place = text.rfind(marker) if number == last else -1
                labels = [0 <= place <= begin - len(marker) for begin in begins]
            ids += piece
            mask += labels
        if mask:
            mask[0] = False
        truncated = len(ids) > prompt.max_length
        ids, mask = ids[: prompt.max_length], mask[: prompt.max_length]
        rows.append((ids, mask, sum(mask), truncated))
    return rows


def check_tokenizer(prompt: PromptConfig, tokenizer: Any) -> str:
    """Return a sentence on how chats get their labels; empty for other prompts.

    ValueError if the tokenizer lacks the chat template or the end token that the prompt needs.
    """
    if prompt.template == "chat":
        return chats_of(tokenizer).plain.told
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token")
    return ""


def encode_table(
    examples: pa.Table,
    prompt: PromptConfig,
    tokenizer: Any,
    marker: str | None = None,
    refused: dict[int, str] | None = None,
    differs: dict[int, str] | None = None,
) -> pa.Table:
    """Tokenize a table with example_id and turns into schemas.TOKENS; see `encode`."""
    tables = [TOKENS.empty_table()]
    for first in range(0, examples.num_rows, ROWS_AT_ONCE):
        some = examples.slice(first, ROWS_AT_ONCE)
        bad: dict[int, str] | None = None if refused is None else {}
        other: dict[int, str] | None = None if differs is None or differs else {}
        rows = encode(examples_of(some), prompt, tokenizer, marker, bad, other)
        for here, found in ((refused, bad), (differs, other)):
            for number, told in (found or {}).items():
                assert here is not None
                here[first + number] = told
        arrays = [some["example_id"].combine_chunks().cast(pa.int64())] + [
            pa.array(list(column), type=field.type)
            for column, field in zip(zip(*rows, strict=True), list(TOKENS)[1:], strict=True)
        ]
        tables.append(pa.Table.from_arrays(arrays, schema=TOKENS))
    return pa.concat_tables(tables).combine_chunks()


def examples_of(table: pa.Table) -> list[Example]:
    """Return the examples of a table with schemas.TURNS, and tools if it has them."""
    turns = table["turns"].to_pylist()
    if "tools" not in table.schema.names:
        return [Example(each) for each in turns]
    return [Example(*each) for each in zip(turns, table["tools"].to_pylist(), strict=True)]


def tokenize(
    store: Store,
    examples: Manifest,
    *,
    tokenizer_folder: str,
    prompt: PromptConfig,
    folder: str,
    fingerprint: str,
    marker: str | None = None,
    label: str = "tokenize",
) -> Manifest:
    """Tokenize each part of `examples`, in the same part layout; see views.TokensView.

    Examples with training weights keep them, in a further column `weight`.
    marker: as in `encode`. label: of the progress line.
    """
    found = text_tokenizer(_loaded(store.download(tokenizer_folder)))
    whole = found if isinstance(found, TextTokenizer) else tokenizer_folder
    info: dict[str, Any] = {"tokenizer": tokenizer_folder, "max_length": prompt.max_length}
    if committed := store.manifest(tokenizer_folder):
        info["tokenizer_checksum"] = committed.checksum
    if labels := check_tokenizer(prompt, found):
        info["labels"] = labels
    return map_parts(
        store,
        units_of(examples),
        _Tokenize,
        (store, examples.folder, whole, prompt, marker),
        folder=folder,
        fingerprint=fingerprint,
        label=label,
        info=info,
    )


class _Tokenize:
    """tokenizer: the part that workers need, or the folder of one that cannot be parted."""

    def __init__(
        self,
        store: Store,
        examples_folder: str,
        tokenizer: str | TextTokenizer,
        prompt: PromptConfig,
        marker: str | None,
    ) -> None:
        self.store, self.folder, self.prompt, self.marker = store, examples_folder, prompt, marker
        if isinstance(tokenizer, str):
            tokenizer = _loaded(store.download(tokenizer))
        self.tokenizer: Any = tokenizer

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        found = self.store.read_part(self.folder, unit["part"])
        examples = completed(found, EXAMPLES)
        refused: dict[int, str] = {}
        differs: dict[int, str] = {}
        table = encode_table(examples, self.prompt, self.tokenizer, self.marker, refused, differs)
        weighted = {}
        if "weight" in found.schema.names:
            table = table.append_column("weight", found["weight"])
            weighted["weight"] = float(pc.sum(found["weight"]).as_py() or 0)
        return table, counts_of(table) | weighted | {
            "refused": len(refused),
            "refused_first": _first(refused, examples),
            "differs_first": _first(differs, examples),
        }


def counts_of(tokens: pa.Table) -> dict[str, int]:
    """Count a table of schemas.TOKENS, for the stats of its part."""
    labels = tokens["num_label_tokens"].to_numpy()
    truncated = tokens["truncated"].to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(tokens["input_ids"]).to_numpy()
    return {
        "trainable": int((labels > 0).sum()),  # has a label token left
        "trainable_tokens": int(lengths[labels > 0].sum()),
        "truncated": int(truncated.sum()),
        "response_lost": int((truncated & (labels == 0)).sum()),
        "label_tokens": int(labels.sum()),
    }


@lru_cache(maxsize=1)  # a worker gets many parts
def _loaded(local: str) -> Any:
    from transformers import AutoTokenizer  # imports torch, which a text tokenizer does not need

    return AutoTokenizer.from_pretrained(local, trust_remote_code=False)


def _first(told: dict[int, str], examples: pa.Table) -> list[Any]:
    """Return file and row of the first example that something is told of, and what."""
    if not told:
        return []
    number = min(told)
    return [*(examples[name][number].as_py() for name in ("file", "row")), told[number]]


def _encoded(
    texts: list[tuple[str, bool]], tokenizer: Any, *, offsets: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the ids of each text and, with offsets, the characters at which they begin.

    texts: (text, whether it follows another piece of the same example).
    """
    if not texts:
        return
    tokenizer = text_tokenizer(tokenizer)
    # SentencePiece puts a space before a text. A piece that follows another must not get one: it
    # is tokenized behind a guard, which is then cut off.
    behind, guarded = _ids(tokenizer, GUARD), _ids(tokenizer, f"{GUARD}a")
    cut = len(behind)
    guard = guarded[:cut] == behind and guarded[cut:] != _ids(tokenizer, "a")
    given = [GUARD + text if guard and follows else text for text, follows in texts]
    found = tokenizer(given, add_special_tokens=False, return_offsets_mapping=offsets)
    places = found["offset_mapping"] if offsets else [()] * len(texts)
    for (text, follows), ids, spans in zip(texts, found["input_ids"], places, strict=True):
        begins = [begin for begin, _ in spans]
        if guard and follows and list(ids[:cut]) == behind:
            ids, begins = ids[cut:], [begin - len(GUARD) for begin in begins[cut:]]
        elif guard and follows:  # the guard shares a token with the text
            [(ids, begins)] = _encoded([(text, False)], tokenizer, offsets=offsets)
        yield list(ids), begins


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def chats_of(tokenizer: Any) -> Chats:
    from s2l_ray.corpus.chat import Chats  # imports transformers, which other prompts do not need

    return Chats(tokenizer)


def _start_ids(tokenizer: Any) -> list[int]:
    """Return the ids that the tokenizer puts before a text: a begin token, or none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
