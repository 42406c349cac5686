"""What stages take beside training and scoring: seconds, files and bytes.

Seconds are those of a machine with two cores (AMD EPYC, no GPU) under ray 2.60 and torch 2.13. They
are rough, and matter in runs of minutes; training and scoring are measured. benchmarks/plan.py
compares the sum with real runs. "The demo" is configs/demo.yaml, its times those in run.json.
"""

from __future__ import annotations

from typing import NamedTuple

# Seconds.
RUN = 18.0  # start of Ray, imports, the report, the end: 134 s of the demo less its stages' 116 s
TASKS = 1.0  # until tasks of a stage work: the demo's tokens
# A training in a task (training/alone.py): the demo's targets take 6.9 s each, two at a time, less
# 87,200 tokens at 16,800/s.
IN_A_TASK = 1.7
RAY_TRAIN = 4.5  # a training's start, beside what its workers take to be ready (pipeline/speed.py)
WORKERS = 11.0  # until workers of a training are ready, if that is not measured
ACTORS = 6.0  # actors start and load a model: the demo's losses less 1,421,848 tokens at 213,000/s
LOADING = 0.2  # an actor loads another small checkpoint
READING = 1e9  # bytes of weights that a process reads in a second; assumed
# A worker's step in a run, relative to one alone on its CPU: threads that prepare its batches, and
# Ray, share the cores. The demo's proxy: 45 ms to 36 ms; its targets: 212 ms to 202 ms.
BESIDE = 1.15

# CPU seconds.
WRITING = 8e-6  # per row of a corpus, beside reading it: docs/performance.md, 1,000,000 rows
ASSEMBLING = 1.5e-6  # per loss
DRAWING = 4.2e-6  # per example: benchmarks/scale.py, 10,000,000 rows in 21 s
RANKING = 5e-6  # per example
SEARCHING = 6e-6  # per row of a corpus that is searched for the purpose's: 3,028 short rows
SIGNING = 300e-6  # per example: signatures of near-duplicates, 28,930 math problems
GROUPING = 60e-6  # per example: their groups
PAIRS = {"facility_location": 6.4e-6, "k_center": 2.8e-6}  # per example and chosen one: selectors

# Bytes on the store.
LOSS = 15.0  # per example and checkpoint: the demo
TRAJECTORY = 6.0  # the same
SIGNATURE = 520.0  # per example
GROUP = 17.0  # per example, of clusters and rankings
WEIGHT = 4.0  # a checkpoint is in fp32
MODEL_FILES = 5  # of a checkpoint
ADAPTERS = 0.01  # weights of adapters, as a share of the model's


class Stored(NamedTuple):
    """What a stage leaves on the store, and its requests there."""

    bytes: float = 0.0
    puts: float = 0.0
    gets: float = 0.0


def clustering(examples: float, checkpoints: int, n_clusters: int, cpus: float) -> float:
    """Seconds of k-means: actors start; samples grow to all rows, so most rows are seen few times.

    Fitted to 3.6 s for 5,546 rows (20 clusters), and 8, 24, 31 and 63 s for 28,930 and 1, 3 and
    10 million (12 checkpoints, 100 clusters, two cores).
    """
    size = checkpoints / 12 * n_clusters / 100
    return (
        3.5 + 9.0 / cpus * (examples / 28_930) ** 0.25 * size**0.5 + 8.8e-6 * examples * size / cpus
    )
