"""What each stage of a run took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s2l_ray.formatting import measured
from s2l_ray.pipeline.run import Run
from s2l_ray.report.data import Timing
from s2l_ray.store import Manifest
from s2l_ray.store.views import TrainingView


def timings_of(run: Run) -> list[Timing]:
    """Return one row per stage, in the order in which they were first met.

    A stage that was damaged and repaired has an entry for each time it was made or found.
    """
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for entry in run.times:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [_timing(run.done.get(stage), stage, found) for stage, found in by_stage.items()]


def _timing(manifest: Manifest | None, stage: str, entries: Sequence[dict[str, Any]]) -> Timing:
    """Return a stage's row. `manifest` is None if the stage was not needed after a repair."""
    made = [entry for entry in entries if not entry["reused"]]
    throughput, spent = "", None
    if manifest is not None and (training := TrainingView(manifest)).has("padded_tokens"):
        spent = training.seconds
        if training.tokens is None:
            throughput = "unknown number of tokens"
        else:
            rate = training.tokens / max(spent, 1e-9)
            throughput = f"{measured(rate)} tokens/s while training"
    elif manifest is not None and made and not made[-1]["resumed"] and made[-1]["seconds"]:
        rate = manifest.rows / made[-1]["seconds"]
        throughput = f"{measured(rate)} rows/s" if manifest.rows else ""
    if not made:
        return Timing(stage, None, throughput, "reused", spent)
    state = "resumed" if made[-1]["resumed"] else "run"
    if len(made) > 1:
        state += f", {len(made)} times"
    return Timing(stage, sum(entry["seconds"] for entry in made), throughput, state, spent)
