"""What is alarming about a run, from where it is found to where it is told.

A run checks a stage when it meets it, from the stage's manifest and tables (analysis.alarms has the
rules). What it finds goes to the log and the first lines of a command, to run.json (and so to
`status` and to the card of a dataset), and to the top of the pages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.analysis.alarms import (
    Alarm,
    advice,
    of_clusters,
    of_drift,
    of_losses,
    of_selection,
)
from s2l_ray.clustering.reading import all_equal
from s2l_ray.config import RunConfig
from s2l_ray.formatting import measured
from s2l_ray.scoring.trajectories import losses_array, mean_losses, sample_trajectories
from s2l_ray.store import Manifest, Store
from s2l_ray.store.views import ClustersView, SelectionView, StepsView, TokensView
from s2l_ray.training.checkpoints import checkpoints_of, config_of

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run

logger = logging.getLogger(__name__)


class Alarms:
    """What a run found alarming, by stage, in the order in which it met them.

    earlier: records of an earlier command with the same settings. A stage's stay in run.json until
    this command has met the stage.
    """

    def __init__(self, earlier: Iterable[dict[str, str]] = ()) -> None:
        self.earlier = list(earlier)
        self.found: dict[str, list[Alarm]] = {}

    def all(self) -> list[Alarm]:
        return [each for found in self.found.values() for each in found]

    def records(self) -> list[dict[str, str]]:
        """Return them as run.json has them: stage, kind, headline, advice."""
        return [each for each in self.earlier if each["stage"] not in self.found] + [
            {"stage": stage} | each._asdict()
            for stage, found in self.found.items()
            for each in found
        ]

    def lines(self) -> list[str]:
        """Return them as the first lines of a command's output."""
        return [f"warning: {each}" for each in self.all()]


def tell(run: Run, stage: str, found: list[Alarm], *, log: bool = True) -> None:
    """Take over what a stage's numbers say; log what was not logged before."""
    before = run.alarms.records()
    run.alarms.found[stage] = found
    if run.alarms.records() != before:
        run.write_record()
    for each in found:
        if log and str(each) not in run.told:  # another seed has the same tokens
            run.told.add(str(each))
            logger.warning(f"warning: {_label(run)}{each}")


def take_over(run: Run, view: Run) -> None:
    """Add the alarms of a view to the run's own, with its seed, unless they are the same."""
    for stage, found in view.alarms.found.items():
        if found != run.alarms.found.get(stage):
            label = _label(view)
            mine = [each._replace(headline=f"{label}{each.headline}") for each in found]
            tell(run, f"{label}{stage}", mine, log=False)


def _label(run: Run) -> str:
    """What a message begins with: the seed, if this is a view."""
    return "" if run.recorded else f"seed {run.config.seed}: "


def check_losses(plan: Plan, run: Run, trajectories: Manifest, *, fold: str = "") -> None:
    """ValueError if the proxy diverged, unless trajectories.allow_diverged. fold: of one of the
    proxies, if each has scored what another was trained on."""
    if not trajectories.rows:
        return
    config, steps = plan.config, StepsView(trajectories).steps
    means_T = mean_losses(run.store, trajectories)
    medians_T = np.median(losses_array(sample_trajectories(run.store, trajectories)), axis=0)
    proxy = None if config.losses is not None else run.done.get(f"{fold}proxy")
    vocabulary = vocabulary_of(run.store, proxy)
    found = [*of_losses(config, steps, means_T, medians_T, vocabulary, unseen=bool(fold))]
    refused = [each for each in found if each.kind == "diverged"]
    if not refused or config.trajectories.allow_diverged:
        tell(run, "trajectories", found)
        return
    tell(run, "trajectories", found, log=False)  # the error says it
    raise ValueError(
        f"{_label(run)}{refused[0]} All stages so far are kept. To select by these losses "
        "nevertheless, set trajectories.allow_diverged=true"
    )


def check_clusters(plan: Plan, run: Run, clusters: Manifest) -> None:
    """Only those that the run's own selection draws from: controls have others."""
    if clusters.folder != plan.groups(plan.config.selection).folder:
        return
    found, view = [*of_clusters(ClustersView(clusters))], ClustersView(clusters)
    if view.drift:
        first = run.get(plan.first.trajectories)
        found += of_drift(view, mean_losses(run.store, first).tolist())
    tell(run, "clusters", found)


def check_selection(plan: Plan, run: Run, selection: Manifest) -> None:
    """Only the run's own selection: baselines may differ in length on purpose."""
    view, tokens = SelectionView(selection), run.done[plan.tokens.name]
    if view.selector == plan.config.selection.selector:
        tell(run, "selection", [*of_selection(view, TokensView(tokens))])


def check_differ(config: RunConfig, store: Store, rows: Manifest) -> None:
    """ValueError if all trajectories or falls are the same: clusters would say nothing."""
    if rows.rows < 2 or (only_T := all_equal(store, rows)) is None:
        return
    kind, ends = rows.folder.partition("/")[0], f"{measured(float(only_T[0]))} at the first"
    if len(only_T) > 1:
        ends += f" checkpoint, {measured(float(only_T[-1]))} at the last"
    raise ValueError(
        f"all {rows.rows:,} {kind} are the same ({ends}), so clusters of them say nothing. "
        f"{advice(config, 'Raise')} Or select without them: selection.selector=random"
    )


def vocabulary_of(store: Store, proxy: Manifest | None) -> int | None:
    """Return how many tokens the proxy's last checkpoint knows; None if that is unknown."""
    if proxy is None:
        return None
    with suppress(FileNotFoundError, ValueError):
        *_, (_, folder) = sorted(checkpoints_of(proxy).items())
        config = config_of(store, folder)
        found = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        return found if isinstance(found, int) and found > 1 else None
    return None
