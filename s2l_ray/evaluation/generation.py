"""Greedy generation by a target: the workers' side of answering.py. B questions, L tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import torch
from transformers import GenerationConfig, PreTrainedModel

from s2l_ray.config import PromptConfig, TrajectoriesConfig
from s2l_ray.corpus.prompts import end_tokens, prompts_of
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.tokenization import examples_of
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.evaluation.answers import expected_answer, extract
from s2l_ray.evaluation.asking import Asking
from s2l_ray.evaluation.judging import judge
from s2l_ray.evaluation.programs import answers_of_programs
from s2l_ray.evaluation.text_metrics import bert_score, bleu_counts, rouge_l
from s2l_ray.evaluation.texts import TextMetrics, reference_of
from s2l_ray.execution.remote import get
from s2l_ray.models.held import HeldModel
from s2l_ray.models.loading import explain_out_of_memory
from s2l_ray.store import Store
from s2l_ray.store.schemas import ANSWERS, EXAMPLES, TEXTS, completed

# Of a batch: prompts and new tokens, padded. Their keys and values take about 1 GB.
TOKENS_AT_ONCE = 8192


class Generator:
    """What one actor does: generates texts with the target that it holds."""

    def __init__(
        self,
        store: Store,
        config: TrajectoriesConfig,
        tokenizer_folder: str,
        prompt: PromptConfig,
        max_new_tokens: int,
    ) -> None:
        self.store, self.config, self.prompt = store, config, prompt
        self.max_new_tokens = max_new_tokens
        self.tokenizer = load_tokenizer(store, tokenizer_folder)
        self.ends = end_tokens(prompt, self.tokenizer)
        self.held = HeldModel(store, config.workers, dtype=config.dtype, tf32=config.tf32)

    def rows(self, unit: dict[str, Any]) -> pa.Table:
        """Read the unit's questions or examples."""
        table = completed(self.store.read_part(unit["questions"], unit["part"]), EXAMPLES)
        return table.slice(0, unit["rows"])

    def texts(
        self, unit: dict[str, Any], examples: list[Example]
    ) -> tuple[list[str], dict[str, int]]:
        """Generate a text after the prompt of each example. Returns the texts, and cut and
        without_room (store.views.AnswersView)."""
        prompts = prompts_of(examples, self.prompt, self.tokenizer)
        model = self.held.load(unit["model"]).model
        at_once = self.config.tokens_per_batch or TOKENS_AT_ONCE
        doing = f"generating answers in batches of {at_once} tokens"
        with explain_out_of_memory(unit["model"], doing, "lower trajectories.tokens_per_batch"):
            new = generate(
                model,
                prompts,
                ends=self.ends,
                max_new_tokens=self.max_new_tokens,
                tokens_at_once=at_once,
            )
        room = room_of(model, prompts, self.max_new_tokens)
        cut = sum(each < self.max_new_tokens for each in room)
        stats = {"cut": cut, "without_room": sum(each <= 0 for each in room)} if cut else {}
        return self.tokenizer.batch_decode(new, skip_special_tokens=True), stats


class Answerer(Generator):
    """Makes parts of answers: generated, extracted (or printed by a program) and judged."""

    def __init__(self, asking: Asking, *args: Any) -> None:
        super().__init__(*args)
        self.asking = asking

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        questions = self.rows(unit)
        examples = examples_of(questions)
        generated, cut = self.texts(unit, [self.asking.put(each) for each in examples])
        if self.asking.runs_programs:
            extracted, failed = answers_of_programs(generated)
        else:
            extracted, failed = [extract(text) for text in generated], []
        if again := self.asking.again:
            left = [row for row, found in enumerate(extracted) if found is None]
            texts, _ = self.texts(unit, [again.put(examples[row]) for row in left])
            for row, text in zip(left, texts, strict=True):
                generated[row], extracted[row] = text, extract(text)
        expected = [expected_answer(each.turns[-1]["text"]) for each in examples]
        correct = get(judge.remote(extracted, expected))
        rows = [questions["example_id"].combine_chunks(), generated, extracted, correct]
        arrays = [pa.array(row, field.type) for row, field in zip(rows, ANSWERS, strict=True)]
        stats = {
            "correct": sum(correct),
            "no_answer": extracted.count(None),
            "made_of": self.held.checksum,
        } | cut
        if self.asking.runs_programs:
            stats["programs_failed"] = dict(Counter(failed))
        return pa.Table.from_arrays(arrays, schema=ANSWERS), stats


class Writer(Generator):
    """Makes parts of texts: generated, and compared with the response of their example."""

    def __init__(self, metrics: TextMetrics, *args: Any) -> None:
        super().__init__(*args)
        self.metrics = metrics

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.rows(unit)
        examples = examples_of(table)
        texts, cut = self.texts(unit, examples)
        references = [reference_of(each) for each in examples]
        rouge = rouge_l(texts, references)
        bert: list[float] | None = None
        if self.metrics.model is not None:
            assert self.metrics.layer is not None
            bert = bert_score(texts, references, self.metrics.model, self.metrics.layer)
        measured: list[Any] = [None] * len(texts) if bert is None else list(bert)
        rows = [table["example_id"].combine_chunks(), texts, rouge, measured]
        arrays = [pa.array(row, field.type) for row, field in zip(rows, TEXTS, strict=True)]
        return pa.Table.from_arrays(arrays, schema=TEXTS), {
            "bleu_counts": bleu_counts(texts, references),
            "rouge_l": sum(rouge),
            "bert_score": None if bert is None else sum(bert),
            "made_of": self.held.checksum,
        } | cut


def generate(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    ends: list[int],
    max_new_tokens: int,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> list[list[int]]:
    """Generate the most likely tokens after each prompt, up to an end token, which is left out.

    Generates at most as many as the model has positions for. Prompts are padded on the left and
    masked there, so the answer to one does not depend on the others of its batch, beyond rounding.
    Ignores the sampling settings in the model's folder.
    """
    room = room_of(model, prompts, max_new_tokens)
    found: list[list[int]] = [[] for _ in prompts]
    model.generation_config = GenerationConfig()
    model.eval()
    for rows in _batches([len(ids) for ids in prompts], room, tokens_at_once):
        longest = len(prompts[rows[0]])
        input_ids_BL = torch.full((len(rows), longest), ends[0])
        attention_BL = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            input_ids_BL[place, longest - len(prompts[row]) :] = torch.tensor(prompts[row])
            attention_BL[place, longest - len(prompts[row]) :] = 1
        config = GenerationConfig(
            do_sample=False, max_new_tokens=room[rows[0]], eos_token_id=ends, pad_token_id=ends[0]
        )
        with torch.inference_mode():
            output_BL = model.generate(
                input_ids_BL.to(model.device),
                attention_mask=attention_BL.to(model.device),
                generation_config=config,
            )
        for row, new in zip(rows, output_BL[:, longest:].tolist(), strict=True):
            end = next((place for place, token in enumerate(new) if token in ends), len(new))
            found[row] = new[:end]
    return found


def room_of(model: PreTrainedModel, prompts: list[list[int]], max_new_tokens: int) -> list[int]:
    """Return how many tokens may follow each prompt: 0 or less if it has all of the model's
    positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not positions:
        return [max_new_tokens] * len(prompts)
    return [min(max_new_tokens, positions - len(ids)) for ids in prompts]


def _batches(lengths: list[int], room: list[int], tokens_at_once: int) -> list[list[int]]:
    """Cut the rows that have room into batches of at most so many tokens, longest first.

    A row that is longer than that is a batch of its own. Rows of a batch have the same room, since
    all of them generate the same number of tokens.
    """
    order = sorted(
        (row for row in range(len(lengths)) if room[row] > 0),
        key=lambda row: (-room[row], -lengths[row]),
    )
    batches: list[list[int]] = []
    for row in order:
        first = batches[-1][0] if batches else row
        size = tokens_at_once // (lengths[first] + room[first])
        if batches and room[row] == room[first] and len(batches[-1]) < size:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
