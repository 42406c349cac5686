"""The halves of a corpus for cross-fitting: what one proxy is trained on, the other scores."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from s2l_ray.corpus.tokenization import counts_of
from s2l_ray.execution.parts import map_parts, units_of
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import TokensView

FOLDS = 2


def fold_of(
    store: Store, tokens: Manifest, number: int, *, folder: str, fingerprint: str
) -> Manifest:
    """Write the tokens of the examples in a fold, parts as before. An example's fold is the last
    bit of its id, which is a hash."""
    view = TokensView(tokens)
    info = {"tokenizer": view.tokenizer, "max_length": view.max_length, "labels": view.labels}
    if view.tokenizer_checksum is not None:
        info["tokenizer_checksum"] = view.tokenizer_checksum
    return map_parts(
        store,
        units_of(tokens),
        _Fold,
        (store, tokens.folder, number),
        folder=folder,
        fingerprint=fingerprint,
        label=f"fold {number}",
        info=info,
    )


class _Fold:
    def __init__(self, store: Store, folder: str, number: int) -> None:
        self.store, self.folder, self.number = store, folder, number

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = self.store.read_part(self.folder, unit["part"])
        mine = table["example_id"].to_numpy() % FOLDS == self.number
        table = table.filter(pa.array(mine)).combine_chunks()
        return table, counts_of(table)
