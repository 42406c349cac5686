"""Tokens made of tokens, part by part: half of the examples, or responses without prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from s2l_ray.corpus.tokenization import counts_of
from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.store import Manifest, Store
from s2l_ray.store.schemas import TOKENS
from s2l_ray.store.views import TokensView

FOLDS = 2


def fold_of(store: Store, tokens: Manifest, number: int, **where: str) -> Manifest:
    """Write the tokens of the examples in a fold: for cross-fitting, where the proxy of one half
    scores the other. An example's fold is the last bit of its id, which is a hash.

    where: folder and fingerprint.
    """
    return _derived(store, tokens, partial(_fold, number=number), f"fold {number}", **where)


def without_prompts(store: Store, tokens: Manifest, **where: str) -> Manifest:
    """Write the tokens of each example from the one before its first label on: without its prompt,
    but for the end of it, which the template has before every response. where: as in fold_of."""
    return _derived(store, tokens, _without_prompt, "responses alone", **where)


def _derived(
    store: Store,
    tokens: Manifest,
    derive: Callable[[pa.Table], pa.Table],
    label: str,
    *,
    folder: str,
    fingerprint: str,
) -> Manifest:
    view = TokensView(tokens)
    info = {"tokenizer": view.tokenizer, "max_length": view.max_length, "labels": view.labels}
    if view.tokenizer_checksum is not None:
        info["tokenizer_checksum"] = view.tokenizer_checksum
    args = store, tokens.folder, derive
    return map_parts(
        store, units_of(tokens), _Derive, args,
        folder=folder, fingerprint=fingerprint, label=label, info=info,
    )  # fmt: skip


class _Derive:
    def __init__(self, store: Store, folder: str, derive: Callable[[pa.Table], pa.Table]) -> None:
        self.store, self.folder, self.derive = store, folder, derive

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.derive(self.store.read_part(self.folder, unit["part"])).combine_chunks()
        return table, counts_of(table)


def _fold(tokens: pa.Table, number: int) -> pa.Table:
    return tokens.filter(pa.array(tokens["example_id"].to_numpy() % FOLDS == number))


def _without_prompt(tokens: pa.Table) -> pa.Table:
    masks = tokens["loss_mask"].to_pylist()
    starts = [mask.index(True) - 1 if any(mask) else 0 for mask in masks]
    for name in ("input_ids", "loss_mask"):
        cut = [row[start:] for row, start in zip(tokens[name].to_pylist(), starts, strict=True)]
        place = TOKENS.get_field_index(name)
        tokens = tokens.set_column(place, name, pa.array(cut, TOKENS.field(name).type))
    return tokens
