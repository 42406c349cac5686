"""The order of training: global batches from token parts, in bounded memory, from any position.

The order is a pure function of the seed and the parts. Training reads an endless sequence of
epochs. Batch s is examples s*B to (s+1)*B of the sequence, so every batch is full. A restart
computes its position and reads only the window that contains it.

An epoch is a permutation of the parts, read one window at a time. Each part must be a random share
of the examples. The parts of a corpus are; `selection.subset.deal` makes such parts of a subset.
Within a window the examples are shuffled, then grouped by length: blocks of BLOCK batches are
sorted by length and cut into batches, and the batches are shuffled. Examples of one batch then have
similar lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute

from s2l_ray.models.batch import Example

WINDOW_ROWS = 1 << 16  # examples in memory at a time; about 100 MB of tokens

BLOCK = 50  # batches that are sorted by length together


class BatchStream:
    """Endless global batches over parts with `rows_per_part` trainable examples each.

    `read(index)` returns part `index` as a table (schema TOKENS). Examples without a label token
    are skipped; rows_per_part does not count them.
    """

    def __init__(
        self,
        read: Callable[[int], pa.Table],
        rows_per_part: list[int],
        *,
        seed: int,
        batch_size: int,
        window_rows: int = WINDOW_ROWS,
    ) -> None:
        self.read, self.rows_per_part = read, rows_per_part
        self.seed, self.batch_size, self.window_rows = seed, batch_size, window_rows
        self.num_examples = sum(rows_per_part)
        if self.num_examples == 0:
            raise ValueError("nothing to train on: no example has a label token left")

    def batches(self, first: int = 0) -> Iterator[list[Example]]:
        """Yield batches `first`, `first` + 1, … without end, of `batch_size` examples each."""
        batch: list[Example] = []
        for example in self._examples(first * self.batch_size):
            batch.append(example)
            if len(batch) == self.batch_size:
                yield batch
                batch = []

    def windows(self, epoch: int) -> list[list[int]]:
        """List the parts of each window of an epoch, in reading order."""
        order = self._random(epoch).permutation(len(self.rows_per_part))
        windows: list[list[int]] = []
        rows = self.window_rows
        for index in order.tolist():
            if rows >= self.window_rows:
                windows.append([])
                rows = 0
            windows[-1].append(index)
            rows += self.rows_per_part[index]
        return windows

    def _examples(self, position: int) -> Iterator[Example]:
        epoch, skip = divmod(position, self.num_examples)
        start = epoch * self.num_examples
        while True:
            for number, window in enumerate(self.windows(epoch)):
                rows = sum(self.rows_per_part[index] for index in window)
                if skip >= rows:
                    skip -= rows
                else:
                    yield from self._window(window, epoch, number, start, skip)
                    skip = 0
                start += rows
            epoch += 1

    def _window(
        self, window: list[int], epoch: int, number: int, start: int, skip: int
    ) -> Iterator[Example]:
        tables = []
        for index in window:
            table = self.read(index)
            table = table.filter(pa.compute.greater(table["num_label_tokens"], 0))
            if table.num_rows != self.rows_per_part[index]:
                raise ValueError(
                    f"part {index}: found {table.num_rows} trainable examples, expected "
                    f"{self.rows_per_part[index]}"
                )
            tables.append(table.select(["input_ids", "loss_mask"]))
        table = pa.concat_tables(tables).combine_chunks()
        ids, offsets = _flat(table["input_ids"])
        mask, _ = _flat(table["loss_mask"])
        order = grouped_by_length(
            np.diff(offsets),
            self._random(epoch, number),
            batch_size=self.batch_size,
            first=-start % self.batch_size,
        )
        for row in order[skip:].tolist():
            span = slice(offsets[row], offsets[row + 1])
            yield ids[span].astype(np.int64), mask[span]

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, *key]))


def grouped_by_length(
    lengths: np.ndarray, random: np.random.Generator, *, batch_size: int, first: int
) -> np.ndarray:
    """Return a permutation of the rows: `first` rows that complete the batch of the window before,
    then batches of rows of similar length in random order, then the remaining rows."""
    order = random.permutation(len(lengths))
    first = min(first, len(order))
    end = first + (len(order) - first) // batch_size * batch_size
    body = order[first:end]
    block = BLOCK * batch_size
    batches = [
        rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, batch_size)
        for rows in (body[i : i + block] for i in range(0, len(body), block))
    ]
    if batches:
        shuffled = np.concatenate(batches)
        body = shuffled[random.permutation(len(shuffled))].reshape(-1)
    return np.concatenate([order[:first], body, order[end:]])


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the values of a list column, and return the offsets of the rows [N + 1]."""
    array = column.chunk(0) if column.num_chunks else column.combine_chunks()
    offsets = array.offsets.to_numpy()
    return array.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0]
