"""Losses at checkpoints, one part per (checkpoint, part)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.execution.parts import Actors, StageParts, map_stages
from s2l_ray.store import Manifest, Store


@dataclass(frozen=True)
class Scoring:
    """A stage of losses to make: of every example of `tokens` at every checkpoint.

    checkpoints: step -> folder of a model in Hugging Face format, below the run directory (or an
    absolute local path). marks: step -> mark of that folder's files, where they are known: losses
    that were made of others are not taken.
    details: columns beside the losses (details.py).
    known: step -> a stage of this kind with that checkpoint's losses; they are copied from it,
    where it was made of the same files, and not scored again.
    """

    tokens: Manifest
    checkpoints: dict[int, str]
    folder: str
    fingerprint: str
    marks: dict[int, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    known: dict[int, Manifest] = field(default_factory=dict)

    def stage(self) -> StageParts:
        known = dict[str, dict[str, Any]]()
        for step, stage in self.known.items():
            for part in stage.parts:
                if part.stats["made_of"] == self.marks.get(step):
                    known[part.unit] = {"folder": stage.folder, "part": part}
        units = [
            {
                "unit": (unit := f"step-{step:06d}/{part.unit}"),
                "model": model,
                "tokens": self.tokens.folder,
                "part": part,
                "made_of": self.marks.get(step),
                "details": self.details,
                "losses": known.get(unit),
            }
            for step, model in sorted(self.checkpoints.items())
            for part in self.tokens.parts
        ]
        info = {"steps": sorted(self.checkpoints)}
        return StageParts(self.folder, self.fingerprint, units, info)


def score(
    store: Store, scorings: list[Scoring], config: TrajectoriesConfig, *, label: str = "score"
) -> list[Manifest]:
    """Make stages of losses with one actor pool; their manifests in order. info: steps.

    Parts `step-000500/part-*`, schema `store.LOSSES` and then the details by name, rows as in
    `tokens` without the examples that have no label token. ValueError for what is not finite.
    """
    stages = [scoring.stage() for scoring in scorings]
    actors = actors_of(config)
    return map_stages(store, stages, make_scorer, (store, config), label=label, actors=actors)


def actors_of(config: TrajectoriesConfig) -> Actors:
    return Actors(config.workers, config.max_workers, setting="trajectories.workers")


def make_scorer(store: Store, config: TrajectoriesConfig) -> Any:
    # Imported here because only the actors need it: the driver starts without torch.
    from s2l_ray.scoring.scorer import Scorer

    return Scorer(store, config)
