"""Which half of the held-out examples a run looks at, if a selector of it is `race`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s2l_ray import evaluation
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run

RACE_PREFIX = "race/"  # the prefix of a race's plan
DECIDES, MEASURES = 0, 1  # the half that chooses the winner, and the one that all targets are for


def in_use(run: Run, sets: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Return the examples of each set that this run, or this race, evaluates on: all of them if no
    selector of the run is `race`."""
    if not run.config.races:
        return dict(sets)
    half = DECIDES if run.plan.prefix == RACE_PREFIX else MEASURES

    def stage(name: str, whole: Manifest) -> Stage:
        def make(run: Run, **where: Any) -> Manifest:
            return evaluation.half_of(run.store, whole, half, f"half of {name}", **where)

        given = Stage.given(whole)
        return Stage(f"halves/{half}/{name}", alone(make), inputs=(given,), settings=(half,))

    stages = [stage(name, whole) for name, whole in sets.items()]
    return dict(zip(sets, run.get_all(stages), strict=True))
