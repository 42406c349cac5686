"""What a run would do, stage by stage, and the memory that it would take. Starts no Ray."""

from __future__ import annotations

from typing import Any, NamedTuple

from s2l_ray.config import (
    ModelConfig,
    RunConfig,
    SelectionConfig,
    TrainingConfig,
    WorkersConfig,
    parse_budget,
)
from s2l_ray.execution.hub import http_error
from s2l_ray.formatting import plural
from s2l_ray.models.fitting import judge_scoring, judge_training
from s2l_ray.models.memory import Memory, config_of, scoring_memory, training_memory
from s2l_ray.models.room import Room, Verdict, nominal
from s2l_ray.pipeline import records
from s2l_ray.pipeline.comparison import choices_of
from s2l_ray.pipeline.growth import WHOLE
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.plan import Plan, corpus_stage
from s2l_ray.pipeline.stage import Stage, walk
from s2l_ray.pipeline.target_stages import target_stage
from s2l_ray.scoring.scorer import CPU_TOKENS_PER_BATCH, GPU_TOKENS_PER_BATCH
from s2l_ray.store import Store
from s2l_ray.store.views import SelectionView

DONE, TO_DO, UNKNOWN = "done", "to do", "unknown"


class Forecast(NamedTuple):
    """A stage of the run. state: DONE, TO_DO or UNKNOWN. targets: that are evaluated."""

    stage: str
    state: str
    workers: WorkersConfig | None = None
    passes: str | None = None
    targets: int = 1


class Need(NamedTuple):
    """The memory of a worker that trains or scores a model. None: why says what is unknown.

    section: proxy, target or trajectories. of: whose model, proxy or target."""

    section: str
    of: str
    what: str  # such as "4 workers train EleutherAI/pythia-70m"
    memory: Memory | None
    verdict: Verdict = Verdict()
    why: str = ""
    room: Room = Room()


def forecasts(config: RunConfig) -> tuple[list[Forecast], str]:
    """Return the stages of the run, and what keeps the state of some from being known.

    Reads names and sizes of the corpus's files and of the run directory; writes nothing.
    """
    store, unknown, found = Store(config.run_dir, config.storage), "", list[Forecast]()
    try:
        stages = stages_of(config, store=store)
    except (ValueError, OSError, http_error()) as error:
        unknown = _first_line(error)
        stages = stages_of(config, Stage("corpus", _never, settings=(UNKNOWN,)))
    for stage in stages:
        if stage.place.startswith(f"{WHOLE}/"):
            continue  # it lists the parts of other stages
        state = UNKNOWN
        if not unknown:
            try:
                state = _state(store, stage)
            except (ValueError, OSError) as error:
                unknown = _first_line(error)
        found.append(Forecast(stage.name, state, stage.work.workers, stage.work.passes))
    if config.target is not None:
        found += _targets(config, store, stages, unknown)
    return found, unknown and f"which stages exist already is unknown: {unknown}"


def _state(store: Store, stage: Stage) -> str:
    return DONE if store.exists(stage.folder, "manifest.json") else TO_DO


def _targets(config: RunConfig, store: Store, stages: list[Stage], unknown: str) -> list[Forecast]:
    """The targets, whose stages follow from the finished selections, and their evaluations."""
    target, found, folders = config.target, list[Forecast](), set[str]()
    assert target is not None
    plan = Plan(config, next(stage for stage in stages if stage.name == "corpus"))
    chosen = {stage.name: stage for stage in stages if stage.name.startswith("selections/")}
    for choice in _choices(plan, None if unknown else store):
        name, state = selection_name(choice.selector, choice.seed), UNKNOWN if unknown else TO_DO
        subset = None if unknown else store.manifest(chosen[f"selections/{name}"].folder)
        if subset is not None:
            stage = target_stage(plan, name, subset, seed=choice.seed)
            folders.add(stage.folder)
            state = _state(store, stage)
        found.append(Forecast(f"targets/{name}", state, target.workers, "training"))
    if config.has_heldout:
        state = UNKNOWN if unknown else TO_DO
        if not unknown:
            measured = {each.get("target") for each in records.read(store, records.BASELINES)}
            done = len(folders) == len(found) and folders <= measured
            state = DONE if done else TO_DO
        workers = config.evaluation.workers or config.trajectories.workers
        found.append(Forecast("evaluations", state, workers, "scoring", len(found)))
    return found


def stages_of(
    config: RunConfig, corpus: Stage | None = None, store: Store | None = None
) -> list[Stage]:
    """Declare the stages up to the selections and exports: those of `pipeline`, or of `select` if
    there is no target. store: see _choices."""
    plan = Plan(config, corpus or corpus_stage(config))
    choices = [config.selection, *_choices(plan, store)]
    exports = plan.exports(config.selection).values()
    return list(walk([*(plan.selection(choice) for choice in choices), *exports]))


def needs(config: RunConfig, gpu: float | None = None) -> list[Need]:
    """Estimate the memory of each training and scoring, with the longest examples that
    prompt.max_length allows.

    gpu: bytes of one GPU, to compare with; None: what the accelerator_type has by name.
    """
    found = []
    if config.proxy.checkpoints is None:
        found.append(_training("proxy", config, config.proxy, gpu))
    models = {"proxy": config.proxy.model}
    if config.target is not None:
        found.append(_training("target", config, config.target, gpu))
        if config.has_heldout:
            models["target"] = config.target.model
    return found + [_scoring(section, config, model, gpu) for section, model in models.items()]


def longest_of(config: RunConfig, section: str) -> int:
    """Return the most tokens that an example of the proxy or the target can have."""
    prompt = config.target_prompt if section == "target" else None
    return (prompt or config.prompt).max_length


def _training(section: str, config: RunConfig, training: TrainingConfig, gpu: float | None) -> Need:
    workers, name = training.workers, name_of(training.model)
    what = f"{_subject(workers.num_workers, 'worker', 'train')} {name}"
    if training.train is not None:
        return Need(section, section, what, None, why=f"{training.train} trains as it likes")
    try:
        model = config_of(training.model)
        length = longest_of(config, section)
        memory = training_memory(training, model, length)
    except (ValueError, OSError) as error:
        return Need(section, section, what, None, why=_first_line(error))
    room = room_of(workers, gpu)
    verdict = judge_training(section, training, model, room, length=length, usual=length)
    return Need(section, section, what, memory, verdict, room=room)


def _scoring(section: str, config: RunConfig, model: ModelConfig, gpu: float | None) -> Need:
    settings, name = config.trajectories, name_of(model)
    own = config.evaluation.workers if section == "target" else None
    workers = own or settings.workers
    what = f"{_subject(workers.num_workers, 'actor', 'score')} {name}"
    on_gpu = workers.gpus_per_worker > 0
    default = GPU_TOKENS_PER_BATCH if on_gpu else CPU_TOKENS_PER_BATCH
    length = longest_of(config, section)
    try:
        memory = scoring_memory(
            config_of(model),
            dtype=settings.dtype,
            tokens=settings.tokens_per_batch or default,
            length=length,
            gpu=on_gpu,
        )
    except (ValueError, OSError) as error:
        return Need("trajectories", section, what, None, why=_first_line(error))
    room = room_of(workers, gpu)
    return Need(
        "trajectories", section, what, memory, judge_scoring(section, memory, room), room=room
    )


def room_of(workers: WorkersConfig, gpu: float | None) -> Room:
    """Return the memory of a worker's GPU: as given, or nominal."""
    if not workers.gpus_per_worker:
        return Room()
    where = "as given"
    if gpu is None:
        gpu, where = nominal(workers.accelerator_type), f"{workers.accelerator_type}, nominal"
    if gpu is None:
        return Room()
    return Room(gpu * workers.gpus_per_worker, where=where)


def name_of(model: ModelConfig) -> str:
    return model.name or f"a {(model.architecture or {})['model_type']} from scratch"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _never(*_: Any) -> Any:
    raise AssertionError


def _choices(plan: Plan, store: Store | None) -> list[SelectionConfig]:
    """The selections of `pipeline`, or the one of `select` if there is no target.

    The baselines of a budget in tokens have as many examples as the run's own subset. Its finished
    stage in the store tells how many; without it they are declared with the budget as it is.
    """
    config = plan.config
    if config.target is None:
        return [config.selection]
    budget = config.selection.budget
    if store is not None and parse_budget(budget)[0] == "tokens":
        own = store.manifest(plan.selection(config.selection).folder)
        budget = SelectionView(own).examples if own is not None else budget
    chosen = choices_of(config, budget)
    return [by_seed[seed] for seed in config.evaluation.seeds for by_seed in chosen.values()]


def _subject(count: int, noun: str, verb: str) -> str:
    """Return such as "1 worker trains" or "2 workers train"."""
    return f"{plural(count, noun)} {verb}{'s' if count == 1 else ''}"
