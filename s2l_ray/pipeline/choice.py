"""The stages of a selection: what its selector draws from, and the subset."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from s2l_ray.clustering.clusters import cluster, label
from s2l_ray.config import SelectionConfig
from s2l_ray.pipeline import alarms
from s2l_ray.pipeline.copies import Cap, tell_spent
from s2l_ray.pipeline.growth import WHOLE
from s2l_ray.pipeline.identity import clusters_settings, file_name, liked, selection_name
from s2l_ray.pipeline.race import winner_stage
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.pipeline.toward import purpose_shares, tell_shares
from s2l_ray.selection.choose import choose, examples_for
from s2l_ray.selection.coverage import cover
from s2l_ray.selection.exports.stage import export
from s2l_ray.selection.kinds import (
    OUT_OF_FOLD,
    Cluster,
    Cover,
    Draw,
    Selector,
    Winner,
    gives_weights,
)
from s2l_ray.selection.points import falls, features, learned, means
from s2l_ray.selection.ranking import rank
from s2l_ray.selection.selectors import selector_named, source_of
from s2l_ray.store import Manifest

if TYPE_CHECKING:
    from s2l_ray.pipeline.plan import Plan
    from s2l_ray.pipeline.run import Run


def choice_stage(plan: Plan, choice: SelectionConfig) -> Stage:
    """Declare one selector's subset, after what it draws from."""
    selector = selector_named(choice.selector)
    if isinstance(selector, Winner):
        return winner_stage(plan, choice)
    like = plan.selection(liked(choice)) if selector.like else None
    beside: dict[str, Stage] = {}
    if selector.before:
        beside["before"] = plan.before
    if selector.without_prompt:
        beside["without_prompt"] = plan.without_prompt
    beside |= {when: plan.details(choice)[when] for when in selector.details}
    near, cap = plan.near_duplicates, Cap.of(plan)
    if cap and isinstance(selector, Cover):  # what it may not choose must not be covered either
        beside["final"] = cap.kept(beside["final"])
    needed = (*((like,) if like else ()), *beside.values())
    groups = _groups(plan, choice, selector, needed, beside)
    toward: tuple[Stage, ...] = ()
    toward_share = plan.config.selection.toward_share
    if selector.toward == "shares":
        toward = (purpose_shares(plan, groups),)
    exclude = {"toward", "toward_share", "toward_steps", "near_duplicates", "race"}
    exclude |= set() if selector.like else {"like"}
    own = choice.model_copy(update={"export": []}).model_dump(exclude=exclude)

    def make(run: Run, **where: Any) -> Manifest:
        return choose(
            run.store,
            choice,
            corpus=run.get(plan.corpus),
            tokens=run.get(plan.tokens),
            groups=run.get(groups),
            like=run.get(like) if like else None,
            toward=(run.get(toward[0]), toward_share) if toward else None,
            copies=cap.copies(run) if cap else None,
            spread=run.get(beside["early"]) if gives_weights(selector) else None,
            **where,
        )

    def check(run: Run, selection: Manifest) -> None:
        alarms.check_selection(plan, run, selection)
        if toward:
            tell_shares(run, run.get(groups), selection)
        tell_spent(run, selection)

    return Stage(
        f"selections/{selection_name(choice.selector, choice.seed)}",
        alone(make),
        inputs=(groups, *needed, *toward, *((cap.near,) if cap else ())),
        # the exports change no example
        settings=(
            own,
            *source_of(choice.selector),
            *([toward_share] if toward else []),
            *(cap.settings if cap else ()),
        ),
        reads=(plan.corpus, plan.tokens, *((near,) if near else ())),
        check=check,
    )


def export_stages(subset: Stage, choice: SelectionConfig) -> dict[str, Stage]:
    """Declare the formats that a subset is written in, by name."""

    def stage(name: str) -> Stage:
        def make(run: Run, **where: Any) -> Manifest:
            return export(run.store, run.get(subset), name, **where)

        folder = f"exports/{subset.name.removeprefix('selections/')}/{name}"
        return Stage(folder, alone(make), inputs=(subset,), settings=("export", name))

    return {name: stage(name) for name in choice.export}


def _groups(
    plan: Plan,
    choice: SelectionConfig,
    selector: Selector,
    needed: tuple[Stage, ...],
    beside: dict[str, Stage],
) -> Stage:
    if isinstance(selector, Cluster):
        return _clusters(plan, selector, needed, beside)
    if isinstance(selector, Draw) and selector.groups == "all":
        return plan.trajectories
    seen = trajectories_of(plan, selector)
    settings: list[Any] = [choice.selector, *source_of(choice.selector)]
    if isinstance(selector, Cover):
        settings += [choice.budget] + [choice.seed] * selector.seeded
    else:
        strata = isinstance(selector, Draw) and selector.groups == "strata"
        settings.append(plan.config.clusters.n_clusters if strata else 1)

    def make(run: Run, **where: Any) -> Manifest:
        made = {name: run.get(stage) for name, stage in beside.items()}
        if isinstance(selector, Cover):
            have, tokens = made["final"], run.get(plan.tokens)
            budget = examples_for(choice.budget, have.rows, run.store, tokens, slack=2)
            return cover(
                run.store, have, rule=choice.selector, budget=budget, seed=choice.seed, **where
            )
        return rank(
            run.store,
            run.get(seen),
            selector=choice.selector,
            n_strata=plan.config.clusters.n_clusters,
            beside=made,
            **where,
        )

    name = f"rankings/{file_name(choice.selector)}"
    inputs = (seen, *needed)
    return Stage(name, alone(make), inputs=inputs, settings=tuple(settings))


def _clusters(
    plan: Plan, selector: Cluster, needed: tuple[Stage, ...], beside: dict[str, Stage]
) -> Stage:
    if plan.generations and selector.groups in ("clusters", "clusters_by_source"):
        return _grown_clusters(plan, selector)
    rows, config = _clustered(plan, selector, needed, beside), plan.config.clusters
    if selector.init is not None:
        config = config.model_copy(update={"init": selector.init})

    def make(run: Run, **where: Any) -> Manifest:
        by_source = selector.groups == "clusters_by_source"
        if selector.groups != "clusters_of_features":
            alarms.check_differ(plan.config, run.store, run.get(rows))
        return cluster(run.store, run.get(rows), config, by_source=by_source, **where)

    name: str = selector.groups
    if selector.init is not None and name == "clusters":  # of another selector in the same run
        name = f"clusters_{selector.init}"
    return plan.own(
        Stage(
            name,
            alone(make),
            inputs=(rows,),
            settings=(clusters_settings(config), selector.groups),
            beside=(config.stability,),  # the agreement with another seed changes no cluster
            check=partial(alarms.check_clusters, plan),
        )
    )


def _grown_clusters(plan: Plan, selector: Cluster) -> Stage:
    """Declare the clusters of the first generation, and the later ones at their centers."""
    first = _clusters(plan.first, selector, (), {})
    later = [each.trajectories for each in plan.generations[1:]]

    def make(run: Run, **where: Any) -> Manifest:
        return label(run.store, run.get(first), [run.get(each) for each in later], **where)

    return Stage(
        first.name.partition("/")[2],
        alone(make),
        inputs=(first, *later),
        settings=("generations",),
        place=f"{WHOLE}/{first.name.partition('/')[2]}",
        check=partial(alarms.check_clusters, plan),
    )


def _clustered(
    plan: Plan, selector: Cluster, needed: tuple[Stage, ...], beside: dict[str, Stage]
) -> Stage:
    """Declare what a selector clusters: trajectories, or what is made of them."""
    made_of, more = trajectories_of(plan, selector), tuple[Stage, ...]()
    points: Callable[..., Manifest]
    match selector.groups:
        case "clusters_of_means":
            name, points = "means", means
        case "clusters_of_falls":
            name, points = "falls", falls
        case "clusters_of_learned":
            name, points = "learned", learned
        case "clusters_of_features":
            name, points, more = "features", features, needed
        case _:
            return made_of

    def make(run: Run, **where: Any) -> Manifest:
        if points is features:
            where["details"] = run.get(beside["final"])
        return points(run.store, run.get(made_of), **where)

    return Stage(name, alone(make), inputs=(made_of, *more), settings=(name,))


def trajectories_of(plan: Plan, selector: Selector) -> Stage:
    """Declare the trajectories that a selector looks at."""
    if isinstance(selector, Cluster) and selector.groups in OUT_OF_FOLD:
        return plan.out_of_fold
    if selector.toward == "path":
        return plan.along_path
    return plan.trajectories
