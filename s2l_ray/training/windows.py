"""Windows of training: the trainable examples of some token parts, in memory. N examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from s2l_ray.models.batch import Example


class Window(NamedTuple):
    """Examples in arrays of tokens. Example n is at starts[n], lengths[n] tokens long."""

    ids: np.ndarray  # int32, every token
    mask: np.ndarray  # bool, every token: the label tokens
    starts: np.ndarray  # int64 [N]
    lengths: np.ndarray  # int64 [N]
    labels: np.ndarray  # int32 [N]: label tokens of each example
    weights: np.ndarray  # float32 [N]: of each example's losses; empty if all are 1

    def example(self, row: int) -> Example:
        span = slice(start := self.starts[row], start + self.lengths[row])
        return self.ids[span].astype(np.int64), self.mask[span]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Window:
        ids, masks = zip(*examples, strict=True)
        lengths = np.array([len(mask) for mask in masks])
        labels = np.array([mask.sum() for mask in masks])
        starts = np.cumsum(lengths) - lengths
        none = np.empty(0, np.float32)
        return cls(np.concatenate(ids), np.concatenate(masks), starts, lengths, labels, none)


def read_window(read: Callable[[int], pa.Table], rows_by_part: dict[int, int]) -> Window:
    """Read the trainable examples of some parts (schema TOKENS), part -> their number.

    The arrays have the tokens of other examples too: Arrow takes 5 µs per list to filter them out.
    """
    windows, start = list[Window](), 0
    for index, expected in rows_by_part.items():
        table = read(index)
        ids, offsets = _flat(table["input_ids"])
        mask, _ = _flat(table["loss_mask"])
        labels = table["num_label_tokens"].to_numpy()
        assert mask.sum() == labels.sum(), f"part {index}: num_label_tokens is not the mask's"
        rows = np.flatnonzero(labels)
        if len(rows) != expected:
            raise ValueError(
                f"part {index}: found {len(rows)} trainable examples, expected {expected}"
            )
        lengths = np.diff(offsets)[rows]
        weights = np.empty(0, np.float32)
        if "weight" in table.column_names:
            weights = table["weight"].to_numpy()[rows]
        windows.append(Window(ids, mask, start + offsets[rows], lengths, labels[rows], weights))
        start += len(ids)
    return Window(*map(np.concatenate, zip(*windows, strict=True)))


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the values of a list column, and return the offsets of the rows [N + 1]."""
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    return array.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0]
