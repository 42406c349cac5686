"""From a run's manifests, and a sample of its parts, to the numbers of its page."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from s2l_ray import __version__
from s2l_ray.analysis.laws_told import alike_told
from s2l_ray.analysis.laws_told import rows as law_rows
from s2l_ray.analysis.measures import error_over_examples, influences_of, metrics_of, value_of
from s2l_ray.analysis.purpose import purpose_told
from s2l_ray.clustering import clusters as clustering
from s2l_ray.config import BASELINE, fingerprint, parse_budget
from s2l_ray.execution import events, machine
from s2l_ray.pipeline import records
from s2l_ray.pipeline.copies import copies_told
from s2l_ray.pipeline.cost import cost_of
from s2l_ray.pipeline.growth import WHOLE
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.laws import laws_of
from s2l_ray.pipeline.records import Record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import Selection
from s2l_ray.pipeline.told import labels_told, share_told
from s2l_ray.report.data import Arm, Curve, LawBins, Rejection, ReportData
from s2l_ray.report.labelled import labelled_examples
from s2l_ray.report.next_steps import SETTINGS, settings_text, write_settings
from s2l_ray.report.page import render
from s2l_ray.report.samples import examples_of_clusters, lengths
from s2l_ray.report.timing import timings_of
from s2l_ray.scoring.trajectories import losses_array, sample_trajectories
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.store.views import (
    ClustersView,
    CorpusView,
    LeaksView,
    SelectionView,
    StepsView,
    TokensView,
    TrainingView,
)

logger = logging.getLogger(__name__)

PAGE = ("report", "index.html")
LABELLED = 3  # examples shown with their label tokens marked


def write(run: Run, selection: Selection, arms: Sequence[Record] | None = None) -> str:
    """Write the run's page to report/index.html, and the settings beside it, for the commands that
    the page shows. Return the page's address.

    arms: records of the comparison with the baselines. By default those that an earlier command
    left for this selection. A page that is there stays if this command has made no stage and the
    page shows the same, or the same and more.
    """
    if arms is None:
        settings = records.settings_of_baselines(run.config, selection.manifest.fingerprint)
        arms = records.known(run.store, records.BASELINES, settings)
    address, mark = run.store.address(*PAGE), _mark(run, selection, arms)
    stages = {manifest.fingerprint for manifest in run.done.values()}
    reused = all(entry["reused"] for entry in run.times) and not events.pages_wanted()
    if reused and run.store.exists(*PAGE) and _shows(run.store.read_bytes(*PAGE), mark, stages):
        logger.info("reused: the report")
        return address
    logger.info("writing the report")
    data = gather(run, selection, arms)
    write_settings(run)
    page = f"{render(data)}<!-- of {mark}: {' '.join(sorted(stages))} -->\n"
    run.store.write_bytes(page.encode(), *PAGE)
    if events.pages_wanted():  # trackers get no text of the corpus
        page = render(replace(data, examples=(), labelled=()))
        events.tell(lambda each: each.reported("index.html", page))
    return address


def _mark(run: Run, selection: Selection, arms: Sequence[Record]) -> str:
    """Return what a page says of itself: a fingerprint of all but the stages that it tells of."""
    return fingerprint(
        __version__,
        machine.versions(),
        run.config.model_dump(mode="json"),
        run.store.uri,
        selection.manifest.folder,
        dict(selection.exports),
        run.alarms.records(),
        sorted(fingerprint(arm) for arm in arms),
    )


def _shows(page: bytes, mark: str, stages: set[str]) -> bool:
    """Say whether a page has this mark and tells of these stages, and maybe more."""
    found = re.search(rb"<!-- of (\w+):([\w ]*) -->\n\Z", page)
    if found is None or found[1].decode() != mark:
        return False
    return stages <= {*found[2].decode().split()}


def gather(run: Run, selection: Selection, arms: Sequence[Record] = ()) -> ReportData:
    """Return what the page shows of a run that has made its selection."""
    config, done, chosen_by = run.config, run.done, SelectionView(selection.manifest)
    evaluated = [arm for arm in arms if "target" in arm]
    corpus, tokens = CorpusView(done["corpus"]), TokensView(done["tokens"])
    trajectories = run.get(run.plan.seen_by(config.selection))
    sample = sample_trajectories(run.store, trajectories)
    edges, of_corpus, of_subset = lengths(run, selection.manifest)
    clustered: dict[str, Any] = {}
    if chosen_by.by_cluster is not None:
        drawn = config.selection.model_copy(update={"selector": chosen_by.drawn_by})
        stage = run.plan.groups(drawn)
        clusters = run.get(stage)
        partition = ClustersView(clusters)
        clustered = {
            "cluster_sizes": partition.sizes,
            "cluster_chosen": chosen_by.by_cluster,
            "inertia": partition.inertia,
            "n_iter": partition.n_iter,
            "adjusted_rand": partition.adjusted_rand,
            "share_above_quota": chosen_by.groups_above_quota,
        }
        if config.report.examples:
            clustered["examples"] = examples_of_clusters(run, clusters, selection.manifest)
        fitted = stage.inputs[0] if stage.place.startswith(WHOLE) else stage
        if fitted.inputs[0].name.rpartition("/")[2] == run.plan.seen_by(config.selection).name:
            # The centers are losses.
            clustered["explained_variance_level"] = partition.level_share
            clustered["centers_KT"] = clustering.read_centers(run.store, clusters)
    clustered["weights"] = _of_weights(chosen_by)
    clustered["purpose"] = _of_purpose(run, chosen_by, clustered.get("cluster_sizes", ()))
    others = _others(run)
    clustered["near_duplicates"] = copies_told(run, selection.manifest, *others.values())
    laws = laws_of(
        run, trajectories, [(run, each) for each in (selection.manifest, *others.values())]
    )
    names = [config.selection.selector, *others]
    trained: list[Any] = []
    if config.trains_proxy:
        proxies = [done[name] for name in done if name.rpartition("/")[2] == "proxy"]
        trained += [("proxy", None, TrainingView(proxy).history) for proxy in proxies]
    trained += [(arm["method"], arm["selection_seed"], _history(run, arm)) for arm in evaluated]
    return ReportData(
        title=config.name,
        run_dir=run.store.uri,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        selector=config.selection.selector,
        rule=_rule(config.selection.selector, chosen_by),
        budget=_budget_in_words(config.selection.budget),
        seed=config.selection.seed,
        versions=machine.versions(),
        hardware=run.hardware,
        settings_yaml=settings_text(run),
        settings_path=run.store.address(*SETTINGS),
        subset_path=f"{selection.path}/subset",
        exports=selection.exports,
        endpoint=config.storage.endpoint,
        has_target=config.target is not None,
        has_heldout=config.has_heldout,
        alarms=run.alarms.all(),
        corpus_by_source=corpus.by_source,
        n_duplicates=corpus.duplicates,
        duplicates_kept=config.corpus.duplicates == "number",
        n_rows=corpus.rows_read,
        n_rejected=corpus.rejected,
        rejections=[Rejection(*reason) for reason in corpus.rejected_reasons],
        rejected_by_file=corpus.rejected_by_file,
        passed_over=corpus.passed_over,
        n_held_out=corpus.heldout,
        n_unlabelled=tokens.manifest.rows - tokens.trainable,
        n_truncated=tokens.truncated,
        subset_by_source=chosen_by.by_source,
        length_edges=edges,
        length_corpus=of_corpus,
        length_subset=of_subset,
        curves=[
            Curve(name, seed, *zip(*history, strict=True))
            for name, seed, history in trained
            if history  # a training loop of the user's own may tell no losses
        ],
        steps=StepsView(trajectories).steps,
        loss_quantiles_5T=np.quantile(losses_array(sample), (0.05, 0.25, 0.5, 0.75, 0.95), axis=0),
        law=laws.law(),
        law_rows=law_rows(names, laws.tally) if others else (),
        laws_alike=alike_told(names, laws.tally),
        law_bins=LawBins(**laws.told_apart._asdict()),
        arms=arms_of(arms),
        left_out=_left_out(arms),
        labelled=labelled_examples(run, LABELLED) if config.report.examples else (),
        labels_told=labels_told(tokens),
        timings=timings_of(run),
        cost=cost_of(run, selection.manifest),
        peak_memory_bytes=int(machine.peak_memory()),
        **clustered,
    )


def _others(run: Run) -> dict[str, Manifest]:
    """The subsets of the baselines that this run has, one of each."""
    config = run.config
    seeds = [config.selection.seed, *config.evaluation.seeds]
    found = {
        name: subset
        for name in config.evaluation.baselines
        for seed in reversed(seeds)
        if (subset := run.done.get(f"selections/{selection_name(name, seed)}")) is not None
    }
    found.pop(config.selection.selector, None)
    return found


def arms_of(found: Sequence[Record]) -> list[Arm]:
    """Return the arms of the records of comparison.baselines."""
    measured = [record for record in found if "loss" in record]
    metrics = metrics_of(measured, "loss") if measured else []
    others = [m for m in metrics if m.key != "loss" and not m.key.startswith("by_source/")]
    bases = {r["selection_seed"]: r for r in measured if r["method"] == BASELINE}

    def error(record: Record) -> float | None:
        if "errors_over_examples" in record:  # of an earlier version
            return record["errors_over_examples"].get("loss")
        base = bases.get(record["selection_seed"])
        if base is None or record["method"] == BASELINE:
            return None
        return error_over_examples(record, base, "loss")

    return [
        Arm(
            r["method"],
            r["selection_seed"],
            r["examples"],
            r["steps"],
            r["loss"],
            r["by_source"],
            r["tokens"],
            error(r),
            {metric.words: value_of(r, metric.key) for metric in others},
            influences_of(r, "loss") or (),
        )
        for r in measured
    ]


def _left_out(found: Sequence[Record]) -> list[str]:
    texts = [text for record in found for text in record.get("left_out", ())]
    short = [
        f"{record['method']} is left out: {record['too_few']}"
        for record in found
        if "too_few" in record
    ]
    return list(dict.fromkeys(texts + short))


def _history(run: Run, record: Record) -> list[tuple[int, float]]:
    """The training curve of a record's target; empty if the target is no longer there."""
    manifest = run.store.manifest(record["target"])
    return [] if manifest is None else TrainingView(manifest).history


def _budget_in_words(budget: int | float | str) -> str:
    kind, amount = parse_budget(budget)
    if kind == "share":
        return share_told(amount)
    return f"{amount:,.0f} {kind}"


def _rule(name: str, chosen_by: SelectionView) -> str:
    selector = selector_named(name)
    found = f"{selector.rule} ({selector.source})" if selector.source else selector.rule
    return f"{found}. {chosen_by.race['told']}" if chosen_by.race else found


def _of_weights(chosen_by: SelectionView) -> list[str]:
    """Say that the subset is weighted, and what that costs; nothing if it is not."""
    if chosen_by.weights is None or chosen_by.effective_examples is None:
        return []
    used = [weight for weight in chosen_by.weights if weight]
    return [
        f"The subset is weighted: in training the loss of an example counts {min(used):.3g} "
        f"to {max(used):.3g} times, as often as it stands for examples of its cluster.",
        f"Its {chosen_by.examples:,} examples have an effective sample size of "
        f"{chosen_by.effective_examples:,.0f}, (sum of weights)² / sum of squared weights.",
    ]


def _of_purpose(run: Run, chosen_by: SelectionView, sizes: Sequence[int]) -> list[str]:
    """Say where the purpose's examples lie, and which are left out; nothing without a purpose."""
    found = purpose_told(chosen_by, sizes)
    if selector_named(run.config.selection.selector).toward and "purpose/examples" in run.done:
        note = LeaksView(run.done["purpose/examples"]).note
        found += [] if note is None else [f"{note}."]
    return found
