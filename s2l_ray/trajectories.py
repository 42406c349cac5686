"""Per-example losses at checkpoints, and the trajectories made of them.

The restart unit of scoring is (checkpoint, part). A loss is the mean cross-entropy over the
example's label tokens, fp32 unless set, the model in eval mode; batches are cut inside one part by
its lengths, so the losses do not depend on how many actors there are. N examples, T checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.units import Stage, run_stages, run_units


@dataclass(frozen=True)
class Scoring:
    """A stage of losses to make: of every example of `tokens` at every checkpoint.

    checkpoints: step -> folder of a model in Hugging Face format, below the run directory (or an
    absolute local path).
    """

    tokens: Manifest
    checkpoints: dict[int, str]
    folder: str
    fingerprint: str

    def stage(self) -> Stage:
        units = [
            {
                "unit": f"step-{step:06d}/{part.unit}",
                "model": model,
                "tokens": self.tokens.folder,
                "part": part.__dict__,
            }
            for step, model in sorted(self.checkpoints.items())
            for part in self.tokens.parts
        ]
        info = {"steps": sorted(self.checkpoints)}
        return Stage(self.folder, self.fingerprint, units, info)


def score(
    store: Store, scorings: list[Scoring], config: TrajectoriesConfig, *, label: str = "score"
) -> list[Manifest]:
    """Make stages of losses with one actor pool; their manifests in order.

    Parts `step-000500/part-*`, schema `store.LOSSES`, rows as in `tokens` without the examples
    that have no label token. ValueError for a loss that is not finite.
    """
    return run_stages(
        store,
        [scoring.stage() for scoring in scorings],
        _make_scorer,
        (store, config),
        label=label,
        workers=config.workers,
        max_workers=config.max_workers,
    )


def assemble(
    store: Store, corpus: Manifest, losses: Manifest, *, folder: str, fingerprint: str
) -> Manifest:
    """Trajectories from losses: example_id, source, losses float32[T] in step order,
    num_label_tokens; the part layout of the corpus."""
    steps = losses.info["steps"]
    by_unit = {part.unit: part for part in losses.parts}
    units = [
        {
            "unit": part.unit,
            "corpus": part.__dict__,
            "losses": [by_unit[f"step-{step:06d}/{part.unit}"].__dict__ for step in steps],
        }
        for part in corpus.parts
    ]
    return run_units(
        store,
        units,
        _Assemble,
        (store, corpus.folder, losses.folder),
        folder=folder,
        fingerprint=fingerprint,
        label="trajectories",
        info={"steps": steps},
    )


def losses_array(table: pa.Table) -> np.ndarray:
    """The column `losses` of a trajectories table as float32 [N, T]."""
    column = table["losses"].combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy().reshape(-1, width)


def _make_scorer(store: Store, config: TrajectoriesConfig) -> Any:
    # Imported by the actors alone: the driver starts without torch and models.
    from s2l_ray.scorer import Scorer

    return Scorer(store, config)


class _Assemble:
    def __init__(self, store: Store, corpus_folder: str, losses_folder: str) -> None:
        self.store, self.corpus_folder, self.losses_folder = store, corpus_folder, losses_folder

    def __call__(self, unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        corpus = self.store.read_part(
            self.corpus_folder, Part(**unit["corpus"]), ["example_id", "source"]
        )
        tables = [self.store.read_part(self.losses_folder, Part(**p)) for p in unit["losses"]]
        ids = tables[0]["example_id"]
        if any(not table["example_id"].equals(ids) for table in tables):
            raise ValueError(f"{unit['unit']}: the checkpoints' losses are of different examples")
        # Both are sorted by id; the corpus has, besides, the examples without a label token.
        places = pa.compute.index_in(ids, value_set=corpus["example_id"])
        if places.null_count:
            raise ValueError(f"{unit['unit']}: losses of {places.null_count} unknown examples")
        source = corpus["source"].take(places)
        losses_NT = np.stack([table["loss"].to_numpy() for table in tables], axis=1)
        bad = np.argwhere(~np.isfinite(losses_NT))
        if len(bad):
            row, checkpoint = bad[0]
            raise ValueError(
                f"{self.store.address(self.losses_folder, unit['losses'][checkpoint]['file'])}: "
                f"the loss of example_id {ids[row]} is {losses_NT[row, checkpoint]}, a finite "
                f"number is wanted"
            )
        losses = pa.FixedSizeListArray.from_arrays(
            pa.array(losses_NT.reshape(-1), pa.float32()), losses_NT.shape[1]
        )
        table = pa.table(
            {
                "example_id": ids,
                "source": source,
                "losses": losses,
                "num_label_tokens": tables[0]["num_label_tokens"],
            }
        )
        return table, {}
