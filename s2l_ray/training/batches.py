"""The order of training: global batches from token parts, in bounded memory, at any position.

The order is a pure function of the seed and the parts. Training reads one endless sequence of
epochs; batch s is the sequence's examples s*B to (s+1)*B, so every batch is full and a restart
finds its place by arithmetic, reading no more than the window it lands in.

An epoch is a permutation of the parts, read a window at a time; each part is to be a random share
of the examples, as those of the corpus are (subset.deal makes such parts of a subset). Inside a
window the examples are shuffled, then grouped by length: runs of POOL batches are sorted by length,
cut into batches, and the batches shuffled, so that the examples of one batch have about the same
length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute

from s2l_ray.models.batch import Example

WINDOW_ROWS = 1 << 16  # examples in memory at a time; about 100 MB of tokens
POOL = 50  # batches sorted by length together


class BatchStream:
    """Endless global batches over parts with `rows_per_part` trainable examples each.

    `read(index)` gives part `index` as a table of the schema `store.TOKENS`; its examples without
    a label token are left out and must not be counted in rows_per_part.
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
            raise ValueError("no example has a label token left: nothing to train on")

    def batches(self, first: int = 0) -> Iterator[list[Example]]:
        """Batches `first`, `first` + 1, … without end, `batch_size` examples each."""
        batch: list[Example] = []
        for example in self._examples(first * self.batch_size):
            batch.append(example)
            if len(batch) == self.batch_size:
                yield batch
                batch = []

    def windows(self, epoch: int) -> list[list[int]]:
        """The parts of each window of an epoch, in reading order."""
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
                    f"part {index} has {table.num_rows} trainable examples, "
                    f"{self.rows_per_part[index]} were counted"
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
    """A permutation of the rows: `first` rows (the rest of a batch begun before), then batches of
    rows of similar length in random order, then what is left."""
    order = random.permutation(len(lengths))
    first = min(first, len(order))
    end = first + (len(order) - first) // batch_size * batch_size
    body = order[first:end]
    pool = POOL * batch_size
    batches = [
        rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, batch_size)
        for rows in (body[i : i + pool] for i in range(0, len(body), pool))
    ]
    if batches:
        shuffled = np.concatenate(batches)
        body = shuffled[random.permutation(len(shuffled))].reshape(-1)
    return np.concatenate([order[:first], body, order[end:]])


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """All values of a list column end to end, and the row offsets into them [N + 1]."""
    array = column.chunk(0) if column.num_chunks else column.combine_chunks()
    offsets = array.offsets.to_numpy()
    return array.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0]
