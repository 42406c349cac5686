"""Targets: fine-tuned on subsets, evaluated, and compared with those of the baselines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

from s2l_ray import evaluation
from s2l_ray.config import (
    BASELINE,
    PromptConfig,
    SelectionConfig,
    TrainingConfig,
    fingerprint,
    parse_budget,
)
from s2l_ray.corpus.templates import ONE_TURN, TemplateRefuses
from s2l_ray.corpus.tokenization import encode, tokenize
from s2l_ray.corpus.tokenizer import load_tokenizer
from s2l_ray.errors import Damaged, TooFew
from s2l_ray.pipeline.marks import selection_name, settings_of
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import (
    Selection,
    choose_subset,
    prepare,
    ready_tokenizer,
    select,
    tokens_of,
)
from s2l_ray.scoring.losses import Scoring, score
from s2l_ray.selection.subset import deal
from s2l_ray.store import Manifest
from s2l_ray.training.checkpoints import checkpoints_of, checksums_of_checkpoints
from s2l_ray.training.train import train

logger = logging.getLogger(__name__)


def finetune(
    run: Run, examples: Manifest, name: str, *, seed: int, target: TrainingConfig | None = None
) -> Manifest:
    """Fine-tune the target, in another way than config.target if one is given, on examples."""
    config = run.config
    target = target or config.target
    assert target is not None
    if mark := examples.info.get("chosen"):
        examples = replace(examples, fingerprint=mark)
    if "selector" in examples.info and len(examples.parts) > 1:  # in rank order over its parts
        examples = run.stage(
            f"targets/{name}/dealt",
            fingerprint(examples.fingerprint, "dealt"),
            partial(deal, run.store, examples),
        )
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


def prepare_evaluation(run: Run) -> None:
    """Refuse now, not after hours, held-out examples that the target cannot be evaluated on, and
    files of questions that are none; say what is left out."""
    corpus, settings = run.done["corpus"], run.config.evaluation
    heldout = evaluation.heldout_examples(run.store, corpus, settings, run.config.corpus)
    if settings.answer_marker is not None:
        evaluation.check_marker(run.store, heldout, settings.answer_marker)
    sets = evaluation.answer_sets(run.store, corpus, settings)
    for sentence in evaluation.notes(heldout | sets):
        logger.info(sentence)
    _tokens_of_heldout(run, heldout)


def _tokens_of_heldout(run: Run, heldout: dict[str, Manifest]) -> dict[str, Manifest]:
    """Of each set of held-out examples, as the target sees them, and under NAME/answer with label
    tokens after evaluation.answer_marker alone. ValueError if either have none."""
    config, marker = run.config, run.config.evaluation.answer_marker
    assert config.target is not None
    prompt = config.target_prompt or config.prompt
    tokens = {
        origin: tokens_of(
            run, f"evaluations/tokens/{origin}", examples, config.target.model, prompt
        )
        for origin, examples in heldout.items()
    }
    if not _label_tokens(tokens):
        raise evaluation.nothing_left()
    if marker is None:
        return tokens
    answers = {
        f"{origin}/answer": run.stage(
            f"evaluations/tokens/{origin}/answer",
            fingerprint(tokens[origin].fingerprint, marker),
            partial(
                tokenize,
                run.store,
                examples,
                tokenizer_folder=tokens[origin].info["tokenizer"],
                prompt=prompt,
                marker=marker,
            ),
        )
        for origin, examples in heldout.items()
    }
    if not _label_tokens(answers):
        raise evaluation.nothing_left(sum(each.rows for each in heldout.values()), marker)
    return tokens | answers


def _label_tokens(tokens: dict[str, Manifest]) -> int:
    return sum(part.stats["label_tokens"] for each in tokens.values() for part in each.parts)


def evaluate(
    run: Run, targets: dict[str, Manifest], against: Mapping[str, Iterable[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Of fine-tuned targets, by their names: held-out response loss (evaluation.summarise); with
    evaluation.answer_marker that of what follows the marker (evaluation.summarise_answers); with
    evaluation.answers exact_match: {set: counts}. against: targets -> those that they are compared
    with; errors_over_examples are of their differences, by the other's name. left_out: sentences
    about what is not evaluated on, since the corpus has it too."""
    config = run.config
    assert config.target is not None
    prompt, settings = config.target_prompt or config.prompt, config.evaluation
    heldout = evaluation.heldout_examples(run.store, run.done["corpus"], settings, config.corpus)
    sets = evaluation.answer_sets(run.store, run.done["corpus"], settings)
    tokens = _tokens_of_heldout(run, heldout)
    tokenizer = next(iter(tokens.values())).info["tokenizer"]
    marker = settings.answer_marker
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
            made_of = checksums_of_checkpoints(target)
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

    def scores(name: str, end: str = "") -> list[tuple[Manifest, Manifest]]:
        return [
            (examples, losses[f"evaluations/{name}/{origin}{end}"])
            for origin, examples in heldout.items()
        ]

    read = {name: evaluation.read_losses(run.store, scores(name)) for name in targets}

    def result(name: str) -> dict[str, Any]:
        found = evaluation.summarise(read[name])
        found["left_out"] = evaluation.notes(heldout | sets)
        if others := (against or {}).get(name):
            found["errors_over_examples"] = {
                other: evaluation.errors_over_examples(read[name], read[other]) for other in others
            }
        if marker is not None:
            found |= evaluation.summarise_answers(run.store, scores(name, "/answer"), marker)
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
            made_of, at_most = checksums_of_checkpoints(target).get(step), settings.answers_at_most
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


def side_by_side(
    tune: Callable[[str], Manifest], names: Iterable[str], at_once: int
) -> dict[str, Manifest]:
    """tune(name) of each by name, several at once. After an error no more begin, and it is raised
    when those under way are over."""
    failed = list[BaseException]()

    def begin(name: str) -> Manifest | None:
        if failed:
            return None
        try:
            return tune(name)
        except BaseException as error:  # that a training was interrupted, too
            failed.append(error)
            if not isinstance(error, Damaged):  # which is told, and mended, where the run goes on
                logger.info(
                    f"target {name}: {str(error) or type(error).__name__}; no other one begins"
                )
            return None

    with ThreadPool(at_once) as pool:
        made = dict(zip(names, pool.map(begin, names, chunksize=1), strict=True))
    if failed:
        raise failed[0]
    return {name: manifest for name, manifest in made.items() if manifest is not None}


def compare_baselines(run: Run) -> list[dict[str, Any]]:
    """Targets on the selector's subset and on each baseline's, for each seed, and their losses.

    A seed stands for the draw and the training alike, so a pair of arms with one seed shares its
    initial weights and differs in the subset alone. All budgets are as many examples (but of
    random_tokens: as many tokens); left_out also tells of the baselines that have fewer to choose
    from.
    """
    config = run.config
    prepare_evaluation(run)
    main = choose_subset(run, config.selection)
    # As many tokens are not as many examples; but for that, what is made elsewhere is found again.
    by_tokens = parse_budget(config.selection.budget)[0] == "tokens"
    budget = main.info["examples"] if by_tokens else config.selection.budget
    subsets: dict[str, tuple[SelectionConfig, Selection]] = {}
    short: dict[str, str] = {}  # baselines that have too few examples to choose from
    for selector in dict.fromkeys([config.selection.selector, *config.evaluation.baselines]):
        for seed in config.evaluation.seeds:
            choice = SelectionConfig(
                selector=selector, budget=budget, seed=seed, like=config.selection.like
            )
            if (selector, seed) == (config.selection.selector, config.selection.seed):
                choice = config.selection  # the run's own subset, and the target of finetune.py
            try:
                subset = choose_subset(run, choice)
            except TooFew as error:
                if selector == config.selection.selector:
                    raise
                short[selector] = f"{selector} is left out: {error}"
                logger.info(f"evaluation.baselines: {short[selector]}")
                break
            subsets[selection_name(selector, seed)] = choice, subset

    def tune(name: str) -> Manifest:
        choice, subset = subsets[name]
        return finetune(run, subset.manifest, name, seed=choice.seed)

    targets = side_by_side(tune, subsets, config.evaluation.targets_at_once)
    against = {
        name: baseline
        for name, (choice, _) in subsets.items()
        if (baseline := selection_name(BASELINE, choice.seed)) in subsets and baseline != name
    }
    losses = evaluate(run, targets, {name: [other] for name, other in against.items()})
    for name, other in against.items():
        if errors := losses[name].get("errors_over_examples"):
            losses[name]["errors_over_examples"] = errors[other]
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
        | {"left_out": losses[name]["left_out"] + list(short.values())}
        for name, (choice, subset) in subsets.items()
    ]


def finetune_selected(run: Run) -> tuple[Manifest, str]:
    """The target on the configured selection, and the arm's name."""
    config, target = run.config.selection, run.config.target
    assert target is not None
    # Refuse now, not after the proxy, a target that cannot be had or its prompt.
    if "tokens" not in run.done:
        prepare(run)
    tokenizer = load_tokenizer(run.store, ready_tokenizer(run, target.model))
    with suppress(TemplateRefuses):  # of one that wants a system turn, say
        encode([ONE_TURN], run.config.target_prompt or run.config.prompt, tokenizer)
    selection = select(None, run.config, run=run)
    name = selection_name(config.selector, config.seed)
    return finetune(run, selection.manifest, name, seed=config.seed), name


def model_path(run: Run, target: Manifest) -> str:
    """The folder of the tuned model; AutoModelForCausalLM.from_pretrained loads it."""
    return run.store.address(max(checkpoints_of(target).items())[1])
