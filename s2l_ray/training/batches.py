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

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import overload

import numpy as np
import pyarrow as pa

from s2l_ray.models.ahead import ahead
from s2l_ray.models.batch import Example
from s2l_ray.training.windows import Window, read_window

WINDOW_ROWS = 1 << 16  # examples of a window; about 65 MB of tokens

BLOCK = 50  # batches that are sorted by length together


class GlobalBatch(Sequence[Example]):
    """The examples of a step over all workers. Only those that are asked for are made.

    pieces: windows, and the rows of each.
    """

    def __init__(self, pieces: list[tuple[Window, np.ndarray]]) -> None:
        self.places = list(chain(*(zip(repeat(w), rows.tolist()) for w, rows in pieces)))
        self.lengths_B = np.concatenate([window.lengths[rows] for window, rows in pieces])
        self.labels_B = np.concatenate([window.labels[rows] for window, rows in pieces])
        self.weights_B = None  # all are 1
        if len(pieces[0][0].weights):
            self.weights_B = np.concatenate([window.weights[rows] for window, rows in pieces])

    @classmethod
    def of(cls, examples: Sequence[Example]) -> GlobalBatch:
        return cls([(Window.of(examples), np.arange(len(examples)))])

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [window.example(row) for window, row in self.places[place]]
        window, row = self.places[place]
        return window.example(row)


class BatchStream:
    """Endless global batches over parts with `rows_per_part` trainable examples each.

    `read(index)` returns part `index` as a table (schema TOKENS). Examples without a label token
    are skipped; rows_per_part does not count them. A thread reads and shuffles the next window
    while the batches of one are used.

    shared: reads windows once for all workers of a node (training.node_windows).
    """

    def __init__(
        self,
        read: Callable[[int], pa.Table],
        rows_per_part: list[int],
        *,
        seed: int,
        batch_size: int,
        window_rows: int = WINDOW_ROWS,
        shared: Callable[[str, Callable[[], Window]], Window] | None = None,
    ) -> None:
        self.read, self.rows_per_part, self.shared = read, rows_per_part, shared
        self.seed, self.batch_size, self.window_rows = seed, batch_size, window_rows
        self.num_examples = sum(rows_per_part)
        if self.num_examples == 0:
            raise ValueError("nothing to train on: no example has a label token left")

    def batches(self, first: int = 0) -> Iterator[GlobalBatch]:
        """Yield batches `first`, `first` + 1, … without end, of `batch_size` examples each."""
        pieces, missing = list[tuple[Window, np.ndarray]](), self.batch_size
        for window, order in ahead(self._windows(first * self.batch_size), 1):
            while len(order):
                pieces.append((window, order[:missing]))
                missing, order = missing - len(pieces[-1][1]), order[missing:]
                if not missing:
                    yield GlobalBatch(pieces)
                    pieces, missing = [], self.batch_size

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

    def _windows(self, position: int) -> Iterator[tuple[Window, np.ndarray]]:
        """Yield windows and the order of their rows, from a position in the sequence."""
        epoch, skip = divmod(position, self.num_examples)
        start = epoch * self.num_examples
        while True:
            for number, parts in enumerate(self.windows(epoch)):
                rows = sum(self.rows_per_part[index] for index in parts)
                if skip >= rows:
                    skip -= rows
                else:
                    window = self._window(parts, f"{epoch}-{number}")
                    order = grouped_by_length(
                        window.lengths,
                        self._random(epoch, number),
                        batch_size=self.batch_size,
                        first=-start % self.batch_size,
                    )
                    yield window, order[skip:]
                    skip = 0
                start += rows
            epoch += 1

    def _window(self, parts: list[int], name: str) -> Window:
        rows = {index: self.rows_per_part[index] for index in parts}
        if self.shared is None:
            return read_window(self.read, rows)
        return self.shared(name, lambda: read_window(self.read, rows))

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
