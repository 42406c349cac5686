"""All stages that a command makes or finds, as far as they are known before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from s2l_ray.config import RunConfig, parse_budget
from s2l_ray.execution.events import Item
from s2l_ray.pipeline import comparison, diagnosis
from s2l_ray.pipeline.halves import RACE_PREFIX
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.race import RESULT
from s2l_ray.pipeline.stage import Stage, walk
from s2l_ray.pipeline.target_stages import targets_to_be


def agenda(config: RunConfig, plan: Plan, command: str) -> list[Item]:
    """Return what a command makes, in order. plan: with the run's corpus."""
    if command == "inspect":
        return _items([plan.tokens])
    if command == "import-losses":
        return _items([plan.trajectories])
    if command == "compare":
        return [*_compared(config, plan)]
    if command == "diagnose":
        return [*_diagnosed(config, plan)]
    own, trained = config.selection, [config.selection]
    if command == "pipeline":
        chosen = comparison.choices_of(config, own.budget)
        trained = [each for by_seed in chosen.values() for each in by_seed.values()]
    exports = plan.exports(own).values()
    found = _items([plan.selection(own), *exports, *(plan.selection(each) for each in trained)])
    found = _with_race(found, config)
    # With a budget in tokens, the others get as many examples as the own selection turns out to
    # have: their folders are not known.
    known = [each for each in trained if each is own or parse_budget(own.budget)[0] != "tokens"]
    unknown = {plan.selection(each).folder for each in trained if each not in known}
    found = [replace(each, folders=()) if set(each.folders) & unknown else each for each in found]
    if command in ("evaluate", "pipeline"):
        after = next(n for n, each in enumerate(found) if each.name == "tokens") + 1
        found[after:after] = [Item(f"evaluations/tokens/{each}") for each in _heldout(config)]
    names = {selection_name(each.selector, each.seed): each for each in trained}
    if command in ("finetune", "evaluate", "pipeline"):
        for name, choice in names.items():
            stages = targets_to_be(plan, name, choice) if choice in known else ()
            found.append(Item(f"targets/{name}", tuple(each.folder for each in stages)))
    if command in ("evaluate", "pipeline"):
        found += [Item(f"evaluations/{n}/{each}") for n in names for each in _measures(config)]
    return found


def _with_race(found: list[Item], config: RunConfig) -> list[Item]:
    """Add what races evaluate, whose folders are not known before."""
    race, places = config.selection.race, [n for n, each in enumerate(found) if each.name == RESULT]
    count = len(race.candidates) * len(race.seeds) * len(_measures(config)) * len(places)
    more = [
        Item(
            f"{RACE_PREFIX}evaluations",
            pattern=f"{RACE_PREFIX}evaluations/(?!tokens/).+",
            count=count,
        )
    ]
    return found[: places[0]] + more + found[places[0] :] if places else found


def _compared(config: RunConfig, plan: Plan) -> Iterator[Item]:
    known = _items([plan.tokens])
    yield from known
    yield from (Item(f"evaluations/tokens/{each}") for each in _heldout(config))
    for place, seed in enumerate(config.compare.seeds):
        selectors = config.compare.selectors_with(place)
        view = Plan(comparison.seeded(config, seed, selectors), plan.corpus)
        chosen = [config.selection.model_copy(update={"selector": each}) for each in selectors]
        seen = [view.trajectories, *map(view.seen_by, chosen)]
        yield from _others(seen, known, f"seed {seed}")
    count = comparison.num_targets(config) + comparison.num_untuned(config)
    yield Item("targets", pattern="targets/[^/]+", count=count)
    count *= len(_measures(config))
    yield Item("evaluations", pattern="evaluations/(?!tokens/).+", count=count)


def _diagnosed(config: RunConfig, plan: Plan) -> Iterator[Item]:
    """Variants that need no proxy of their own take little time, and are left out."""
    base = diagnosis.base_config(config)
    known = _items(_chosen(Plan(base, plan.corpus), base))
    yield from known
    for changed, to, variant in diagnosis.proxy_variants(base):
        stages = _chosen(Plan(variant, plan.corpus), variant)
        yield from _others(stages, known, f"{changed} {to}")
    if config.diagnose.gradients:
        yield Item(f"targets/{selection_name(diagnosis.BASELINE, config.selection.seed)}")


def _chosen(plan: Plan, config: RunConfig) -> list[Stage]:
    choices = [
        config.selection.model_copy(update={"selector": selector})
        for selector in diagnosis.SELECTORS
    ]
    return [plan.selection(each) for each in choices]


def _heldout(config: RunConfig) -> list[str]:
    return [*(["heldout"] if config.corpus.holds_out else []), *config.evaluation.files]


def _measures(config: RunConfig) -> list[str]:
    """Return what each target is evaluated on, by the names of its stages."""
    sets = _heldout(config)
    after = [f"{each}/answer" for each in sets] if config.evaluation.answer_marker else []
    return [*sets, *after, *config.evaluation.answers, *config.evaluation.texts]


def _items(stages: Iterable[Stage]) -> list[Item]:
    return [Item(each.name, (each.folder,)) for each in walk(stages)]


def _others(stages: Iterable[Stage], known: list[Item], which: str) -> list[Item]:
    """Return the items that are not known, their names with what sets them apart."""
    folders = {folder for each in known for folder in each.folders}
    return [
        replace(each, name=f"{each.name} ({which})")
        for each in _items(stages)
        if folders.isdisjoint(each.folders)
    ]
