"""How much a run has to do: examples and tokens, exact from finished stages, or estimated from a
sample of the sources."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import AutoTokenizer

from s2l_ray.config import ModelConfig, PromptConfig, RunConfig, parse_budget
from s2l_ray.corpus.apart import sample_apart
from s2l_ray.corpus.families import template_text
from s2l_ray.corpus.purpose import purpose_config
from s2l_ray.corpus.sources import split_of_path
from s2l_ray.corpus.tokenization import encode_table
from s2l_ray.corpus.tokenizer import TOKENIZER_EXAMPLES, texts_of_table, train_tokenizer
from s2l_ray.models.batch import Example, examples_of
from s2l_ray.models.memory import config_of
from s2l_ray.pipeline.folds import without_signals
from s2l_ray.pipeline.plan import Plan
from s2l_ray.store import Manifest, Store, tables
from s2l_ray.store.schemas import EXAMPLES, completed
from s2l_ray.store.views import CorpusView, TokensView

TOKENIZED = 4000  # examples of the sample


@dataclass(frozen=True)
class Counts:
    """Examples as a model sees them.

    examples: with a label token; tokens and labels are theirs. bytes: of all tokens on the store.
    seconds: CPU time of tokenizing all. tokenizer_seconds: of training the tokenizer first.
    some: a few of them, to measure speed with.
    """

    examples: int
    tokens: int
    labels: int
    truncated: float  # share of the rows
    bytes: int
    seconds: float
    tokenizer_seconds: float
    some: list[Example]

    @property
    def tokens_each(self) -> float:
        return self.tokens / max(1, self.examples)

    @property
    def label_share(self) -> float:
        return self.labels / max(1, self.tokens)

    def scaled(self, share: float) -> Counts:
        """Return the counts of a share of the examples."""
        names = ("examples", "tokens", "labels", "bytes")
        counts: dict[str, Any] = {name: round(getattr(self, name) * share) for name in names}
        return replace(self, **counts, seconds=self.seconds * share)


@dataclass(frozen=True)
class Workload:
    """What a run reads and trains on.

    sampled: rows of the sample that the numbers are from; 0 if they are counts of finished stages.
    counted: whether `rows` is a count. corpus_bytes: of the corpus on the store. read_seconds: CPU
    time of reading all rows.
    """

    config: RunConfig
    rows: int
    counted: bool
    sampled: int
    source_bytes: int
    heldout: int
    num_parts: int
    corpus_bytes: int
    read_seconds: float
    proxy: Counts
    target: Counts | None
    generations: tuple[float, ...] = ()  # shares of the sources, of a corpus that grew
    purpose: int = 0  # rows of selection.toward

    @property
    def half(self) -> Workload:
        """What a proxy of half of the corpus trains on, and scores (pipeline.folds)."""
        return replace(self._part(0.5), config=without_signals(self.config))

    def generation(self, number: int) -> Workload:
        """What one generation of a corpus that grew takes."""
        share = self.generations[number]
        numbers = {
            name: round(getattr(self, name) * share)
            for name in ("rows", "source_bytes", "heldout", "corpus_bytes")
        }
        return replace(self._part(share), read_seconds=self.read_seconds * share, **numbers)

    def _part(self, share: float) -> Workload:
        """Return the same with a share of the proxy's examples."""
        all_of_it = self.proxy
        some = replace(
            all_of_it,
            examples=int(all_of_it.examples * share),
            tokens=int(all_of_it.tokens * share),
            labels=int(all_of_it.labels * share),
            bytes=int(all_of_it.bytes * share),
        )
        return replace(self, proxy=some)

    @property
    def of_purpose(self) -> Workload:
        """What reading, tokenizing and scoring the examples of selection.toward takes."""
        share = self.purpose / max(1, self.proxy.examples)
        counts = replace(self.proxy.scaled(share), tokenizer_seconds=0.0)
        return replace(
            self,
            config=without_signals(self.config),
            rows=self.purpose,
            heldout=0,
            num_parts=min(self.num_parts, max(1, self.purpose)),
            corpus_bytes=round(self.corpus_bytes * share),
            read_seconds=self.read_seconds * share,
            proxy=counts,
        )

    @property
    def measured(self) -> int:
        """Held-out examples that each target is evaluated on: half of them beside a race."""
        return self.heldout // 2 if self.config.races else self.heldout

    def chosen(self, budget: int | float | str) -> int:
        """Return how many examples a budget is, at the corpus's tokens per example."""
        kind, amount = parse_budget(budget)
        if kind == "share":
            amount *= self.proxy.examples
        elif kind == "tokens":
            amount /= max(1.0, self.proxy.tokens_each)
        return max(1, min(round(amount), self.proxy.examples))


class _Texts:
    """Examples of a corpus, and how many times as many there are."""

    def __init__(self, table: pa.Table, examples: int) -> None:
        if table.num_rows > TOKENIZED:  # evenly: sources may follow one another
            table = table.take(np.linspace(0, table.num_rows - 1, TOKENIZED).astype(int))
        self.table, self.examples = table, examples

    @property
    def times(self) -> float:
        return self.examples / max(1, self.table.num_rows)

    @cached_property
    def bytes(self) -> int:
        """Of all examples as parts of a corpus."""
        return round(len(tables.encode(self.table, "parquet", {})) * self.times)

    def counts(self, model: ModelConfig, prompt: PromptConfig) -> Counts:
        """Tokenize the examples as a model sees them."""
        began = time.process_time()
        tokenizer = self._tokenizer(model, prompt)
        training = time.process_time() - began
        began = time.process_time()
        refused: dict[int, str] = {}
        tokens = encode_table(self.table, prompt, tokenizer, refused=refused)
        seconds = time.process_time() - began
        found = _counted(tokens, self.times, seconds)
        texts = min(self.examples, TOKENIZER_EXAMPLES) / max(1, self.table.num_rows)
        training = training * texts if model.tokenizer_vocab else 0.0
        return replace(found, tokenizer_seconds=training)

    def _tokenizer(self, model: ModelConfig, prompt: PromptConfig) -> Any:
        if model.tokenizer_vocab is not None:
            found: Any = train_tokenizer(texts_of_table(self.table), model.tokenizer_vocab)
        else:
            config_of(model)  # says at once if a hub is out of reach
            found = AutoTokenizer.from_pretrained(
                model.tokenizer or model.name, revision=model.revision, trust_remote_code=False
            )
        if prompt.chat_template is not None:
            found.chat_template = template_text(prompt.chat_template)
        return found


def workload(config: RunConfig, plan: Plan, store: Store) -> Workload:
    """Count what exists in the run directory, and estimate the rest from a sample of the sources.

    ValueError or OSError if the sources, or a tokenizer, cannot be read.
    """
    corpus, tokens = (store.manifest(stage.folder) for stage in (plan.corpus, plan.tokens))
    if corpus is not None:
        view, texts = CorpusView(corpus), _texts_of(store, corpus)
        known: dict[str, Any] = {
            "rows": view.rows_read,
            "counted": True,
            "sampled": 0 if tokens else texts.table.num_rows,
            "source_bytes": sum(part.bytes for part in corpus.parts),
            "heldout": view.heldout,
            "num_parts": view.num_parts,
            "corpus_bytes": sum(part.bytes for part in corpus.parts),
            "read_seconds": 0.0,
        }
    else:
        found = sample_apart(config.corpus, seed=config.seed)
        times = found.rows / found.sampled
        texts = _Texts(found.examples, round(found.examples.num_rows * times))
        known = {
            "rows": found.rows,
            "counted": found.counted,
            "sampled": found.sampled,
            "source_bytes": found.bytes,
            "heldout": round(found.heldout * times),
            "num_parts": found.num_parts,
            "corpus_bytes": texts.bytes,
            "read_seconds": found.seconds * found.rows,
        }
    known["heldout"] += sum(_rows_of(config, *each) for each in config.evaluation.files.items())
    if not texts.table.num_rows:
        raise ValueError("corpus.path: no row of the sample is an example")
    proxy = (
        texts.counts(config.proxy.model, config.prompt) if tokens is None else _of(store, tokens)
    )
    target = None
    if config.target is not None:
        prompt = config.target_prompt or config.prompt
        models = config.proxy.model, config.target.model
        same = prompt == config.prompt and _tokenizer_of(models[0]) == _tokenizer_of(models[1])
        target = proxy if same else texts.counts(config.target.model, prompt)
    purpose = 0 if config.selection.toward is None else _rows_of_purpose(config)
    return Workload(
        config=config,
        proxy=proxy,
        target=target,
        generations=plan.corpus.shares,
        purpose=purpose,
        **known,
    )


def _tokenizer_of(model: ModelConfig) -> tuple[Any, ...]:
    return model.tokenizer_vocab, model.tokenizer or model.name, model.revision


def _rows_of(config: RunConfig, name: str, path: str) -> int:
    """Return about how many rows a file of evaluation.files has."""
    split = config.evaluation.split or split_of_path(path, "test")
    update = {"path": path, "split": split, "format": "auto", "share": 1.0}
    update |= {"heldout_share": 0.0, "heldout_per_source": None}
    try:
        return sample_apart(config.corpus.model_copy(update=update), seed=config.seed).rows
    except ValueError as error:
        raise ValueError(f"evaluation.files: {name}: {error}") from error


def _rows_of_purpose(config: RunConfig) -> int:
    try:
        return sample_apart(purpose_config(config), seed=config.seed).rows
    except ValueError as error:
        raise ValueError(f"selection.toward: {error}") from error


def _texts_of(store: Store, corpus: Manifest) -> _Texts:
    found, rows = list[pa.Table](), 0
    for part in corpus.parts:
        if rows >= TOKENIZED:
            break
        found.append(completed(store.read_part(corpus.folder, part), EXAMPLES))
        rows += part.rows
    table = pa.concat_tables(found) if found else EXAMPLES.empty_table()
    return _Texts(table, CorpusView(corpus).examples)


def _of(store: Store, tokens: Manifest) -> Counts:
    """The counts of finished tokens."""
    view, first = TokensView(tokens), next(part for part in tokens.parts if part.rows)
    some = store.read_part(tokens.folder, first).slice(0, TOKENIZED)
    return Counts(
        examples=view.trainable,
        tokens=view.trainable_tokens,
        labels=view.label_tokens,
        truncated=view.truncated / max(1, tokens.rows),
        bytes=sum(part.bytes for part in tokens.parts),
        seconds=0.0,
        tokenizer_seconds=0.0,
        some=_with_labels(some),
    )


def _counted(tokens: pa.Table, times: float, seconds: float) -> Counts:
    some = _with_labels(tokens)
    lengths = sum(len(ids) for ids, _ in some)
    labels = sum(int(mask.sum()) for _, mask in some)
    truncated = sum(tokens["truncated"].to_pylist())
    return Counts(
        examples=round(len(some) * times),
        tokens=round(lengths * times),
        labels=round(labels * times),
        truncated=truncated / max(1, tokens.num_rows),
        bytes=round(len(tables.encode(tokens, "arrow", {})) * times),
        seconds=seconds * times,
        tokenizer_seconds=0.0,
        some=some,
    )


def _with_labels(tokens: pa.Table) -> list[Example]:
    return [example for example in examples_of(tokens) if example[1].any()]
