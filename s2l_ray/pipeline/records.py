"""Records of a comparison: one per arm, kept in the run directory.

A record: method, budget, match, selection_seed, training_seed, examples, tokens, shared, steps,
trained_tokens, target (the folder of its stage), like (the selector it resembles, if any), and what
evaluate.evaluate gives. Earlier versions had errors_over_examples in place of influences: those of
the difference from the baseline. For a selector that has too few examples to choose from, `too_few`
(the reason) stands in place of all after the seeds. settings: the fingerprint of what a record
depends on beside its arm. checksum: of the rest.
"""

from __future__ import annotations

import logging
from typing import Any

from s2l_ray.config import PromptConfig, RunConfig, fingerprint
from s2l_ray.corpus.families import template_text
from s2l_ray.pipeline.halves import MEASURES
from s2l_ray.pipeline.identity import clusters_settings, prompt_settings, settings_of
from s2l_ray.scoring.loss_files import find
from s2l_ray.store import Store
from s2l_ray.store.checksums import KEY, is_whole, marked

logger = logging.getLogger(__name__)

Record = dict[str, Any]

COMPARISON = "comparison.json"  # below report/
BASELINES = "baselines.json"
FORMAT = 3  # of a record; records in another format are not read

_ARM = ("settings", "method", "budget", "match", "selection_seed", "training_seed")


def keep(store: Store, name: str, found: list[Record], settings: str) -> list[Record]:
    """Add records to the file and return them with their settings. A record of the same arm and
    settings is replaced; all others stay."""
    fresh = [marked(record | {"settings": settings}) for record in found]
    keys = {_key(record) for record in fresh}
    try:
        _read(store, name)
    except ValueError as error:
        aside = store.move_aside("report", name)
        logger.warning(f"{error}; it is kept as report/{aside} and written again")
    kept = [record for record in read(store, name) if _key(record) not in keys]
    store.write_json(kept + fresh, "report", name)
    return fresh


def known(store: Store, name: str, settings: str) -> list[Record]:
    """Return the records of an earlier comparison in this run directory with these settings."""
    return [record for record in read(store, name) if record.get("settings") == settings]


def too_few(
    selector: str, budget: Any, match: str, seed: int, training_seed: int, error: Exception
) -> Record:
    """Return the record of a selector that has too few examples to choose from."""
    return {
        "method": selector,
        "budget": str(budget),
        "match": match,
        "selection_seed": seed,
        "training_seed": training_seed,
        "too_few": str(error),
    }


def settings_of_comparison(config: RunConfig) -> str:
    """Return the fingerprint of what a record of `compare` depends on beside its arm."""
    assert config.target is not None
    clusters = clusters_settings(config.clusters)
    trainings = [*settings_of(config.proxy), *settings_of(config.target)]
    if config.losses is not None:
        files = find(config.losses.path, config.storage)
        trainings += [config.losses.settings(), files.identity()]
    prompts = [_prompt(config.prompt), _prompt(config.target_prompt)]
    rest = [config.corpus, *prompts, config.selection.like]
    # The run's seed draws the held-out share, and a seed's difference is a mean over trainings.
    numbers = [config.seed, config.compare.trainings]
    near = config.selection.near_duplicates
    capped = [near] if near is not None and near.max_per_group is not None else []
    precision = config.trajectories.precision
    return fingerprint(
        FORMAT,
        *numbers,
        *rest,
        *trainings,
        *precision,
        clusters,
        evaluation_settings(config),
        *capped,
    )


def settings_of_baselines(config: RunConfig, chosen: str) -> str:
    """Return the fingerprint of what a record of `baselines` depends on beside its arm: the run's
    own subset (its fingerprint), with its proxy and corpus, the target and the evaluation."""
    target = [] if config.target is None else settings_of(config.target)
    prompt = _prompt(config.target_prompt)
    return fingerprint(FORMAT, chosen, *target, prompt, evaluation_settings(config))


def _prompt(prompt: PromptConfig | None) -> dict[str, Any] | None:
    if prompt is None:
        return None
    given = {} if prompt.chat_template is None else {"given": template_text(prompt.chat_template)}
    return prompt_settings(prompt) | given


def evaluation_settings(config: RunConfig) -> dict[str, Any]:
    """Return what identifies an evaluation, beside the targets and the corpus."""
    apart = {"baselines", "seeds", "targets_at_once", "workers"}
    found = {
        name: value for name, value in config.evaluation.settings().items() if name not in apart
    }
    if config.races:
        found |= {"half": MEASURES, "race": config.selection.race.settings()}
    return found | {"split": config.evaluation.split or "test"}


def read(store: Store, name: str) -> list[Record]:
    """Return the records of a file that are as they were written; log what is damaged."""
    address = store.address("report", name)
    try:
        found = _read(store, name)
    except ValueError as error:
        logger.warning(f"{error}; its records are measured again when they are wanted")
        return []
    whole = [each for each in found if is_whole(each) or _is_unmarked(each)]
    if damaged := len(found) - len(whole):
        told = "a record is" if damaged == 1 else f"{damaged:,} records are"
        logger.warning(f"{address}: {told} damaged, and measured again when wanted")
    return whole


def _read(store: Store, name: str) -> list[Any]:
    if not store.exists("report", name):
        return []
    found = store.read_json("report", name)
    if not isinstance(found, list):
        address = store.address("report", name)
        raise ValueError(f"{address}: damaged: expected a list of records")
    return found


def _is_unmarked(record: Any) -> bool:
    """Whether a version that wrote no checksums may have written a record."""
    return isinstance(record, dict) and KEY not in record


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in _ARM)
