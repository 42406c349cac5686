"""What a selection takes as corpora grow: files, requests, bytes and CPU hours of each stage.

    python benchmarks/law.py

Nothing runs. The numbers are those of `s2l-ray plan` (pipeline/pricing.py) for a corpus of math
problems: EXAMPLE_BYTES and TOKENS per example, a third of them labels; a proxy in the shape of
Pythia-70M, 3 epochs, 12 checkpoints, 100 clusters, a budget of 11%. CPU seconds were measured at up
to ten million rows on two cores (results/corpus-1M.json, corpus-tokens.json, scale.json). Training
and scoring are given in floating-point operations.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from s2l_ray.config import validate
from s2l_ray.corpus.dividing import num_parts_of
from s2l_ray.pipeline.forecast import TO_DO, Forecast
from s2l_ray.pipeline.pricing import Price, Pricing
from s2l_ray.pipeline.rates import Rate, size_of
from s2l_ray.pipeline.workload import Counts, Workload
from s2l_ray.selection.histogram import num_bins

SIZES = [10**6, 10**7, 10**8, 10**9]
EXAMPLE_BYTES = 491  # in the sources; a quarter of it in the corpus, which is compressed
TOKENS = 145
STORED_SHARE = 0.25
TOKEN_BYTES = 1.3
READING = 12e-6  # CPU seconds per row: 18 s for a million, less timing.WRITING
TOKENIZING = 245e-6
PART_BYTES = 575  # of the driver's memory, per listed file
MANIFEST_BYTES = 260  # of JSON, per listed file
SHAPE = {"model_type": "gpt_neox", "hidden_size": 512, "num_hidden_layers": 6,
         "num_attention_heads": 8, "intermediate_size": 2048, "vocab_size": 50304}  # fmt: skip
CONFIG = {
    "name": "law",
    "run_dir": "unused",
    "corpus": {"path": "unused"},
    "proxy": {
        "model": {"architecture": SHAPE, "tokenizer_vocab": 50304}, "epochs": 3,
        "num_checkpoints": 12, "global_batch_size": 128, "micro_batch_size": 128,
    },
    "selection": {"budget": "11%"},
}  # fmt: skip
STAGES = ["corpus", "tokens", "proxy", "losses", "trajectories", "clusters", "selections/s2l-seed0"]


def pricing(examples: int) -> Pricing:
    config = validate(CONFIG)
    tokens = examples * TOKENS
    counts = Counts(examples, tokens, tokens // 3, 0.0, round(tokens * TOKEN_BYTES),
                    examples * TOKENIZING, 0.0, [])  # fmt: skip
    source_bytes = examples * EXAMPLE_BYTES
    work = Workload(
        config=config, rows=examples, counted=True, sampled=0, source_bytes=source_bytes, heldout=0,
        num_parts=num_parts_of(source_bytes), corpus_bytes=round(STORED_SHARE * source_bytes),
        read_seconds=examples * READING, proxy=counts, target=None,
    )  # fmt: skip
    sizes = {"proxy": size_of(config.proxy, 1 / 3)}
    return Pricing(work, sizes, {"proxy": Rate(None, None, "not measured")})


def rows_of(stage: str, prices: list[Price]) -> list[str]:
    """A row of the table for each thing that a stage takes."""

    def row(what: str, values: list[str]) -> str:
        return f"| {stage.partition('/')[0]} | {what} | {' | '.join(values)} |"

    found = [
        row("files", [f"{each.stored.puts:,.0f}" for each in prices]),
        row("reads", [f"{each.stored.gets:,.0f}" for each in prices]),
        row("GB", [f"{each.stored.bytes / 1e9:,.3g}" for each in prices]),
    ]
    if prices[0].cpu_hours is not None:
        return [*found, row("CPU hours", [f"{each.cpu_hours:,.2g}" for each in prices])]
    operations = [(each.flops or 0) / 1e18 for each in prices]
    return [*found, row("10^18 operations", [f"{each:,.3g}" for each in operations])]


def driver_rows(found: list[Pricing]) -> list[str]:
    """What the driver holds: the largest list of files, and the histogram of a selection."""
    listed = [each.work.num_parts * len(each.steps) for each in found]
    clusters = found[0].config.clusters.n_clusters
    cells = [clusters * num_bins(each.work.proxy.examples, clusters) for each in found]
    held = [PART_BYTES * files + 8 * count for files, count in zip(listed, cells, strict=True)]
    rows = {
        "files in the manifest of the losses": [f"{n:,}" for n in listed],
        "MB of that manifest": [f"{n * MANIFEST_BYTES / 1e6:,.1f}" for n in listed],
        "MB of memory for it and the histogram": [f"{n / 1e6:,.1f}" for n in held],
    }
    return [f"| driver | {what} | {' | '.join(values)} |" for what, values in rows.items()]


def table() -> str:
    found = [pricing(examples) for examples in SIZES]
    lines = ["| stage | | " + " | ".join(f"10^{len(str(n)) - 1}" for n in SIZES) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(SIZES))
    lines.append("| all | parts | " + " | ".join(f"{p.work.num_parts:,}" for p in found) + " |")
    for stage in STAGES:
        lines += rows_of(stage, [p.price(Forecast(stage, TO_DO)) for p in found])
    return "\n".join([*lines, *driver_rows(found)])


if __name__ == "__main__":
    print(table())
