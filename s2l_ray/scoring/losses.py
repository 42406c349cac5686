"""Losses at checkpoints. The restart unit is (checkpoint, part)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.execution.parts import Actors, StageParts, map_stages
from s2l_ray.store import Manifest, Part, Store


@dataclass(frozen=True)
class Scoring:
    """A stage of losses to make: of every example of `tokens` at every checkpoint.

    checkpoints: step -> folder of a model in Hugging Face format, in the run directory (or an
    absolute local path).
    checksums: step -> checksum of that folder's files, if they are known. Losses of other files are
    made again.
    signals: columns to make together with the losses (models/signals.py).
    known: step -> a finished stage with the losses at that checkpoint. If they are of the same
    files they are copied, not computed.
    """

    tokens: Manifest
    checkpoints: dict[int, str]
    folder: str
    fingerprint: str
    checksums: dict[int, str] = field(default_factory=dict)
    signals: tuple[str, ...] = ()
    known: dict[int, Manifest] = field(default_factory=dict)

    def stage(self) -> StageParts:
        known: dict[str, tuple[str, Part]] = {}
        for step, stage in self.known.items():
            for part in stage.parts:
                if part.stats["made_of"] == self.checksums.get(step):
                    known[part.unit] = stage.folder, part
        units = [
            {
                "unit": (unit := f"step-{step:06d}/{part.unit}"),
                "model": model,
                "tokens": self.tokens.folder,
                "part": part,
                "made_of": self.checksums.get(step),
                "signals": self.signals,
                "known": known.get(unit),
            }
            for step, model in sorted(self.checkpoints.items())
            for part in self.tokens.parts
        ]
        info = {"steps": sorted(self.checkpoints)}
        return StageParts(self.folder, self.fingerprint, units, info)


def score(
    store: Store, scorings: list[Scoring], config: TrajectoriesConfig, *, label: str = "score"
) -> list[Manifest]:
    """Make stages of losses with one pool of actors. Return their manifests (StepsView) in order.

    Parts: `step-000500/part-*`, schema `schemas.signals`, rows in the order of `tokens`, without
    the examples that have no label token. ValueError if a number is not finite.
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
