"""The tokenizer; from turns to token ids and a label mask: templates, truncation.

Labels are the response tokens, the end token included; every assistant turn of a chat counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from s2l_ray.config import ModelConfig, PromptConfig
from s2l_ray.store import TOKENS, Manifest, Part, Store
from s2l_ray.units import run_units

ROWS_AT_ONCE = 1000  # tokenised together: a tokenizer takes 150 bytes a token for the time
TOKENIZER_EXAMPLES = 50_000  # enough for a vocabulary; read in id order, which is random order
END_TOKEN = "<|endoftext|>"
GUARD = "\n"  # what a piece is tokenised behind, where the tokenizer puts a space before a text
TODAY = datetime(2024, 7, 26)  # for templates that write a date: tokens do not change with it

Turn = dict[str, str]
Segment = tuple[str, bool]  # text, and whether its tokens are labels

ONE_TURN = [{"role": "user", "text": "a"}, {"role": "assistant", "text": "a"}]

# name: (prompt, prompt for an instruction with an input). The first two are the official
# code's (consts.py), the misspelt heading included; it never uses radiology's with an input.
TEMPLATES = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:",
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:",
    ),
    "radiology": (
        "Below are the findings in a radiology report. Write an impression that diagnostically "
        "summarizes the findings.\n\n ### Findings:\n{instruction}\n\n### Inpression:",
        "Below are the findings in a radiology report. Write an impression that diagnostically "
        "summarizes the findings.\n\n ### Findings:\n{instruction}\n{input}\n\n### Inpression:",
    ),
    "plain": ("{instruction}\n", "{instruction}\n{input}\n"),
}


def segments(turns: list[Turn], prompt: PromptConfig, tokenizer: Any) -> list[Segment]:
    """The example's text in pieces, each a prompt piece or a label piece.

    With the chat template, a label piece is what the template adds for an assistant turn, its end
    marker included. With the others the end token follows each response (see `encode`).
    """
    if prompt.template == "chat":
        return _chat_segments(turns, tokenizer)
    plain, with_input = (
        (prompt.prompt, prompt.prompt_with_input)
        if prompt.template == "custom"
        else TEMPLATES[prompt.template]
    )
    assert plain is not None
    pieces: list[Segment] = []
    for index, turn in enumerate(turns):
        following = turns[index + 1] if index + 1 < len(turns) else None
        if turn["role"] == "system":
            pieces.append((turn["text"] + "\n\n", False))
        elif turn["role"] == "user":
            extra = following["text"] if following and following["role"] == "input" else None
            pieces.append((_fill(plain, with_input, turn["text"], extra), False))
        elif turn["role"] == "assistant":
            pieces.append((turn["text"], True))
    return pieces


class TemplateRefuses(ValueError):
    """The tokenizer's chat template has no place for the turns of an example."""


def encode(
    examples: list[list[Turn]],
    prompt: PromptConfig,
    tokenizer: Any,
    marker: str | None = None,
    refused: dict[int, str] | None = None,
) -> list[tuple[list[int], list[bool], int, bool]]:
    """For each example: input_ids, loss_mask, num_label_tokens, truncated.

    Text is tokenised piece by piece, so that no token spans prompt and response. The first token
    is never a label: nothing precedes it to predict it from. Cut at prompt.max_length.

    With a marker ("The answer is") the ids are the same, but labels are only the tokens that begin
    after the last marker of the last response: none, if it has no marker.

    TemplateRefuses for turns that a chat template has no place for; with `refused` such an example
    has no tokens, and its place and the reason go there.
    """
    chat = prompt.template == "chat"
    if not chat and tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token")
    if marker is not None and not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} does not tell where in a text its tokens "
            f"are, which evaluation.answer_marker needs"
        )
    pieces = []
    for number, turns in enumerate(examples):
        try:
            pieces.append(segments(turns, prompt, tokenizer))
        except TemplateRefuses as error:
            if refused is None:
                raise
            refused[number] = str(error)
            pieces.append([])
    texts = [(text, n > 0) for example in pieces for n, (text, _) in enumerate(example)]
    encoded = _encoded(texts, tokenizer, offsets=marker is not None)
    start = [] if chat else _start_ids(tokenizer)
    rows = []
    for example in pieces:
        ids, mask = (list(start), [False] * len(start)) if example else ([], [])
        last = max((n for n, (_, is_label) in enumerate(example) if is_label), default=-1)
        for number, (text, is_label) in enumerate(example):
            piece, begins = next(encoded)
            if is_label and not chat:
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


def prompts_of(examples: list[list[Turn]], prompt: PromptConfig, tokenizer: Any) -> list[list[int]]:
    """The ids up to each example's first response, uncut."""
    rows = encode(examples, _uncut(prompt), tokenizer)
    return [ids[: mask.index(True)] for ids, mask, *_ in rows]


def end_tokens(prompt: PromptConfig, tokenizer: Any) -> list[int]:
    """Ids that end a response: the end token; the special tokens a chat template puts after it."""
    [(ids, mask, *_)] = encode([ONE_TURN], _uncut(prompt), tokenizer)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    labels = [id for id, is_label in zip(ids, mask, strict=True) if is_label]
    # Some templates put special tokens before the text too, and a line break after the end.
    text = [
        n for n, id in enumerate(labels) if id not in special and tokenizer.decode([id]).strip()
    ]
    ends = {id for id in labels[max(text, default=-1) + 1 :] if id in special}
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if not ends:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token, and its chat "
            f"template ends a response without a special token"
        )
    return sorted(ends)


def encode_table(
    examples: pa.Table,
    prompt: PromptConfig,
    tokenizer: Any,
    marker: str | None = None,
    refused: dict[int, str] | None = None,
) -> pa.Table:
    """A table with example_id and turns as a table of the schema `store.TOKENS`; refused: as
    `encode` has it."""
    tables = [TOKENS.empty_table()]
    for first in range(0, examples.num_rows, ROWS_AT_ONCE):
        some = examples.slice(first, ROWS_AT_ONCE)
        bad: dict[int, str] | None = None if refused is None else {}
        rows = encode(some["turns"].to_pylist(), prompt, tokenizer, marker, bad)
        for number, reason in (bad or {}).items():
            assert refused is not None
            refused[first + number] = reason
        arrays = [some["example_id"].combine_chunks().cast(pa.int64())] + [
            pa.array(list(column), type=field.type)
            for column, field in zip(zip(*rows, strict=True), list(TOKENS)[1:], strict=True)
        ]
        tables.append(pa.Table.from_arrays(arrays, schema=TOKENS))
    return pa.concat_tables(tables).combine_chunks()


def tokenize(
    store: Store,
    examples: Manifest,
    *,
    tokenizer_folder: str,
    prompt: PromptConfig,
    folder: str,
    fingerprint: str,
    marker: str | None = None,
) -> Manifest:
    """Tokenise each part of `examples` once; the same part layout, counts in the stats: refused are
    those that a chat template has no place for, with the first one's file, row and reason.

    marker: as `encode` has it.
    """
    return run_units(
        store,
        [{"unit": part.unit, "part": part.__dict__} for part in examples.parts],
        _Tokenize,
        (store, examples.folder, tokenizer_folder, prompt, marker),
        folder=folder,
        fingerprint=fingerprint,
        label="tokenize",
        info={"tokenizer": tokenizer_folder, "max_length": prompt.max_length},
    )


def prepare_tokenizer(store: Store, model: ModelConfig, examples: Manifest, *, folder: str) -> None:
    """Put the model's tokenizer into the run: trained on the corpus, or copied from its source."""
    if store.exists(folder, "tokenizer_config.json"):
        return
    if model.tokenizer_vocab is not None:
        tokenizer: Any = _train_tokenizer(store, examples, model.tokenizer_vocab)
    else:
        origin = model.tokenizer or model.name
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                origin, revision=model.revision, trust_remote_code=False
            )
            if model.name is not None:  # before hours of work for a model that there is not
                config = AutoConfig.from_pretrained(
                    model.name, revision=model.revision, trust_remote_code=False
                )
                check_weights(config)
        except Exception as error:  # of transformers, huggingface_hub and tokenizers
            raise ValueError(
                f"model: {origin!r} cannot be used (code that comes with a model is never run): "
                f"{error}"
            ) from error
    with TemporaryDirectory() as local:
        tokenizer.save_pretrained(local)
        store.upload(local, folder, last="tokenizer_config.json")


def check_weights(config: Any) -> None:
    """ValueError for a model whose weights are quantised: they cannot be trained."""
    for each in (config, config.get_text_config()):
        if how := getattr(each, "quantization_config", None):
            method = how.get("quant_method") if isinstance(how, dict) else how.quant_method
            raise ValueError(
                f"{config.name_or_path}: its weights are quantised ({method}), wanted whole ones"
            )


def load_tokenizer(store: Store, folder: str) -> Any:
    return AutoTokenizer.from_pretrained(store.download(folder))


def _train_tokenizer(store: Store, examples: Manifest, vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the corpus: any text has tokens, none is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    def texts() -> Any:
        seen = 0
        for part in examples.parts:
            for turns in store.read_part(examples.folder, part, ["turns"])["turns"].to_pylist():
                yield "\n".join(turn["text"] for turn in turns)
                seen += 1
            if seen >= TOKENIZER_EXAMPLES:
                return

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
    bpe.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_TOKEN, pad_token=END_TOKEN, bos_token=None
    )


class _Tokenize:
    def __init__(
        self,
        store: Store,
        examples_folder: str,
        tokenizer_folder: str,
        prompt: PromptConfig,
        marker: str | None,
    ) -> None:
        self.store, self.folder, self.prompt, self.marker = store, examples_folder, prompt, marker
        self.tokenizer = load_tokenizer(store, tokenizer_folder)

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        examples = self.store.read_part(
            self.folder, Part(**unit["part"]), columns=["example_id", "turns", "file", "row"]
        )
        refused: dict[int, str] = {}
        table = encode_table(examples, self.prompt, self.tokenizer, self.marker, refused)
        first = []
        if refused:
            number = min(refused)
            place = (examples[name][number].as_py() for name in ("file", "row"))
            first = [*place, refused[number]]
        labels = table["num_label_tokens"].to_numpy()
        lengths = pc.list_value_length(table["input_ids"]).to_numpy()
        return table, {
            "trainable": int((labels > 0).sum()),  # has a label token left
            "trainable_tokens": int(lengths[labels > 0].sum()),
            "truncated": int(table["truncated"].to_numpy(zero_copy_only=False).sum()),
            "label_tokens": int(labels.sum()),
            "refused": len(refused),
            "refused_first": first,
        }


def _encoded(
    texts: list[tuple[str, bool]], tokenizer: Any, *, offsets: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """Of each text its ids and, with offsets, the places in it where they begin. texts: with
    whether they follow another."""
    if not texts:
        return
    # SentencePiece's put a space before a text: not before one that follows, behind a guard.
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
        elif guard and follows:  # joined with the guard in one token
            [(ids, begins)] = _encoded([(text, False)], tokenizer, offsets=offsets)
        yield list(ids), begins


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _uncut(prompt: PromptConfig) -> PromptConfig:
    return prompt.model_copy(update={"max_length": sys.maxsize})


def _fill(plain: str, with_input: str | None, instruction: str, extra: str | None) -> str:
    values = {"{instruction}": instruction, "{input}": extra or ""}
    template = plain
    if extra is not None and with_input is None:
        values["{instruction}"] += f"\n{extra}"
    elif extra is not None and with_input is not None:
        template = with_input
    # Not str.format, and in one go: the texts and the template may hold braces.
    return re.sub(r"\{instruction\}|\{input\}", lambda found: values[found[0]], template)


def _start_ids(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before a text: a begin token, or none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


@lru_cache
def _dated(template: str) -> str:
    """A chat template that would ask for the time, with TODAY in its place."""
    ask = r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)"""
    return re.sub(ask, lambda found: repr(TODAY.strftime(found[2])), template)


def _chat_segments(turns: list[Turn], tokenizer: Any) -> list[Segment]:
    messages: list[dict[str, str]] = []
    for turn in turns:
        if turn["role"] == "input":
            messages[-1] = {
                "role": "user",
                "content": f"{messages[-1]['content']}\n\n{turn['text']}",
            }
        else:
            messages.append({"role": turn["role"], "content": turn["text"]})

    template = _dated(tokenizer.get_chat_template())

    def render(count: int, **options: Any) -> str:
        try:
            return tokenizer.apply_chat_template(
                messages[:count],
                tokenize=False,
                chat_template=template,
                date_string=TODAY.strftime("%d %b %Y"),
                **options,
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages[:count])
            raise TemplateRefuses(f"the chat template refuses turns {roles}: {error}") from None

    pieces: list[Segment] = []
    written = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:  # an opening turn answers nothing
            continue
        before = render(index, add_generation_prompt=True)
        after = render(index + 1)
        end = tokenizer.eos_token or ""
        if end and written.endswith(end) and not before.startswith(written):
            # It closed the text (Phi), which goes on.
            written = written.removesuffix(end)
            pieces[-1] = (pieces[-1][0].removesuffix(end), True)
        why = "rewrites earlier turns"
        if before.startswith(written) and after.startswith(render(index)):
            why = "begins an answer with what it does not write before a given one"
        if not before.startswith(written) or not after.startswith(before):
            raise TemplateRefuses(
                f"the tokenizer's chat template {why}, so the label tokens of an assistant turn "
                "cannot be told; use another prompt.template"
            )
        pieces += [(before[len(written) :], False), (after[len(before) :], True)]
        written = after
    return pieces
