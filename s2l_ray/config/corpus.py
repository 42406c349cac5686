"""The sections corpus and prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from s2l_ray.config.base import Section
from s2l_ray.config.values import Location, Share


class CorpusConfig(Section):
    """Where the examples come from and how a row becomes an example."""

    path: Location | Annotated[list[Location], Field(min_length=1)] = Field(
        description="file, glob or folder (local or s3://), several of them, or hf://owner/dataset"
    )
    format: Literal["auto", "jsonl", "parquet"] = "auto"  # of files
    split: str = "train"  # of a Hugging Face dataset
    # Our field -> the column's name; fields left out are detected. source: null, if the column of
    # that name tells none.
    columns: dict[Literal["instruction", "input", "output", "messages", "source"], str | None] = {}
    source: str | None = None  # for rows without a source column; else "default"
    max_rejected_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    duplicates: Literal["drop", "number"] = "drop"
    heldout_share: Share = 0.0  # set aside for evaluation before the proxy sees the corpus
    num_parts: Annotated[int, Field(ge=1, le=10_000)] | None = None  # unless set: about 64 MB each

    @field_validator("columns")
    @classmethod
    def _named(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for field, column in value.items():
            if column is None and field != "source":
                raise ValueError(
                    f"{field}: found null, wanted a column's name; only source has none"
                )
        return value


class PromptConfig(Section):
    """How an example becomes text: a named template or one's own, and where it is cut."""

    template: Literal["alpaca", "radiology", "plain", "chat", "custom"] = "alpaca"
    prompt: str | None = None  # custom: text with {instruction}, used without an input
    prompt_with_input: str | None = None  # custom: text with {instruction} and {input}
    max_length: Annotated[int, Field(ge=2)] = 512

    @model_validator(mode="after")
    def _custom(self) -> PromptConfig:
        if (self.template == "custom") != (self.prompt is not None):
            raise ValueError("prompt.prompt goes with prompt.template: custom, and only with it")
        if self.prompt is not None and "{instruction}" not in self.prompt:
            raise ValueError("prompt.prompt lacks {instruction}")
        if self.prompt_with_input is not None and not (
            "{instruction}" in self.prompt_with_input and "{input}" in self.prompt_with_input
        ):
            raise ValueError("prompt.prompt_with_input lacks {instruction} or {input}")
        return self
