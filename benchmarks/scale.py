"""Cluster and select many synthetic examples, from Arrow parts to the subset: time and memory.

    python benchmarks/scale.py --rows 1000000 3000000 10000000

Each size runs in its own process, with all CPUs, on a run directory filled beforehand with
trajectories, tokens and a corpus of texts of 500 characters, 62,500 rows per part.

- `cluster`: seconds for k-means, labels and diagnostics. `select`: seconds for the cut at 11% and
  the parts of the subset.
- `cluster GB`: peak memory of all processes and of the object store while clustering, minus the
  memory before. `driver MB`: peak resident memory of the driver.

Below the table: what a billion examples would need, extrapolated from the first and last size.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from s2l_ray.execution.machine import peak_memory

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pyarrow as pa
import ray

from benchmarks import machine
from benchmarks.kmeans import Memory, losses_like
from s2l_ray.clustering.chunks import CHUNK_ROWS
from s2l_ray.clustering.clusters import cluster, read_centers
from s2l_ray.clustering.kmeans import KMeans
from s2l_ray.config import ClustersConfig, SelectionConfig
from s2l_ray.execution import connect as driver
from s2l_ray.formatting import plural
from s2l_ray.selection.choose import choose
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, TOKENS
from s2l_ray.store.views import ClustersView, SelectionView

PART_ROWS = 62_500
BILLION = 10**9
CPUS = 16  # per node
SECONDS = 30  # per iteration over a billion rows


@ray.remote(num_cpus=1)
def make_part(store: Store, index: int, num_parts: int, checkpoints: int) -> list[Part]:
    """The part `index` of corpus, tokens and trajectories."""
    draw = np.random.default_rng(index)
    first, end = (-(-(i << 63) // num_parts) for i in (index, index + 1))
    ids = np.unique(draw.integers(first, end, PART_ROWS))
    rows = len(ids)
    sources = pa.array(draw.choice(["a", "b", "c"], rows))
    answer = {"role": "assistant", "text": "four " * 80}
    turns = [[{"role": "user", "text": f"{n:<100}"}, answer] for n in ids]
    columns: dict[str, Any] = {
        "example_id": ids, "source": sources, "turns": turns, "file": ["made up"] * rows,
        "tools": pa.nulls(rows), "row": np.arange(rows),
    }  # fmt: skip
    examples = pa.table({name: columns[name] for name in EXAMPLES.names}, schema=EXAMPLES)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * 8)
    values = pa.array(np.zeros(8 * rows, np.int32))
    columns |= {
        "input_ids": pa.ListArray.from_arrays(offsets, values),
        "loss_mask": pa.ListArray.from_arrays(offsets, values.cast(pa.bool_())),
        "num_label_tokens": np.full(rows, 4, np.int32), "truncated": np.zeros(rows, bool),
    }  # fmt: skip
    tokens = pa.table({name: columns[name] for name in TOKENS.names}, schema=TOKENS)
    losses = pa.array(losses_like(rows, checkpoints, seed=index).reshape(-1))
    trajectories = pa.table(
        {
            "example_id": ids,
            "source": sources,
            "losses": pa.FixedSizeListArray.from_arrays(losses, checkpoints),
            "num_label_tokens": columns["num_label_tokens"],
        }
    )
    unit = f"part-{index:05d}"
    return [
        store.write_part(examples, "corpus/made", unit, suffix="parquet"),
        store.write_part(
            tokens, "tokens/made", unit, stats={"trainable": rows, "trainable_tokens": 8 * rows}
        ),
        store.write_part(trajectories, "trajectories/made", unit),
    ]


def fill(store: Store, num_rows: int, checkpoints: int) -> list[Manifest]:
    num_parts = -(-num_rows // PART_ROWS)
    made = ray.get([make_part.remote(store, i, num_parts, checkpoints) for i in range(num_parts)])
    return [
        store.commit(f"{name}/made", "made", list(parts), {"num_parts": num_parts})
        for name, parts in zip(("corpus", "tokens", "trajectories"), zip(*made, strict=True),
                               strict=True)
    ]  # fmt: skip


def one(num_rows: int, checkpoints: int, n_clusters: int, folder: str) -> dict[str, Any]:
    """Measure one size; runs in its own process."""
    driver.connect()
    store = Store(folder)
    corpus, tokens, trajectories = fill(store, num_rows, checkpoints)
    began = time.perf_counter()
    with Memory() as memory:
        clusters = cluster(
            store, trajectories, ClustersConfig(n_clusters=n_clusters), by_source=False,
            folder="clusters/made", fingerprint="made",
        )  # fmt: skip
    clustered = time.perf_counter()
    chosen = choose(
        store, SelectionConfig(selector="s2l", budget="11%"), corpus=corpus, tokens=tokens,
        groups=clusters, folder="selections/made", fingerprint="made",
    )  # fmt: skip
    selected = time.perf_counter()
    return {
        "rows": trajectories.rows,
        "cluster": clustered - began,
        "select": selected - clustered,
        "chosen": SelectionView(chosen).examples,
        "cluster GB": (memory.peak - memory.start) / 1e9,
        "driver MB": peak_memory() / 1e6,
        "iterations": ClustersView(clusters).n_iter,
        "inertia": ClustersView(clusters).inertia,
        "pass_seconds": pass_seconds(store, trajectories, read_centers(store, clusters)),
        "cpus": int(ray.cluster_resources()["CPU"]),
    }


def pass_seconds(store: Store, trajectories: Manifest, centers_KT: np.ndarray) -> float:
    """Seconds of one iteration over all rows with all actors busy: the median of four."""
    files = [store.address("trajectories/made", part.file) for part in trajectories.parts]
    data = ray.data.from_arrow_refs([ray.put(read_losses(file)) for file in files])
    times: list[float] = []
    model = KMeans(len(centers_KT), init=centers_KT, max_iter=6, tol=0.0)
    with warnings.catch_warnings(action="ignore"):  # it must not converge
        model.fit(data, keep=lambda _: times.append(time.perf_counter()))
    return float(np.median(np.diff(times)))


def read_losses(file: str) -> pa.Table:
    with pa.memory_map(file) as source:
        return pa.ipc.open_file(source).read_all().select(["losses"])


def for_a_billion(rows: list[dict[str, Any]], checkpoints: int, n_clusters: int) -> str:
    """Extrapolate from the times of the last size and from the memory it took beyond the first.

    The driver's growth is given only if it is positive: at small sizes Ray itself dominates."""
    start, found = rows[0], rows[-1]
    gigabytes, driver_gb = (
        (found[name] - start[name]) / (found["rows"] - start["rows"]) * BILLION / scale
        for name, scale in (("cluster GB", 1), ("driver MB", 1000))
    )
    a_row = found["cpus"] / found["rows"] * BILLION
    cpu_seconds, whole = found["pass_seconds"] * a_row, found["cluster"] * a_row
    data = BILLION * checkpoints * 4 / 1e9
    gigabytes = max(gigabytes, data)  # small sizes do not show it
    nodes = math.ceil(cpu_seconds / (SECONDS * CPUS))
    chunks = -(-BILLION // CHUNK_ROWS)
    left = nodes * CPUS * math.ceil(math.log2(max(2, chunks / (nodes * CPUS))))  # of the tree
    moved = left * n_clusters * (checkpoints + 1) * 8 / 1e9
    each = gigabytes / nodes + CPUS * start["cluster GB"] / start["cpus"]
    driver = (
        f"needs {driver_gb:.0f} GB more than at {start['rows']:,} rows"
        if driver_gb > 0
        else f"needs no more at {found['rows']:,} rows than at {start['rows']:,}"
    )
    return (
        f"Extrapolated to a billion examples: {data:.0f} GB of losses take {gigabytes:.0f} GB of "
        f"node memory. One iteration over all rows takes {cpu_seconds:,.0f} CPU seconds and sends "
        f"{moved:.2g} GB of partial sums to the driver; clustering takes {whole / 3600:.0f} CPU "
        f"hours in all. For {SECONDS} s per iteration: {plural(nodes, 'node')} of {CPUS} CPUs and "
        f"{each:.0f} GB. The driver {driver}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument("--n-clusters", type=int, default=100)
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    parser.add_argument("--one", nargs=2, metavar=("ROWS", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = arguments.checkpoints, arguments.n_clusters
    if arguments.one:
        print(json.dumps(one(int(arguments.one[0]), *shape, arguments.one[1])))
        return
    rows: list[dict[str, Any]] = []
    for size in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, __file__, "--checkpoints", str(shape[0]), "--n-clusters",
                 str(shape[1]), "--one", str(size), folder],
                stdout=subprocess.PIPE, check=True, text=True,
            )  # fmt: skip
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        for name in ("cluster", "select"):
            each = rows[-1][name] / rows[-1]["rows"]
            rows[-1][f"{name} µs/row"] = each * 1e6
    print(machine.table(rows, ["rows", "cluster", "cluster µs/row", "select", "select µs/row",
                               "iterations", "cluster GB", "driver MB"]))  # fmt: skip
    beside = {"projection": for_a_billion(rows, *shape)} if len(rows) > 1 else {}
    print(*beside.values())
    settings = {"checkpoints": shape[0], "n_clusters": shape[1]}
    machine.write(arguments.json, settings, rows, **beside)


if __name__ == "__main__":
    main()
