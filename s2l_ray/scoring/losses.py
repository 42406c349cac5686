"""Losses at checkpoints. The restart unit is (checkpoint, part)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.execution.parts import Actors, StageParts, map_stages
from s2l_ray.scoring import CACHED_BYTES
from s2l_ray.store import Manifest, Part, Store

SETTING = "trajectories.workers"  # the config field of the actors
IN_MEMORY = 5  # size of tokens in memory, relative to the compressed file; rather too large


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

    def stage(self, num_actors: int = 1) -> StageParts:
        """Declare the parts: window after window of the tokens, checkpoint after checkpoint.

        A window is as much as `num_actors` actors keep in memory, so each part is read once.
        """
        known: dict[str, tuple[str, Part]] = {}
        for step, stage in self.known.items():
            for part in stage.parts:
                if part.stats["made_of"] == self.checksums.get(step):
                    known[part.unit] = stage.folder, part
        size = sum(part.bytes for part in self.tokens.parts) * IN_MEMORY
        window = max(1, len(self.tokens.parts) * num_actors * CACHED_BYTES // max(1, size))
        units = [
            {
                "unit": (unit := f"step-{step:06d}/{part.unit}"),
                "wave": (number // window, step),
                "near": (self.tokens.folder, part.unit),
                "model": model,
                "tokens": self.tokens.folder,
                "part": part,
                "made_of": self.checksums.get(step),
                "signals": self.signals,
                "known": known.get(unit),
            }
            for step, model in sorted(self.checkpoints.items())
            for number, part in enumerate(self.tokens.parts)
        ]
        info = {"steps": sorted(self.checkpoints)}
        return StageParts(self.folder, self.fingerprint, units, info)


def score(
    store: Store,
    scorings: list[Scoring],
    config: TrajectoriesConfig,
    *,
    label: str = "score",
    setting: str = SETTING,
) -> list[Manifest]:
    """Make stages of losses with one pool of actors. Return their manifests (StepsView) in order.

    Parts: `step-000500/part-*`, schema `schemas.signals`, rows in the order of `tokens`, without
    the examples that have no label token. ValueError if a number is not finite.
    setting: the config field of the workers, for messages.
    """
    stages = [scoring.stage(config.workers.num_workers) for scoring in scorings]
    actors = actors_of(config, setting)
    return map_stages(store, stages, make_scorer, (store, config), label=label, actors=actors)


def actors_of(config: TrajectoriesConfig, setting: str = SETTING) -> Actors:
    return Actors(config.workers, config.max_workers, setting)


def make_scorer(store: Store, config: TrajectoriesConfig) -> Any:
    # Imported here because only the actors need it: the driver starts without torch.
    from s2l_ray.scoring.scorer import Scorer

    return Scorer(store, config)
