"""The stages as one straight line, from the corpus to the comparison of targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import ray
import ray.data

from s2l_ray import corpus, evaluation
from s2l_ray.clustering import cluster
from s2l_ray.config import (
    ModelConfig,
    PromptConfig,
    RunConfig,
    SelectionConfig,
    TrainingConfig,
    fingerprint,
    parse_budget,
)
from s2l_ray.marks import (
    liked,
    marks_of,
    selection_marks,
    selection_name,
    settings_of,
    tokenizer_folder,
    tokens_mark,
)
from s2l_ray.proxy import details_of, make_trajectories, score_before
from s2l_ray.ranking import falls, features, rank
from s2l_ray.run import Run
from s2l_ray.selection import choose
from s2l_ray.selectors import SELECTORS
from s2l_ray.store import Manifest, Store
from s2l_ray.tokenization import prepare_tokenizer, tokenize
from s2l_ray.training import checkpoints_of, marks_of_checkpoints, train
from s2l_ray.trajectories import Scoring, score


@dataclass(frozen=True)
class Selection:
    """A finished selection. `dataset()` goes into any Ray Data or Ray Train program."""

    store: Store
    manifest: Manifest

    @property
    def path(self) -> str:
        return self.store.address(self.manifest.folder)

    @property
    def info(self) -> dict[str, Any]:
        """selector, budget, seed, examples, tokens, by_source, by_cluster."""
        return self.manifest.info

    def dataset(self) -> ray.data.Dataset:
        """The chosen examples in rank order: example_id, source, turns, file, row, rank,
        cluster_id, reason.

        Ray Train splits a dataset into equal shards and leaves out a remainder: with W workers, up
        to W - 1 examples of an epoch, unless the budget is a multiple of W.
        """
        dataset = corpus.read_examples(self.store, self.manifest)
        dataset.context.execution_options.preserve_order = True  # of this dataset alone
        return dataset


def select(
    dataset: ray.data.Dataset | None, config: RunConfig, *, run: Run | None = None
) -> Selection:
    """Corpus to subset. `dataset` None: the corpus is what config.corpus.path names.

    Rows of a dataset have the shapes that corpus files have (instruction/output, messages, …).
    """
    if run is None:
        with Run.start(config) as run:
            return run.finish(lambda run: select(dataset, config, run=run))
    prepare(run, dataset)
    check_reachable(config, run.done["tokens"])
    make_trajectories(run)
    return choose_subset(run, config.selection)


def prepare(run: Run, dataset: ray.data.Dataset | None = None) -> None:
    """The corpus, and its tokens for the proxy; says first what of the run is there."""
    config = run.config
    origin = corpus.fingerprint_of(config.corpus, dataset, seed=config.seed)
    marks = marks_of(config, origin)
    run.announce(marks)
    examples = run.stage(
        "corpus",
        marks["corpus"],
        partial(corpus.ingest, run.store, config.corpus, dataset=dataset, seed=config.seed),
    )
    tokens_of(run, "tokens", examples, config.proxy.model, config.prompt)


def check_reachable(config: RunConfig, tokens: Manifest) -> None:
    """Refuse what the corpus is too small for before hours of training, not after them."""
    have = sum(part.stats["trainable"] for part in tokens.parts)
    if not have:
        raise ValueError(
            f"prompt.max_length: none of {tokens.rows:,} examples has a response token left after "
            f"the cut at {config.prompt.max_length} tokens"
        )
    kind, amount = parse_budget(config.selection.budget)
    if kind == "examples" and amount > have:
        raise ValueError(
            f"selection.budget: {amount:,.0f} examples, but only {have:,} can be chosen"
        )
    have_tokens = sum(part.stats["tokens"] for part in tokens.parts)
    if kind == "tokens" and amount > have_tokens:
        raise ValueError(
            f"selection.budget: {config.selection.budget!r}, but the corpus has "
            f"{have_tokens:,} tokens"
        )
    wanted = config.clusters.n_clusters
    groups = SELECTORS[config.selection.selector].groups
    if groups in ("clusters", "clusters_of_features") and wanted > have:
        raise ValueError(f"clusters.n_clusters: {wanted:,}, but there are only {have:,} examples")


def tokens_of(
    run: Run, name: str, examples: Manifest, model: ModelConfig, prompt: PromptConfig
) -> Manifest:
    """The stage `name`: examples tokenised for a model, its tokenizer made ready first."""
    trained_on = run.done["corpus"].fingerprint
    tokenizer = tokenizer_folder(trained_on, model)

    def make(**stage: str) -> Manifest:
        prepare_tokenizer(run.store, model, run.done["corpus"], folder=tokenizer)
        return tokenize(
            run.store,
            examples,
            tokenizer_folder=tokenizer,
            prompt=prompt,
            **stage,
        )

    return run.stage(name, tokens_mark(examples.fingerprint, trained_on, model, prompt), make)


def choose_subset(run: Run, selection: SelectionConfig) -> Selection:
    """One selector's subset, after what it draws from: clusters, ranking, another selection."""
    config, store, done = run.config, run.store, run.done
    selector, trajectories = SELECTORS[selection.selector], done["trajectories"]
    made = {name: done[name].fingerprint for name in ("tokens", "proxy", "trajectories")}
    marks = selection_marks(config, selection, made)

    def stage(name: str, make: Callable[..., Manifest], **inputs: Any) -> Manifest:
        return run.stage(name, marks[name], partial(make, store, **inputs))

    like = choose_subset(run, liked(selection)).manifest if selector.like else None
    before = None
    if selector.before:
        before = run.stage("before", marks["before"], partial(score_before, run))
    details = details_of(run, selection) if selector.details else {}
    groups = trajectories
    if selector.groups == "clusters_of_falls":
        groups = stage("falls", falls, trajectories=trajectories)
    elif selector.groups == "clusters_of_features":
        groups = stage("features", features, trajectories=trajectories, details=details["final"])
    if selector.clustered:
        groups = stage(
            selector.groups,
            cluster,
            trajectories=groups,
            config=config.clusters,
            by_source=selector.groups == "clusters_by_source",
        )
    elif selector.ranked:
        groups = stage(
            f"rankings/{selection.selector}",
            rank,
            trajectories=trajectories,
            selector=selection.selector,
            n_strata=config.clusters.n_clusters,
            before=before,
            details=details,
        )
    manifest = stage(
        f"selections/{selection_name(selection.selector, selection.seed)}",
        choose,
        config=selection,
        corpus=done["corpus"],
        tokens=done["tokens"],
        groups=groups,
        like=like,
    )
    return Selection(store, manifest)


def finetune(
    run: Run, examples: Manifest, name: str, *, seed: int, target: TrainingConfig | None = None
) -> Manifest:
    """Fine-tune the target, in another way than config.target if one is given, on examples."""
    config = run.config
    target = target or config.target
    assert target is not None
    tokens = tokens_of(
        run,
        f"targets/{name}/tokens",
        examples,
        target.model,
        config.target_prompt or config.prompt,
    )
    return run.stage(
        f"targets/{name}",
        fingerprint(tokens.fingerprint, *settings_of(target), seed),
        partial(
            train,
            run.store,
            tokens,
            target,
            tokenizer_folder=tokens.info["tokenizer"],
            seed=seed,
            label=f"target {name}",
        ),
    )


def evaluate(run: Run, targets: dict[str, Manifest]) -> dict[str, dict[str, Any]]:
    """Of fine-tuned targets, by their names: held-out response loss (loss, by_source, macro, the
    mean over sources); with evaluation.answer_marker that of what follows the marker (answer_loss
    and more: evaluation.summarise_answers); with evaluation.answers exact_match: {set: counts}."""
    config = run.config
    assert config.target is not None
    prompt, settings = config.target_prompt or config.prompt, config.evaluation
    heldout = evaluation.heldout_examples(run.store, run.done["corpus"], settings)
    sets = evaluation.answer_sets(run.store, settings)
    tokens = {
        origin: tokens_of(
            run, f"evaluations/tokens/{origin}", examples, config.target.model, prompt
        )
        for origin, examples in heldout.items()
    }
    tokenizer = next(iter(tokens.values())).info["tokenizer"]
    marker = settings.answer_marker
    if marker is not None:
        for origin, examples in heldout.items():
            tokens[f"{origin}/answer"] = run.stage(
                f"evaluations/tokens/{origin}/answer",
                fingerprint(tokens[origin].fingerprint, marker),
                partial(
                    tokenize,
                    run.store,
                    examples,
                    tokenizer_folder=tokenizer,
                    prompt=prompt,
                    marker=marker,
                ),
            )
    of = {
        f"evaluations/{name}/{origin}": (target, examples)
        for name, target in targets.items()
        for origin, examples in tokens.items()
    }

    def make(missing: dict[str, dict[str, str]]) -> list[Manifest]:
        scorings = []
        for stage, where in missing.items():
            target, examples = of[stage]
            last = dict([max(checkpoints_of(target).items())])
            made_of = marks_of_checkpoints(target)
            scorings.append(
                Scoring(examples, last, where["folder"], where["fingerprint"], marks=made_of)
            )
        return score(run.store, scorings, config.trajectories, label="evaluate")

    losses = run.stages(
        {
            stage: fingerprint(target.fingerprint, examples.fingerprint, config.trajectories.dtype)
            for stage, (target, examples) in of.items()
        },
        make,
    )
    answered = _answer(run, targets, sets, tokenizer, prompt) if sets else {}

    def result(name: str) -> dict[str, Any]:
        def scores(end: str) -> list[tuple[Manifest, Manifest]]:
            return [
                (examples, losses[f"evaluations/{name}/{origin}{end}"])
                for origin, examples in heldout.items()
            ]

        found = evaluation.summarise(run.store, scores(""))
        if marker is not None:
            found |= evaluation.summarise_answers(run.store, scores("/answer"), marker)
        if sets:
            found["exact_match"] = {
                each: evaluation.counts(answered[f"evaluations/{name}/{each}"]) for each in sets
            }
        return found

    return {name: result(name) for name in targets}


def _answer(
    run: Run,
    targets: dict[str, Manifest],
    sets: dict[str, Manifest],
    tokenizer: str,
    prompt: PromptConfig,
) -> dict[str, Manifest]:
    """The stages evaluations/NAME/SET: what each target answers to the questions of each set."""
    settings, scoring = run.config.evaluation, run.config.trajectories
    of = {
        f"evaluations/{name}/{each}": (target, questions)
        for name, target in targets.items()
        for each, questions in sets.items()
    }

    def make(missing: dict[str, dict[str, str]]) -> list[Manifest]:
        answerings = []
        for stage, where in missing.items():
            target, questions = of[stage]
            step, model = max(checkpoints_of(target).items())
            made_of, at_most = marks_of_checkpoints(target).get(step), settings.answers_at_most
            answerings.append(
                evaluation.Answering(questions, model, made_of=made_of, at_most=at_most, **where)
            )
        return evaluation.answer(
            run.store,
            answerings,
            scoring,
            tokenizer_folder=tokenizer,
            prompt=prompt,
            max_new_tokens=settings.max_new_tokens,
        )

    how = [prompt, scoring.dtype, settings.max_new_tokens, settings.answers_at_most]
    return run.stages(
        {
            stage: fingerprint(
                target.fingerprint, questions.fingerprint, tokenizer, *how, evaluation.RULE
            )
            for stage, (target, questions) in of.items()
        },
        make,
    )


def compare(run: Run) -> list[dict[str, Any]]:
    """Targets on the selector's subset and on each baseline's, for each seed, and their losses.

    A seed stands for the draw and the training alike, so a pair of arms with one seed shares its
    initial weights and differs in the subset alone. All budgets are as many examples.
    """
    config = run.config
    evaluation.heldout_examples(run.store, run.done["corpus"], config.evaluation)  # or refuse now
    main = choose_subset(run, config.selection)
    subsets: dict[str, tuple[SelectionConfig, Selection]] = {}
    for selector in dict.fromkeys([config.selection.selector, *config.evaluation.baselines]):
        for seed in config.evaluation.seeds:
            choice = SelectionConfig(selector=selector, budget=main.info["examples"], seed=seed)
            if (selector, seed) == (config.selection.selector, config.selection.seed):
                choice = config.selection  # the run's own subset, and the target of finetune.py
            name = selection_name(selector, seed)
            subsets[name] = choice, choose_subset(run, choice)

    def tune(name: str) -> Manifest:
        choice, subset = subsets[name]
        return finetune(run, subset.manifest, name, seed=choice.seed)

    with ThreadPool(config.evaluation.targets_at_once) as pool:
        targets = dict(zip(subsets, pool.map(tune, subsets), strict=True))
    losses = evaluate(run, targets)
    return [
        {
            "selector": choice.selector,
            "seed": choice.seed,
            "examples": subset.info["examples"],
            "tokens": subset.info["tokens"],
            "steps": targets[name].info["step"],
            "history": targets[name].info["history"],
        }
        | losses[name]
        for name, (choice, subset) in subsets.items()
    ]


def finetune_selected(run: Run) -> tuple[Manifest, str]:
    """The target on the configured selection, and the arm's name."""
    config = run.config.selection
    selection = select(None, run.config, run=run)
    name = selection_name(config.selector, config.seed)
    return finetune(run, selection.manifest, name, seed=config.seed), name


def model_path(run: Run, target: Manifest) -> str:
    """The folder of the tuned model; AutoModelForCausalLM.from_pretrained loads it."""
    return run.store.address(max(checkpoints_of(target).items())[1])
