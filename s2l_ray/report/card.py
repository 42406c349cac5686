"""The card of a dataset on a hub: how its examples were chosen. It names no path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.config import ModelConfig, RunConfig
from s2l_ray.formatting import percent
from s2l_ray.pipeline import records
from s2l_ray.pipeline.identity import selection_name
from s2l_ray.pipeline.record import read_record
from s2l_ray.report import comparison_text
from s2l_ray.report.gather import arms_of
from s2l_ray.report.verdict import verdict
from s2l_ray.selection.kinds import Cluster
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import SelectionView

CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
tags:
- data-selection
- s2l-ray
---
# {name}

{examples:,} of {candidates:,} examples ({share}), {tokens:,} tokens, chosen for fine-tuning by
[s2l_ray](https://pypi.org/project/s2l-ray/). The rows are in the order of their ranks: the first n
are the subset of n examples.
{alarms}
| how | |
| --- | --- |
{how}

| source | examples |
| --- | --- |
{sources}

## Does it pay?

{verdict}

## Again

```sh
{command}
```

| column | |
| --- | --- |
| `messages`, `tools` | the chat; `weight: 0` marks an answer without labels |
| `example_id` | a hash of source and content |
| `source` | where the example comes from |
| `rank`, `reason` | its place, and the group that it was drawn from |
{weight}"""
WEIGHT = "| `weight` | the factor of its loss in training: how many examples it stands for |\n"
SECTIONS = ("corpus", "prompt", "proxy", "trajectories", "losses", "clusters", "selection")
NONE = "Not measured: the run has no comparison with these settings."


def chosen(store: Store, config: RunConfig) -> Manifest:
    """Return the selection of a finished `select`. ValueError if there is none, or if the run
    directory was last used with other settings."""
    name = selection_name(config.selection.selector, config.selection.seed)
    record = read_record(store)
    folder = record.get("current", {}).get(f"selections/{name}")
    found = store.manifest(folder) if folder else None
    if found is None:
        raise ValueError(
            f"run_dir: {store.uri} has no selection {name}; run `s2l-ray select` first"
        )
    given = config.model_dump(mode="json")
    for section in SECTIONS:
        there = record["config"].get(section)
        if _chosen_by(section, there) != _chosen_by(section, given[section]):
            raise ValueError(
                f"{section}: other settings than those that {store.uri} was last used with; run "
                f"`s2l-ray select` first"
            )
    return found


def _chosen_by(section: str, settings: Any) -> Any:
    if settings is None:
        return settings
    no_matter = {"selection": "export", "trajectories": "allow_diverged"}.get(section)
    return {key: value for key, value in settings.items() if key != no_matter}


def card(store: Store, config: RunConfig, subset: Manifest, target: str) -> str:
    """Return the card's text: selector, budget, seeds, proxy, counts, verdict, command."""
    view, selector = SelectionView(subset), selector_named(config.selection.selector)
    how = {
        "selector": f"`{view.selector}`: {selector.rule}",
        "source of the rule": selector.source,
        "budget": view.budget,
        "seed of the draws": view.seed,
        "proxy": _model(config.proxy.model),
        "seed of the proxy": config.seed,
    }
    if config.losses is not None or config.proxy.checkpoints is not None:
        how |= {"proxy": "losses or checkpoints of another training", "seed of the proxy": ""}
    if view.race:
        how["race"] = view.race["told"]
    if isinstance(selector_named(view.drawn_by), Cluster):
        how |= {
            "clusters": config.clusters.n_clusters,
            "seed of the clusters": config.clusters.random_state,
        }
    return CARD.format(
        name=target.rpartition("/")[2],
        examples=view.examples,
        candidates=view.candidates,
        share=percent(view.examples, view.candidates),
        tokens=view.tokens,
        how="\n".join(f"| {key} | {value} |" for key, value in how.items() if value != ""),
        alarms="".join(f"\n**Warning:** {each}.\n" for each in _alarms(store)),
        sources="\n".join(f"| {_cell(key)} | {n:,} |" for key, n in view.by_source.items()),
        verdict=_verdict(store, config, subset),
        weight="" if view.weights is None else WEIGHT,
        command=f"s2l-ray select CONFIG.yaml selection.selector={view.selector} "
        f"selection.budget={view.budget!r} selection.seed={view.seed}",
    )


def _model(model: ModelConfig) -> str:
    if model.name is None:
        return f"a {model.architecture['model_type']} from scratch" if model.architecture else ""
    # A folder's path is nobody's business.
    return Path(model.name).name if Path(model.name).is_dir() else model.name


def _alarms(store: Store) -> list[str]:
    """Return what the run found alarming, without the advice, which is for those who select."""
    return [each["headline"] for each in store.read_json("run.json").get("alarms", ())]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _verdict(store: Store, config: RunConfig, subset: Manifest) -> str:
    """Return what `compare` found, or else `pipeline`."""
    if config.target is None:
        return NONE
    found = records.known(store, records.COMPARISON, records.settings_of_comparison(config))
    if found:
        return f"```text\n{comparison_text.as_text(found, config.compare)}\n```"
    settings = records.settings_of_baselines(config, subset.fingerprint)
    if arms := arms_of(records.known(store, records.BASELINES, settings)):
        told, notes = verdict(arms, main=config.selection.selector)
        return " ".join([told, *notes])
    return NONE
