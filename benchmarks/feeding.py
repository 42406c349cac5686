"""What it costs to prepare the batches of training, on generated tokens.

    python benchmarks/feeding.py

- `window`: to read and shuffle the examples, per example; once per node.
- `share`: to cut one worker's share of the global batches into micro-batches, per example of the
  global batch. `packed`: into rows without padding.

Microseconds of CPU time. In training, threads do both in advance.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pyarrow as pa
import torch

from benchmarks import machine
from s2l_ray.store import Store
from s2l_ray.store.schemas import TOKENS
from s2l_ray.training.batches import BatchStream, GlobalBatch
from s2l_ray.training.step import share_of

SEED = 0
BATCH, MICRO_BATCH = 128, 4
PART = 20_000  # examples


def tokens_of(count: int, mean: int) -> pa.Table:
    """Examples of up to twice the mean length, of which the latter half are labels."""
    random = np.random.default_rng(SEED)
    lengths = random.integers(2, 2 * mean, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = np.minimum(random.zipf(1.2, offsets[-1]), 49_999).astype(np.int32)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    mask = places >= np.repeat(lengths - lengths // 2, lengths)
    columns = [
        np.arange(count),
        pa.ListArray.from_arrays(offsets, ids),
        pa.ListArray.from_arrays(offsets, pa.array(mask)),
        (lengths // 2).astype(np.int32),
        np.zeros(count, bool),
    ]
    return pa.table(columns, schema=TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", type=int, default=10, help=f"of {PART:,} examples each")
    parser.add_argument("--tokens", type=int, default=200, help="mean length of an example")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        table = tokens_of(PART, arguments.tokens)
        parts = [
            store.write_part(table, "tokens", f"part-{number}") for number in range(arguments.parts)
        ]
        stream = BatchStream(
            lambda index: store.read_part("tokens", parts[index]),
            [PART] * len(parts),
            seed=SEED,
            batch_size=BATCH,
        )
        began = time.process_time()
        windows = list(islice(stream._windows(0), len(stream.windows(0))))
        total = sum(len(order) for _, order in windows)
        rows = [{"what": "window", "µs": (time.process_time() - began) / total * 1e6}]
    batches = [
        GlobalBatch([(window, order[first : first + BATCH])])
        for window, order in windows
        for first in range(0, len(order) - BATCH, BATCH)
    ]
    for what, tokens_per_row in (("share", None), ("share, packed", 8 * arguments.tokens)):
        began = time.process_time()
        for batch in batches:
            share_of(
                batch,
                micro_batch_size=MICRO_BATCH,
                world=arguments.workers,
                tokens_per_row=tokens_per_row,
            )
        seconds = time.process_time() - began
        rows.append({"what": what, "µs": seconds / len(batches) / BATCH * 1e6})
    print(machine.table(rows, ["what", "µs"]))
    machine.write(arguments.json, vars(arguments), rows)


if __name__ == "__main__":
    main()
