"""The commands: what each does, and its `--help`. cli.py makes `s2l-ray` and jobs/ from them.

A command is declared once: a function, whose docstring is its help and starts with a one-line
summary. Heavy modules are imported inside the functions, so `--help` is fast and a faulty
configuration is refused at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from s2l_ray.config import RunConfig, Setting
    from s2l_ray.pipeline.pilot import Limit
    from s2l_ray.pipeline.run import Run
    from s2l_ray.pipeline.selection import Selection

logger = logging.getLogger(__name__)

Takes = Literal[
    "run",
    "evaluate",
    "plan",
    "pilot",
    "run_dir",
    "garbage",
    "settings",
    "examples",
    "push",
    "path",
    "nothing",
]


class Planning(NamedTuple):
    """Options of `plan` and `pilot`. gpu_memory: bytes of a GPU. gpu: its name. tokens_per_second:
    of the proxy's training."""

    gpu_memory: float | None = None
    gpu: str | None = None
    tokens_per_second: float | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Command:
    """work gets what the command takes: run, a RunConfig; evaluate, a RunConfig and the tasks of
    --lm-eval or None; plan, a RunConfig and a Planning; pilot, these and a Limit; run_dir, a
    string, a list of overrides, and whether to watch it and to print JSON; garbage, a string, a
    list of overrides, and whether to remove nothing; settings, a RunConfig and a list of each
    Setting; examples, a RunConfig and a number; push, a RunConfig, the target and whether all may
    read it; path, a string; nothing, no argument. then: the commands that may follow."""

    name: str
    work: Callable[..., None]
    takes: Takes
    needs_target: bool
    needs_heldout: bool
    then: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    takes: Takes = "run",
    *,
    needs_target: bool = False,
    needs_heldout: bool = False,
    then: tuple[str, ...] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare a function as a command."""

    def declare(work: Callable[..., None]) -> Callable[..., None]:
        COMMANDS[name] = Command(name, work, takes, needs_target, needs_heldout, then)
        return work

    return declare


@command("select", then=("pipeline", "finetune", "diagnose"))
def select(config: RunConfig) -> None:
    """Select the part of a corpus that is worth training on.

    Fine-tunes the proxy on the whole corpus, scores every example at each
    checkpoint, and draws the subset from the loss trajectories as
    selection.selector says.

    Reads:    corpus.path
    Writes:   corpus, tokens, proxy, losses, trajectories, what the selector draws
              from, selections/NAME, exports/NAME, report/index.html and run.json
              in run_dir
    Prints:   the folders of the selection and its exports, the path of the report
    Example:  %(prog)s my.yaml selection.budget=0.05
    """
    from s2l_ray.pipeline.run import Run

    with Run.start(config, "select") as run:
        _print(run, run.finish(_selected))


def _selected(run: Run) -> str:
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.report import gather

    selection = pipeline.select(None, run.config, run=run)
    page = gather.write(run, selection)
    return "\n".join([*_folders(selection), f"report: {page}"])


@command("refit", then=("pipeline", "finetune", "diagnose"))
def refit(config: RunConfig) -> None:
    """Train the proxy again on all files of a corpus that grows, and select.

    All files that are there now become the first generation. What was made of
    earlier ones stays until `gc` removes it. Needs corpus.grow.

    Reads:    corpus.path
    Writes:   refit.json and what `select` writes, in run_dir
    Prints:   as `select`
    Example:  %(prog)s my.yaml
    """
    from s2l_ray.formatting import plural
    from s2l_ray.pipeline.growth import begin_again
    from s2l_ray.pipeline.run import Run

    if not config.corpus.grow:
        raise ValueError(
            "corpus.grow: found false; without it every run reads all files and trains the proxy "
            "on them: use `select`"
        )

    with Run.start(config, "refit") as run:
        count = begin_again(run.store, config.corpus)
        logger.info(f"corpus: the first generation has {plural(count, 'file')}")
        _print(run, run.finish(_selected))


def _print(run: Run, text: str) -> None:
    """Print what is alarming about a run, then its result."""
    print("\n".join([*run.alarms.lines(), text]))


def _folders(selection: Selection) -> list[str]:
    exports = [f"{name}: {folder}" for name, folder in selection.exports.items()]
    return [f"selection: {selection.path}", *exports]


@command("import-losses", then=("select",))
def import_losses(config: RunConfig) -> None:
    """Join losses that another training computed to the corpus.

    What `select` does first if losses.path is set, alone: it shows whether the
    losses fit the corpus. `select` then goes on from there.

    Reads:    corpus.path, losses.path
    Writes:   corpus, tokens, losses and trajectories in run_dir
    Prints:   how many examples have a loss at every point, and the folder of the
              trajectories
    Example:  %(prog)s my.yaml losses.path=losses/
    """
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.pipeline.run import Run
    from s2l_ray.store.views import StepsView

    if config.losses is None:
        raise ValueError("losses: set losses.path to the losses of another training")

    def imported(run: Run) -> str:
        pipeline.prepare(run)
        found = run.get(run.plan.trajectories)
        steps = len(StepsView(found).steps)
        return (
            f"{found.rows:,} examples have losses at {steps} points\n"
            f"trajectories: {run.store.address(found.folder)}"
        )

    with Run.start(config, "import-losses") as run:
        _print(run, run.finish(imported))


@command("finetune", needs_target=True, then=("evaluate",))
def finetune(config: RunConfig) -> None:
    """Fine-tune the target on the selected subset.

    Makes the selection first if run_dir does not have it.

    Reads:    corpus.path; selections/NAME in run_dir
    Writes:   targets/NAME in run_dir, and the stages of `select`
    Prints:   the folder of the fine-tuned model, in Hugging Face format
    Example:  %(prog)s my.yaml target.epochs=2
    """
    from s2l_ray.pipeline import targets
    from s2l_ray.pipeline.run import Run

    with Run.start(config, "finetune") as run:
        target, _ = run.finish(targets.finetune_selected)
        _print(run, f"model: {targets.model_path(run, target)}")


@command("evaluate", takes="evaluate", needs_target=True, needs_heldout=True, then=("pipeline",))
def evaluate(config: RunConfig, tasks: str | None = None) -> None:
    """Evaluate the fine-tuned target on held-out examples and questions.

    Measures the loss per response token, by source. With evaluation.answers, also
    generates answers and counts exact matches; with evaluation.texts, generates
    texts and compares them with references; with --lm-eval, runs
    lm-evaluation-harness on the target. Makes the selection and the target first if
    run_dir does not have them.

    Reads:    corpus.path, evaluation.files, evaluation.answers, evaluation.texts;
              targets/NAME in run_dir
    Writes:   evaluations/NAME in run_dir, and the stages of `finetune`; with
              --lm-eval, report/lm-eval.json
    Prints:   the losses, the counts and the scores
    Example:  %(prog)s my.yaml evaluation.files.exam=exam.jsonl
    """
    from s2l_ray.analysis.examples import variance
    from s2l_ray.evaluation.lm_eval import check_lm_eval
    from s2l_ray.pipeline import subset as pipeline
    from s2l_ray.pipeline import targets
    from s2l_ray.pipeline.evaluate import evaluate as evaluate_targets
    from s2l_ray.pipeline.evaluate import prepare_evaluation
    from s2l_ray.pipeline.generating import run_harness
    from s2l_ray.pipeline.run import Run

    if tasks is not None:
        check_lm_eval()

    def evaluated(run: Run) -> dict[str, Any]:
        pipeline.prepare(run)
        prepare_evaluation(run)
        target, name = targets.finetune_selected(run)
        found = evaluate_targets(run, {name: target})[name]
        return found | ({} if tasks is None else {"lm_eval": run_harness(run, target, tasks)})

    with Run.start(config, "evaluate") as run:
        result = run.finish(evaluated)
    _print(run, "\n".join(f"{loss:8.4f}  {of}" for of, loss in result["by_source"].items()))
    print(f"{result['loss']:8.4f}  all, nats per response token, {result['label_tokens']:,} tokens")
    print(f"{result['macro']:8.4f}  mean over sources")
    if "answer_loss" in result:
        print(
            f"{result['answer_loss']:8.4f}  after {config.evaluation.answer_marker!r}, "
            f"{result['answer_label_tokens']:,} tokens, "
            f"{result['answer_left_out']:,} examples without it"
        )
    for name, of in result.get("exact_match", {}).items():
        error = variance(result["influences"][f"exact_match/{name}"])
        told = "" if error is None else f" ± {error**0.5:.1%}"
        print(
            f"{of['correct'] / of['questions']:8.1%}{told}  {name}: {of['correct']:,} correct of "
            f"{of['questions']:,} questions ({of['of']:,} in the set), "
            f"{of['no_answer']:,} without an answer"
        )
        for why in (each for each in of if each.startswith("programs_")):
            print(f"{of[why]:8,}  programs of {name} ended with: {why.removeprefix('programs_')}")
    for key, score in result.get("texts", {}).items():
        written = result["texts_written"][key.rpartition("/")[0]]
        print(f"{score:8.4f}  {key}, {written:,} texts")
    for task, metrics in result.get("lm_eval", {}).items():
        for metric, value in metrics.items():
            print(f"{value:8.4f}  {metric} of {task}, by lm-evaluation-harness")
    for sentence in result["left_out"]:
        print(sentence)


@command("pipeline", needs_target=True, needs_heldout=True, then=("compare",))
def pipeline(config: RunConfig) -> None:
    """Select, fine-tune, compare with the baselines, and report.

    For each of evaluation.seeds, fine-tunes a target on the subset of the selector
    and on that of each of evaluation.baselines, and evaluates all of them on the
    same held-out examples. One proxy serves all of them.

    Reads:    corpus.path, evaluation.files, evaluation.answers
    Writes:   the stages of `select`; selections/NAME, targets/NAME and
              evaluations/NAME for each selector and seed; report/index.html and
              run.json in run_dir
    Prints:   the verdict; what won, whether that is beyond noise, and what to do
              next; the folder of the selection, the path of the report
    Example:  %(prog)s my.yaml run_dir=s3://bucket/prefix
    """
    from s2l_ray.pipeline import comparison, subset
    from s2l_ray.pipeline.evaluate import prepare_evaluation
    from s2l_ray.pipeline.run import Run
    from s2l_ray.report import gather
    from s2l_ray.report.closing import closing
    from s2l_ray.report.verdict import other_measures, verdict

    def compared(run: Run) -> str:
        subset.prepare(run)
        prepare_evaluation(run)
        selection = subset.select(None, config, run=run)
        arms = comparison.baselines(run)
        page = gather.write(run, selection, arms)
        shown = gather.arms_of(arms)
        told, notes = verdict(shown, main=config.selection.selector)
        said = [" ".join([told, *notes]), *other_measures(shown)]
        said += closing(arms, main=config.selection.selector, primary=config.compare.primary)
        return "\n".join([*said, *_folders(selection), f"report: {page}"])

    with Run.start(config, "pipeline") as run:
        _print(run, run.finish(compared))


@command("compare", needs_target=True, needs_heldout=True)
def compare(config: RunConfig) -> None:
    """Compare selectors over budgets and seeds, with intervals and verdicts.

    Fine-tunes a target for each of compare.selectors, compare.budgets and
    compare.seeds, with one proxy per seed. Before the first target, it logs what
    the selectors choose, and which subsets differ by no more than draws do. Run it
    again with more seeds or selectors to add to the comparison.

    Reads:    corpus.path, evaluation.files, evaluation.answers
    Writes:   the stages of each target; report/comparison.json (a record per
              target), report/verdicts.json, report/comparison.html and run.json in
              run_dir
    Prints:   the number of targets before it starts; then the differences from
              random selection and verdicts on the primary measure, the path of
              the report
    Example:  %(prog)s my.yaml compare.budgets=[0.05,0.11]
    """
    from s2l_ray.pipeline import comparison, records
    from s2l_ray.pipeline.run import Run
    from s2l_ray.report import comparison_page as page
    from s2l_ray.report import comparison_text as text

    with Run.start(config, "compare") as run:
        settings = records.settings_of_comparison(config)
        seen = records.known(run.store, records.COMPARISON, settings)
        print(text.plan(config, comparison.num_targets(config), seen))
        found = run.finish(
            lambda run: comparison.compare(run, lambda so_far: text.tell_progress(config, so_far))
        )
        _print(run, text.as_text(found, config.compare))
        print(f"report: {page.write(run, found)}")


@command("diagnose")
def diagnose(config: RunConfig) -> None:
    """Measure how much of the S2L selection is signal and how much is noise.

    Compares the subset with those of variants of the run. Each variant changes one
    thing: the draw, the k-means seed, the number of clusters, the number of
    checkpoints, the proxy's seed, or the proxy. With diagnose.gradients, also
    compares the gradients of subsets with those of the corpus.

    Reads:    corpus.path
    Writes:   the stages of each variant; report/diagnostics.json,
              report/diagnostics.html and run.json in run_dir
    Prints:   the overlaps, the findings, the path of the report
    Example:  %(prog)s my.yaml diagnose.n_clusters=[50,200]
    """
    from s2l_ray.pipeline import diagnosis
    from s2l_ray.pipeline.run import Run
    from s2l_ray.report import diagnostics_page as page

    with Run.start(config, "diagnose") as run:
        record = run.finish(diagnosis.diagnose)
        _print(run, page.as_text(record))
        print(f"report: {page.write(run, record)}")


@command("plan", takes="plan")
def plan(config: RunConfig, options: Planning) -> None:
    """Print what a run would do and take, and whether it may pay, without doing it.

    For each stage of `pipeline`, or of `select` if there is no target: whether it
    exists, examples, tokens, operations, time, hours of CPUs and GPUs, bytes and
    requests on the store, memory of each worker, and money if the section prices is
    there. Then what the selectors would choose, if run_dir has trajectories; what
    the selection must be worth to pay; and how small a difference the planned seeds
    can show. What does not fit is told, with what to change.

    Counts are estimates from a sample of the sources. Speed is measured on this
    machine for some seconds, or given.

    Reads:    a sample of the corpus; the tokenizers and config.json of the models
    Writes:   nothing
    Prints:   all that; the status is 1 if a model does not fit its memory
    Example:  %(prog)s my.yaml --gpu H100
    """
    from s2l_ray.models.room import nominal
    from s2l_ray.pipeline.outlook import outlook
    from s2l_ray.pipeline.rates import Given
    from s2l_ray.report import forecast_text

    given = Given(options.gpu, options.tokens_per_second)
    found = outlook(config, given, options.gpu_memory or nominal(options.gpu))
    if options.as_json:
        print(json.dumps(forecast_text.as_json(found), indent=2))
    else:
        print(forecast_text.as_text(found))
    if refused := [need.verdict.refused for need in found.needs if need.verdict.refused]:
        raise ValueError("\n".join(refused))


@command("pilot", takes="pilot")
def pilot(config: RunConfig, options: Planning, limit: Limit) -> None:
    """Learn whether selecting pays, for the price of a small comparison.

    Chooses the comparison that tells most within --gpu-hours or --minutes: seeds,
    targets (the run's own, or of the proxy's size) and share of the corpus, by the
    estimates of `plan`. Compares selection.selector with random and source-balanced
    random selection, and with training on the whole corpus for as many tokens.
    Repeat the command to continue it.

    Reads:    corpus.path, evaluation.files
    Writes:   pilot.yaml and the stages of `compare` in RUN_DIR-pilot
    Prints:   what it chose and why; the differences; then one of: select, do not
              select, take source-balanced random, undecided (and what would decide)
    Example:  %(prog)s my.yaml --minutes 20
    """
    from s2l_ray.report import pilot_text

    print(pilot_text.run(config, options, limit))


@command("status", takes="run_dir")
def status(place: str, overrides: list[str], watch: bool, as_json: bool) -> None:
    """Print how far a run is: what is done, running and to do.

    Works while the run is under way and after it ended or died, from any machine
    that can read the run directory. In place of the run directory you can give the
    run's CONFIG.yaml with its overrides, which sets storage.* too.

    Reads:    run_dir alone
    Writes:   nothing
    Prints:   who runs and since when; each stage with its size, rate and time left;
              the error that ended the run
    Example:  %(prog)s runs/my --watch
    """
    from s2l_ray.report import status_text

    status_text.show(place, overrides, watch=watch, as_json=as_json)


@command("gc", takes="garbage")
def gc(place: str, overrides: list[str], dry_run: bool) -> None:
    """Remove the stages of a run directory that nothing refers to.

    Kept are the stages that are current in run.json, those that the last run of
    each command used or was making, and the targets in records of comparisons.
    Stages that go are made again if their settings come back. Of finished stages,
    files that no manifest lists go too. Works only if no run owns the directory.

    Reads:    run.json, the manifests and report/*.json in RUN_DIR
    Writes:   nothing; it removes
    Prints:   what it removes, or would with --dry-run
    Example:  %(prog)s runs/my --dry-run
    """
    from s2l_ray.pipeline.garbage import as_text, collect, find_garbage
    from s2l_ray.pipeline.status import open_run

    store = open_run(place, overrides)
    found = find_garbage(store) if dry_run else collect(store)
    print(as_text(found, dry_run=dry_run))


@command("inspect", takes="examples")
def inspect(config: RunConfig, count: int) -> None:
    """Show random examples as the proxy is given them, with their label tokens marked.

    The proxy learns the labels and is scored on them. In a chat, each answer should
    be marked, its end-of-turn token included.

    Reads:    corpus.path
    Writes:   corpus and tokens in run_dir, which `select` uses again
    Prints:   each example's place and tokens; LABEL marks lines of label tokens
    Example:  %(prog)s my.yaml -n 5
    """
    from s2l_ray.pipeline.plan import Plan, corpus_stage
    from s2l_ray.pipeline.run import Run
    from s2l_ray.report.labelled import as_text, labelled_examples

    with Run.start(config, "inspect") as run:
        run.plan = Plan(config, corpus_stage(config))
        run.expect()
        print(run.finish(lambda run: as_text(labelled_examples(run, count))))


@command("push", takes="push")
def push(config: RunConfig, target: str, public: bool) -> None:
    """Upload the subset to a Hugging Face hub as a dataset, private unless --public.

    The dataset's card says how the examples were chosen. The token comes from
    HF_TOKEN or `hf auth login`.

    Reads:    run.json, the selection and report/comparison.json in run_dir
    Writes:   the repository owner/name on the hub; nothing in run_dir
    Prints:   the address of the dataset
    Example:  %(prog)s hf://owner/name my.yaml
    """
    from s2l_ray.report import card
    from s2l_ray.selection.exports import push as hub
    from s2l_ray.store import Store

    store = Store(config.run_dir, config.storage)
    subset = card.chosen(store, config)
    text = card.card(store, config, subset, target)
    print(f"dataset: {hub.push(store, subset, target, card=text, public=public)}")


@command("demo-corpus", takes="path")
def demo_corpus(path: str) -> None:
    """Write the corpus of the demo to a file: 6,000 made-up examples from 16 sources.

    Five broken lines among them show how rejected rows are reported. A run needs
    no file: `corpus.path: demo` reads the same rows.

    Writes:   PATH.jsonl, one {"instruction", "output", "source"} per line
    Prints:   the path
    Example:  %(prog)s runs/demo-corpus/corpus.jsonl
    """
    from s2l_ray.corpus import demo

    print(demo.write(path))


@command("config show", takes="settings")
def config_show(config: RunConfig, settings: list[Setting]) -> None:
    """Print the resolved configuration, and where each value comes from.

    The output is a valid configuration: defaults and overrides are filled in.

    Reads:    CONFIG.yaml
    Prints:   YAML; a comment after each value says default, override, or the
              file it is from
    Example:  %(prog)s my.yaml selection.budget=0.05
    """
    from s2l_ray.config.rendering import as_yaml

    print(as_yaml(config, settings), end="")


@command("config schema", takes="nothing")
def config_schema() -> None:
    """Print the JSON schema of configurations, with a description of each field.

    Editors complete and check YAML with it. For those that use the YAML language
    server, start the file with `# yaml-language-server: $schema=schema.json`.

    Prints:   JSON
    Example:  %(prog)s > schema.json
    """
    from s2l_ray.config import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
