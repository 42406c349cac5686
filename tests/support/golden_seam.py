"""All that the golden tests ask of the package's internals: to be rewritten as these change.

What the functions take and return stays, so that the expected values in tests/golden do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from s2l_ray.config import RunConfig, SelectionConfig, SelectorName, validate
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.pipeline import comparison, targets
from s2l_ray.pipeline.marks import chosen_mark, marks_of, selection_marks, selection_name
from s2l_ray.store import Manifest, Part

SELECTOR_NAMES: tuple[str, ...] = get_args(SelectorName)


def config_of(data: dict[str, Any]) -> RunConfig:
    return validate(data)


def config_schema() -> dict[str, Any]:
    """Of a whole configuration, as JSON schema has it."""
    return RunConfig.model_json_schema()


def selection_of(config: RunConfig, **changes: Any) -> SelectionConfig:
    """The run's selection, changed."""
    return SelectionConfig(**(config.selection.model_dump(exclude_unset=True) | changes))


def corpus_origin(config: RunConfig, digest: dict[str, int] | None = None) -> str:
    """Of the corpus's sources; digest: of a Ray Dataset in their place."""
    return fingerprint_of(config.corpus, digest, seed=config.seed)


def comparison_mark(config: RunConfig) -> str:
    """Of what the records of a comparison depend on."""
    return comparison.settings_mark(config)


def stage_fingerprints(
    config: RunConfig, selection: SelectionConfig, origin: str
) -> dict[str, str]:
    """Of each stage that a run of `config` takes to the subset of `selection`, by name; under
    "chosen" that of the examples chosen; and, where there is a target, those of its trainings on
    the subset (in one part, and dealt from several) and on the whole corpus, and of the tokens of
    its held-out examples."""
    announced = marks_of(config, origin)
    shared = ("corpus", "tokens", "proxy", "losses", "trajectories")
    found = {
        name: mark
        for name, mark in announced.items()
        if name in shared or name.startswith("details/")
    }
    own = selection_marks(config, selection, announced)
    chosen = chosen_mark(config, selection, announced)
    found |= own | {"chosen": chosen}
    if selection == config.selection:
        assert announced.items() <= found.items()
    if config.target is not None:
        found |= _target_fingerprints(config, selection, found, list(own.values())[-1])
    return found


def _target_fingerprints(
    config: RunConfig, selection: SelectionConfig, marks: dict[str, str], subset: str
) -> dict[str, str]:
    name = selection_name(selection.selector, selection.seed)
    info = {"selector": selection.selector, "chosen": marks["chosen"]}
    whole = Manifest("corpus", marks["corpus"], [PART])
    found = {}
    for parts, kind in ((1, ""), (2, " (of several parts)")):
        run = _Marked(config, whole)
        targets.finetune(run, Manifest(name, subset, [PART] * parts, info), name, seed=3)
        found |= {stage + kind: mark for stage, mark in run.marks.items()}
    run = _Marked(config, whole)
    targets.finetune(run, whole, "full", seed=3)
    targets._tokens_of_heldout(run, {"heldout": whole})
    return found | run.marks


PART = Part("part-00000", "file", 1, 1, "checksum", {"label_tokens": 1})


@dataclass
class _Marked:
    """In place of a run: its stages are marked, and not made."""

    config: RunConfig
    corpus: Manifest
    store: None = None
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> dict[str, Manifest]:
        return {"corpus": self.corpus}

    def stage(self, name: str, mark: str, make: Any) -> Manifest:
        self.marks[name] = mark
        return Manifest(f"{name}/{mark}", mark, [PART], {"tokenizer": "tokenizers/some"})
