"""The sections corpus and prompt."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.values import ImportName, Location, Share


class CorpusConfig(Section):
    """Where the examples come from and how a row becomes an example."""

    newer: ClassVar = (
        "roles",
        "ignore_keys",
        "max_row_bytes",
        "share",
        "grow",
        "heldout_per_source",
    )

    path: Location | Annotated[list[Location], Field(min_length=1)] = Field(
        description="Where the examples are: a file, folder or glob (local or `s3://`), a list of "
        "these, `hf://owner/dataset@revision:config/split` (all but the name optional), or `demo`, "
        "the built-in corpus of 6,000 made-up examples. `demo-uneven` is a built-in one in which "
        "selection can matter, `demo-uneven-test` the test set for it."
    )
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow"] = Field(
        "auto",
        description="Format of the files. `auto` goes by the ending: JSON lines (`.jsonl`, "
        "`.ndjson`), JSON documents or lines (`.json`), `.csv`, `.tsv`, all also compressed "
        "(`.gz`, `.bz2`, `.zst`, `.xz`), `.parquet`, and Arrow (`.arrow`, `.feather`). The others "
        "read only their own files in a folder or glob, and a single file of any name.",
    )
    split: str | None = Field(
        None,
        description="Split to read from `hf://` datasets, saved datasets, and folders or globs "
        "whose names tell splits apart. `null` means the split that the path names "
        "(`hf://owner/dataset:config/split`), or `train`.",
    )
    columns: dict[
        Literal[
            "instruction", "input", "output", "messages", "source", "system", "tools", "history",
            "reasoning", "topic",
        ],
        str | None,
    ] = Field(
        {},
        description="Column names by field, such as `{instruction: question, output: answer}`. "
        "Fields left out are detected for each row; `source: null` ignores a column named "
        "`source`. `topic` is read only if it is given: a label that `diagnose` compares clusters "
        "with in place of the source, and that reaches no model.",
    )  # fmt: skip
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        {},
        description="Roles of messages by the names that the corpus gives them, such as "
        "`{customer: user, agent: assistant}`, beside the usual names. Case and surrounding spaces "
        "are ignored.",
    )
    ignore_keys: list[str] = Field(
        [],
        description="Keys of messages, and columns, that are left out. Otherwise a row is rejected "
        "if a message has an unknown key with content, or a column has content that would reach a "
        "model and is not read, such as `images`.",
    )
    map: ImportName | None = Field(
        None,
        description="Function, as `module:function`, that turns a row (a dict of its columns) into "
        "a row of a known shape. It returns a dict, or None or a string (the reason) to reject the "
        "row; an exception rejects it too, and `max_rejected_share` counts them all. The module "
        "must be importable where the run starts and need only installed packages; nodes need no "
        "copy of it. Its source counts in the corpus's fingerprint. Evaluation files pass through "
        "the function too. `null` reads rows as they are.",
    )
    source: str | None = Field(
        None, description="Source of the rows that name none. `null` means `default`."
    )
    max_rejected_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="Share of unusable rows, from 0 to 1, above which the run stops. Unusable rows "
        "are kept in `corpus/rejected` with the reason.",
    )
    max_row_bytes: Annotated[int, Field(ge=1)] = Field(
        16 * 2**20,
        description="Size of the longest row that is read, in bytes without compression. Longer "
        "rows are rejected before they are parsed.",
    )
    duplicates: Literal["drop", "number"] = Field(
        "drop",
        description="What to do with a row that repeats the source and text of another: `drop` "
        "removes and counts it, `number` keeps it under its own id.",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of the rows to use, up to 1, chosen by a hash of their content: a "
        "smaller corpus for a first look, as `pilot` takes. A larger share has all rows of a "
        "smaller one. All rows are read, but the others are neither kept nor counted.",
    )
    heldout_share: Share = Field(
        0.0,
        description="Share of the examples, from 0 to below 1, that is set aside for evaluation "
        "before the proxy sees the corpus.",
    )
    heldout_per_source: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None,
        description="Examples of each source that are set aside for evaluation, in place of "
        "`heldout_share`: those whose contents have the smallest hashes; of a small source no more "
        "than half. With 100 or more, `compare` can average over the sources.",
    )
    grow: bool = Field(
        False,
        description="When files are added at `path`, read, tokenize and score these alone, at the "
        "proxy's kept checkpoints, give them to the clusters that exist, and select from all. "
        "Files that were read before must stay as they are. `s2l-ray refit` trains the proxy on "
        "all examples again.",
    )
    num_parts: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Number of parts that the corpus is stored in. `null` aims at 64 MB per part, "
        "and at up to 32 parts for small corpora.",
    )

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"split": self.split or "train"}

    @field_validator("columns")
    @classmethod
    def _named(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for field, column in value.items():
            if column is None and field != "source":
                raise ValueError(
                    f"{field}: expected a column name, got null; only source may be null"
                )
        return value

    @model_validator(mode="after")
    def _one_draw(self) -> CorpusConfig:
        if self.heldout_share and self.heldout_per_source is not None:
            raise ValueError(
                f"heldout_per_source: found {self.heldout_per_source} beside heldout_share: "
                f"{self.heldout_share:g}; set one of them"
            )
        return self

    @property
    def holds_out(self) -> bool:
        """Whether examples are set aside for evaluation."""
        return bool(self.heldout_share) or self.heldout_per_source is not None


class PromptConfig(Section):
    """How an example becomes text, and where it is cut."""

    template: Literal["alpaca", "radiology", "plain", "chat", "custom"] = Field(
        "alpaca",
        description="Prompt template: `alpaca` and `radiology` (those of the S2L authors), `plain` "
        "(the instruction alone), `chat` (a chat template) or `custom`.",
    )
    prompt: str | None = Field(
        None,
        description="Text of the `custom` template, with `{instruction}`, for examples without an "
        "input. `null` for the other templates.",
    )
    prompt_with_input: str | None = Field(
        None,
        description="Text of the `custom` template, with `{instruction}` and `{input}`, for "
        "examples with an input. `null` puts the input on a new line after the instruction.",
    )
    chat_template: str | None = Field(
        None,
        description="Chat template for the template `chat`: a file, or a model family whose "
        "template the package `trl` has, such as `qwen3` or `llama3`. `null` takes the "
        "tokenizer's own; base models such as Pythia have none.",
    )
    max_length: Annotated[int, Field(ge=2)] = Field(
        512,
        description="Maximum length of an example in tokens, prompt included. Longer examples are "
        "cut at the end.",
    )

    @model_validator(mode="after")
    def _custom(self) -> PromptConfig:
        if (self.template == "custom") != (self.prompt is not None):
            raise ValueError("prompt.prompt: the template custom needs it, the others refuse it")
        if self.prompt is not None and "{instruction}" not in self.prompt:
            raise ValueError("prompt.prompt lacks {instruction}")
        if self.prompt_with_input is not None and not (
            "{instruction}" in self.prompt_with_input and "{input}" in self.prompt_with_input
        ):
            raise ValueError("prompt.prompt_with_input lacks {instruction} or {input}")
        if self.chat_template is not None and self.template != "chat":
            raise ValueError(
                f"prompt.chat_template: expected prompt.template chat, found {self.template}"
            )
        return self
