"""All that the golden tests ask of the package's internals: rewrite it as these change.

What the functions take and return stays, so that the expected values in tests/golden stay too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.config import BUILT_IN_SELECTORS, RunConfig, SelectionConfig, validate
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.pipeline.evaluate import heldout_stages
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.records import settings_of_comparison
from s2l_ray.pipeline.stage import Stage, walk
from s2l_ray.pipeline.target_stages import target_stage
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.listing import list_files
from support.parsed import read

SELECTOR_NAMES: tuple[str, ...] = BUILT_IN_SELECTORS
PART = Part("part-00000", "file", 1, 1, "checksum", {"label_tokens": 1})


def config_of(data: dict[str, Any]) -> RunConfig:
    return validate(data)


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a whole configuration."""
    return RunConfig.model_json_schema()


def selection_of(config: RunConfig, **changes: Any) -> SelectionConfig:
    """Return the run's selection, changed."""
    return SelectionConfig(**(config.selection.model_dump(exclude_unset=True) | changes))


def corpus_origin(config: RunConfig, digest: dict[str, int] | None = None) -> str:
    """Return the fingerprint of the corpus's sources. digest: of a Ray Dataset in their place."""
    return fingerprint_of(config.corpus, digest, seed=config.seed)


def example_ids(path: Path) -> list[int]:
    """Return the ids of a file's examples, in its order."""
    return [row["example_id"] for row in read(path) if row["example_id"] is not None]


def strays(run_dir: Path) -> list[str]:
    """Return the files of a run directory that nothing accounts for."""
    return list_files(Store(run_dir)).strays


def comparison_mark(config: RunConfig) -> str:
    """Return the fingerprint of what the records of a comparison depend on."""
    return settings_of_comparison(config)


def stage_fingerprints(
    config: RunConfig, selection: SelectionConfig, origin: str
) -> dict[str, str]:
    """Return the fingerprint of each stage that a run of `config` takes to the subset of
    `selection`, by name; under "chosen" that of the examples chosen; and, if there is a target,
    those of its trainings on the subset (in one part, and dealt from several) and on the whole
    corpus, and of the tokens of its held-out examples."""
    plan = Plan(config, Stage("corpus", lambda *_: [], settings=(origin,)))
    subset = plan.selection(selection)
    found = {stage.name: stage.fingerprint for stage in walk([subset])}
    # The run's own details and losses are there before any other selection's.
    found |= {stage.name: stage.fingerprint for stage in plan.details(selection).values()}
    found["chosen"] = subset.identity
    if config.target is not None:
        found |= _target_fingerprints(plan, selection, subset)
    return found


def _target_fingerprints(plan: Plan, selection: SelectionConfig, subset: Stage) -> dict[str, str]:
    name = selection_name(selection.selector, selection.seed)
    info = {"selector": selection.selector, "chosen": subset.identity}
    whole = Manifest("corpus", plan.corpus.fingerprint, [PART])
    found = {}
    for parts, kind in ((1, ""), (2, " (of several parts)")):
        chosen = Manifest(name, subset.fingerprint, [PART] * parts, info)
        found |= _walked(target_stage(plan, name, chosen, seed=3), kind)
    found |= _walked(target_stage(plan, "full", whole, seed=3))
    for stage in heldout_stages(plan, {"heldout": whole}).values():
        found |= _walked(stage)
    return found


def _walked(stage: Stage, kind: str = "") -> dict[str, str]:
    return {each.name + kind: each.fingerprint for each in walk([stage]) if each.name != "corpus"}
