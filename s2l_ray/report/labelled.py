"""Random examples of a run as the proxy is given them: each token, and whether it is a label."""

from __future__ import annotations

import random
from collections.abc import Iterator

from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.pipeline.run import Run
from s2l_ray.report.data import Labelled
from s2l_ray.report.html import printable
from s2l_ray.store import Part
from s2l_ray.store.views import TokensView

WIDTH = 100  # characters of a line in the terminal
PROMPT, LABEL = "        ", " LABEL  "


def labelled_examples(run: Run, count: int) -> list[Labelled]:
    """Return random examples of the tokenized corpus, the same ones each time for the run's seed.

    Fewer than `count` if few have tokens: an example that the chat template refuses has none.
    """
    tokens = run.get(run.plan.tokens)
    tokenizer = load_tokenizer(run.store, TokensView(tokens).tokenizer)
    found: list[Labelled] = []
    for part, row in _drawn(run, count):
        columns = ["input_ids", "loss_mask"]
        encoded = run.store.read_part(tokens.folder, part, columns).slice(row, 1).to_pylist()[0]
        if not encoded["input_ids"]:
            continue
        corpus = run.get(run.plan.corpus)
        [origin] = [each for each in corpus.parts if each.unit == part.unit]
        about = run.store.read_part(corpus.folder, origin, ["source", "file", "row"])
        told = about.slice(row, 1).to_pylist()[0]
        texts = [tokenizer.decode([token]) for token in encoded["input_ids"]]
        pairs = zip(texts, encoded["loss_mask"], strict=True)
        found.append(Labelled(f"{told['file']}:{told['row']}", told["source"], list(pairs)))
        if len(found) == count:
            break
    return found


def _drawn(run: Run, count: int) -> Iterator[tuple[Part, int]]:
    """Yield part and row of random examples, some more than `count`."""
    parts = run.get(run.plan.tokens).parts
    total = sum(part.rows for part in parts)
    for place in random.Random(run.config.seed).sample(range(total), min(total, 10 * count)):
        for part in parts:
            if place < part.rows:
                yield part, place
                break
            place -= part.rows


def as_text(examples: list[Labelled]) -> str:
    """Return the examples for a terminal: a bar after each token, LABEL before lines of labels."""
    lines = []
    for number, example in enumerate(examples, 1):
        lines.append(
            f"{number} of {len(examples)}: {example.place}, source {example.source}, "
            f"{len(example.tokens):,} tokens, {example.labels:,} labels"
        )
        for is_label, texts in example.runs:
            lines += _wrapped(LABEL if is_label else PROMPT, texts)
        lines.append("")
    return printable("\n".join(lines).rstrip())


def _wrapped(mark: str, texts: list[str]) -> Iterator[str]:
    line = ""
    for text in texts:
        shown = text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
        if line and len(mark) + len(line) + len(shown) > WIDTH:
            yield f"{mark}{line}"
            line = ""
        line += f"{shown}|"
    yield f"{mark}{line}"
