"""From a run's manifests, and a sample of its parts, to the numbers of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from s2l_ray.analysis.measures import metrics_of, value_of
from s2l_ray.clustering import clusters as clustering
from s2l_ray.config import parse_budget
from s2l_ray.corpus import rows as corpus_rows
from s2l_ray.execution import events, machine
from s2l_ray.pipeline import records
from s2l_ray.pipeline.cost import cost_of
from s2l_ray.pipeline.records import Record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import Selection
from s2l_ray.pipeline.told import labels_told, share_told
from s2l_ray.report.data import Arm, Curve, Example, Rejection, ReportData, Timing
from s2l_ray.report.labelled import labelled_examples
from s2l_ray.report.page import render
from s2l_ray.scoring.trajectories import losses_array, sample_trajectories, sampled
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest
from s2l_ray.store.schemas import EXAMPLES, completed
from s2l_ray.store.views import (
    ClustersView,
    CorpusView,
    SelectionView,
    StepsView,
    TokensView,
    TrainingView,
)

LENGTH_BINS = 40
LABELLED = 3  # examples shown with their label tokens marked


def write(run: Run, selection: Selection, arms: Sequence[Record] | None = None) -> str:
    """Write the run's page to report/index.html and return its address.

    arms: records of the comparison with the baselines. By default those that an earlier command
    left for this selection.
    """
    if arms is None:
        arms = records.known(run.store, records.BASELINES, records.settings_of_baselines(run))
    page = render(gather(run, selection, arms))
    run.store.write_bytes(page.encode(), "report", "index.html")
    if events.pages_wanted():
        if run.config.report.examples:
            page = render(gather(_without_examples(run), selection, arms))
        events.tell(lambda each: each.reported("index.html", page))
    return run.store.address("report", "index.html")


def gather(run: Run, selection: Selection, arms: Sequence[Record] = ()) -> ReportData:
    """Return what the page shows of a run that has made its selection."""
    config, done, chosen_by = run.config, run.done, SelectionView(selection.manifest)
    measured = [arm for arm in arms if "target" in arm]
    corpus, tokens = CorpusView(done["corpus"]), TokensView(done["tokens"])
    sample = sample_trajectories(run.store, done["trajectories"])
    chosen = _chosen_ids(selection)
    edges, of_corpus, of_subset = _lengths(run, chosen)
    clustered: dict[str, Any] = {}
    if chosen_by.by_cluster is not None:
        stage = run.plan.groups(config.selection)
        clusters = run.get(stage)
        partition = ClustersView(clusters)
        clustered = {
            "cluster_sizes": partition.sizes,
            "cluster_chosen": chosen_by.by_cluster,
            "inertia": partition.inertia,
            "n_iter": partition.n_iter,
            "adjusted_rand": partition.adjusted_rand,
            "share_above_quota": chosen_by.groups_above_quota,
            "examples": _examples(run, clusters, chosen) if config.report.examples else (),
        }
        if stage.name in ("clusters", "clusters_by_source"):  # other centers are not losses
            clustered["explained_variance_level"] = partition.level_share
            clustered["centers_KT"] = clustering.read_centers(run.store, clusters)
    trained: list[Any] = []
    if config.trains_proxy:
        trained.append(("proxy", None, TrainingView(done["proxy"]).history))
    trained += [(arm["method"], arm["selection_seed"], _history(run, arm)) for arm in measured]
    return ReportData(
        title=config.name,
        run_dir=run.store.uri,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        selector=config.selection.selector,
        rule=_rule(config.selection.selector),
        budget=_budget_in_words(config.selection.budget, tokens.trainable),
        seed=config.selection.seed,
        versions=machine.versions(),
        hardware=machine.hardware(),
        settings_yaml=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        corpus_by_source=corpus.by_source,
        n_duplicates=corpus.duplicates,
        duplicates_kept=config.corpus.duplicates == "number",
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
        curves=[Curve(name, seed, *zip(*history, strict=True)) for name, seed, history in trained],
        steps=StepsView(done["trajectories"]).steps,
        loss_quantiles_5T=np.quantile(losses_array(sample), (0.05, 0.25, 0.5, 0.75, 0.95), axis=0),
        arms=arms_of(arms),
        left_out=_left_out(arms),
        labelled=labelled_examples(run, LABELLED) if config.report.examples else (),
        labels_told=labels_told(tokens),
        timings=timings_of(run),
        cost=cost_of(run, selection.manifest),
        peak_memory_bytes=int(machine.peak_memory()),
        **clustered,
    )


def _without_examples(run: Run) -> Run:
    report = run.config.report.model_copy(update={"examples": False})
    return replace(run, config=run.config.model_copy(update={"report": report}))


def arms_of(found: Sequence[Record]) -> list[Arm]:
    """Return the arms of the records of comparison.baselines."""
    measured = [record for record in found if "loss" in record]
    metrics = metrics_of(measured) if measured else []
    others = [m for m in metrics if m.key != "loss" and not m.key.startswith("by_source/")]
    return [
        Arm(
            r["method"],
            r["selection_seed"],
            r["examples"],
            r["steps"],
            r["loss"],
            r["by_source"],
            r["tokens"],
            r.get("errors_over_examples", {}).get("loss"),
            {metric.words: value_of(r, metric.key) for metric in others},
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


def _chosen_ids(selection: Selection) -> pa.Array:
    store, manifest = selection.store, selection.manifest
    columns = [
        store.read_part(manifest.folder, part, ["example_id"])["example_id"].combine_chunks()
        for part in manifest.parts
    ]
    return pa.concat_arrays(columns)


def _lengths(run: Run, chosen: pa.Array) -> tuple[list[float], list[int], list[int]]:
    """Return the histogram of tokens per example, from a sample of the parts.

    Edges [LENGTH_BINS + 1], counts of the corpus and of the chosen examples [LENGTH_BINS].
    """
    lengths, taken = [], []
    for part in sampled(run.done["tokens"].parts):
        table = run.store.read_part(run.done["tokens"].folder, part, ["example_id", "input_ids"])
        lengths.append(pc.list_value_length(table["input_ids"]).to_numpy())
        taken.append(pc.is_in(table["example_id"], value_set=chosen).to_numpy())
    length, is_taken = np.concatenate(lengths), np.concatenate(taken)
    edges = np.linspace(0, length.max() + 1, LENGTH_BINS + 1)
    counts = (np.histogram(lengths, edges)[0] for lengths in (length, length[is_taken]))
    return edges.tolist(), *(count.tolist() for count in counts)


def _examples(run: Run, clusters: Manifest, chosen: pa.Array) -> list[list[Example]]:
    """Return the first few examples of each cluster by id, from as few parts as possible."""
    per_cluster = run.config.report.examples_per_cluster
    sizes = ClustersView(clusters).sizes
    shown: list[list[Example]] = [[] for _ in sizes]
    parts = {name: {p.unit: p for p in run.done[name].parts} for name in ("corpus", "trajectories")}
    for part in sampled(clusters.parts):
        labels = run.store.read_part(clusters.folder, part)
        losses = run.store.read_part(
            run.done["trajectories"].folder, parts["trajectories"][part.unit]
        )
        room = [per_cluster - len(found) for found in shown]
        rows: list[tuple[int, int]] = []
        for row, cluster in enumerate(labels["cluster_id"].to_pylist()):
            if room[cluster] > 0:
                room[cluster] -= 1
                rows.append((row, cluster))
        if rows:
            _show(run, rows, labels, losses, parts["corpus"][part.unit], chosen, shown)
        if all(len(s) >= min(per_cluster, n) for s, n in zip(shown, sizes, strict=True)):
            break
    return shown


def _show(
    run: Run,
    rows: list[tuple[int, int]],
    labels: pa.Table,
    losses: pa.Table,
    corpus_part: Any,
    chosen: pa.Array,
    shown: list[list[Example]],
) -> None:
    table = run.store.read_part(run.done["corpus"].folder, corpus_part)
    texts = completed(table, EXAMPLES)
    index = [row for row, _ in rows]
    ids = labels["example_id"].take(index)
    scored = pc.index_in(ids, value_set=losses["example_id"]).to_pylist()
    at = pc.index_in(ids, value_set=texts["example_id"])
    taken = pc.is_in(ids, value_set=chosen).to_pylist()
    curves = losses_array(losses)[scored]
    for (_, cluster), row, curve, is_chosen in zip(
        rows, texts.take(at).to_pylist(), curves, taken, strict=True
    ):
        prompt, response = shown_texts(corpus_rows.Example(row["turns"], row["tools"]))
        shown[cluster].append(
            Example(row["source"], float(curve[0]), float(curve[-1]), prompt, response, is_chosen)
        )


def shown_texts(example: corpus_rows.Example) -> tuple[str, str]:
    """Return the prompt and the response of an example as the page shows them.

    The response is the last assistant's turn. What is neither the text of a turn of the system, the
    user or the assistant, nor an input, stands behind its name in brackets.
    """
    turns = example.turns
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    before = [_shown(turn) for turn in turns[:last]]
    tools = [] if example.tools is None else [f"[tools] {example.tools}"]
    return "\n".join(tools + before), _shown(turns[last])


def _shown(turn: corpus_rows.Turn) -> str:
    plain = ("system", "user", "input", "assistant")
    texts = ["[no labels]"] if turn.get("train") is False else []
    texts += [
        text if kind in plain else f"[{kind}] {text}"
        for kind, text in corpus_rows.texts_of(corpus_rows.Example([turn]))
        if text or not turn.get("tool_calls")
    ]
    return "\n".join(texts)


def timings_of(run: Run) -> list[Timing]:
    """Return one row per stage, in the order in which they were first met.

    A stage that was damaged and repaired has an entry for each time it was made or found.
    """
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for entry in run.times:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [_timing(run.done.get(stage), stage, found) for stage, found in by_stage.items()]


def _timing(manifest: Manifest | None, stage: str, entries: Sequence[dict[str, Any]]) -> Timing:
    """Return a stage's row. `manifest` is None if the stage was not needed after a repair."""
    made = [entry for entry in entries if not entry["reused"]]
    throughput = ""
    if manifest is not None and (training := TrainingView(manifest)).has("padded_tokens"):
        if training.tokens is None:
            throughput = "unknown number of tokens"
        else:
            rate = training.tokens / max(training.seconds, 1e-9)
            throughput = f"{rate:,.0f} tokens/s while training"
    elif manifest is not None and made and not made[-1]["resumed"] and made[-1]["seconds"]:
        throughput = f"{manifest.rows / made[-1]['seconds']:,.0f} rows/s" if manifest.rows else ""
    if not made:
        return Timing(stage, None, throughput, "reused")
    state = "resumed" if made[-1]["resumed"] else "run"
    if len(made) > 1:
        state += f", {len(made)} times"
    return Timing(stage, sum(entry["seconds"] for entry in made), throughput, state)


def _budget_in_words(budget: int | float | str, candidates: int) -> str:
    """candidates: the examples that a share is a share of."""
    kind, amount = parse_budget(budget)
    if kind == "share":
        return f"{share_told(amount)} of the {candidates:,} examples with a response token"
    return f"{amount:,.0f} {kind}"


def _rule(name: str) -> str:
    selector = selector_named(name)
    return f"{selector.rule} ({selector.source})" if selector.source else selector.rule
