"""The page of a comparison of selectors: what was found, why to believe it, and how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from s2l_ray.analysis.measures import LARGE, ArmRecord, lacking
from s2l_ray.analysis.paired import Row
from s2l_ray.analysis.statistics import ALPHA, MIN_UNITS, detectable
from s2l_ray.analysis.verdicts import num_tested, ruled_out
from s2l_ray.config import BASELINE, CompareConfig
from s2l_ray.execution import events, machine
from s2l_ray.formatting import measured, plural
from s2l_ray.pipeline.arms import IN, OF
from s2l_ray.report.comparison_json import VERDICTS, as_json
from s2l_ray.report.comparison_tables import (
    RULES,
    Group,
    difference,
    groups_of,
    left_out_of,
    pooled,
    small_sources,
    spreads_of,
)
from s2l_ray.report.comparison_text import headroom_told
from s2l_ray.report.html import environment, name, printable, quoted
from s2l_ray.report.next_steps import FEWEST_SEEDS, Commands, NextStep, write_settings

if TYPE_CHECKING:
    from s2l_ray.analysis.alarms import Alarm
    from s2l_ray.pipeline.run import Run

MAX_NAMED = 2  # methods in the summary; more are counted
MAX_TABLES = 100  # measures of one group
ROOM = "Take a smaller budget, more epochs or a harder evaluation."
MORE_SEEDS = ",".join(map(str, range(2 * MIN_UNITS)))


def write(run: Run, records: Sequence[ArmRecord]) -> str:
    """Write the page to report/comparison.html, and report/verdicts.json; return the page's
    address."""
    rules, commands = run.config.compare, write_settings(run)
    told = commands, run.alarms.all(), rules, run.hardware
    page = render(run.config.name, run.store.uri, records, *told)
    run.store.write_json(as_json(groups_of(records, rules)), *VERDICTS)
    run.store.write_bytes(page.encode(), "report", "comparison.html")
    events.tell(lambda each: each.reported("comparison.html", page))
    return run.store.address("report", "comparison.html")


def render(
    title: str,
    run_dir: str,
    records: Sequence[ArmRecord],
    commands: Commands | None = None,
    of_run: Sequence[Alarm] = (),
    rules: CompareConfig = RULES,
    hardware: str = "",
) -> str:
    """Return the page as HTML text, to be written as UTF-8. of_run: alarms of the run's stages.
    hardware: that the run worked on."""
    from s2l_ray.report.figures import comparison as figures

    groups = groups_of(records, rules)
    told, tone = trust(groups)
    page = (
        environment()
        .get_template("comparison.html.j2")
        .render(
            title=title,
            run_dir=run_dir,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            baseline=BASELINE,
            alpha=ALPHA,
            min_units=MIN_UNITS,
            primary=groups[0].tables[0].metric.words if groups else "",
            exploratory=max((len(group.tables) - 1 for group in groups), default=0),
            tested=num_tested([group.tables[0].rows for group in groups]),
            lead=[compared(groups), result(groups)],
            trusted=told,
            tone=tone,
            alarms=[(each.headline, each.advice) for each in of_run] + alarms(groups),
            groups=groups,
            max_tables=MAX_TABLES,
            forests=[figures.forest(group) for group in groups],
            by_metric=[figures.by_metric(group) for group in groups],
            difference=difference,
            told=[_short_told(group) for group in groups],
            left_out=lacking(records, rules.primary) + left_out_of(records),
            next_steps=next_steps(groups, commands),
            versions=machine.versions(),
            hardware=hardware,
        )
    )
    return printable(page)


def _short_told(group: Group) -> list[str]:
    """Return what is said of a group beside its chart, which has the verdicts."""
    first = group.tables[0]
    small = small_sources(group)
    found = ruled_out(
        first.rows, f"The methods that are not distinguishable differ from {BASELINE}"
    )
    found += headroom_told(group) + first.controls + group.too_few
    if small:
        found.append(
            f"{plural(len(small), 'source')} with fewer than {LARGE} held-out examples "
            f"{'is' if len(small) == 1 else 'are'} shown, but not in the mean."
        )
    return found + first.caveats


def compared(groups: Sequence[Group]) -> str:
    """Say how much was compared."""
    methods = {row.method for row in _others(groups)}
    runs = sum(row.runs for group in groups for row in group.tables[0].rows)
    budgets = len({group.budget for group in groups})
    seeds = max((row.selection_seeds for row in _others(groups)), default=0)
    return (
        f"{plural(runs, 'target')} compare {plural(len(methods), 'method')} with {BASELINE}, "
        f"at {plural(budgets, 'budget')} and over {plural(seeds, 'seed')}."
    )


def result(groups: Sequence[Group]) -> str:
    """Name the methods that are better than the baseline in the first group, worse, or equal."""
    if not groups:
        return "Nothing was compared yet."
    rows = _others(groups[:1])
    where = f"At budget {name(groups[0].budget)}, equal {groups[0].match}: "
    told = []
    verdicts = (("better", "better than"), ("worse", "worse than"), ("equal", "equal to"))
    for verdict, words in verdicts:
        named = [row.method for row in rows if row.verdict == verdict]
        if found := [quoted(method) for method in named]:
            names = ", ".join(found) if len(found) <= MAX_NAMED else plural(len(found), "method")
            told.append(f"{names} {'is' if len(found) == 1 else 'are'} {words} {BASELINE}")
            if verdict == "equal":
                told[-1] += f" within {measured(_margin(rows))}"
            if len(found) == 1 and (worth := groups[0].worth.get(named[0])):
                told[-1] += f", worth {worth.words} as much {BASELINE} data"
    if not told and any(row.verdict == "not distinguishable" for row in rows):
        told.append(f"no method is distinguishable from {BASELINE}")
    return where + ("; ".join(told) or "no verdict") + "."


def _margin(rows: Sequence[Row]) -> float:
    """Return within what the rows that are equal to the baseline are equal to it."""
    return next(row.margin for row in rows if row.verdict == "equal" and row.margin is not None)


def trust(groups: Sequence[Group]) -> tuple[str, str]:
    """Say how small a difference the seeds could show; and "good" if a method is better, "bad" if
    there is no verdict, otherwise "unsure"."""
    rows = _others(groups[:1])
    seeds = max((row.units for row in rows), default=0)
    if seeds < MIN_UNITS:
        return (
            f"Do not decide on this yet: {plural(seeds, 'seed')} "
            f"{'has' if seeds == 1 else 'have'} a difference, and a verdict needs {MIN_UNITS}."
        ), "bad"
    tone = "good" if any(row.verdict == "better" for row in rows) else "unsure"
    apart = any(row.verdict in ("better", "worse") for row in rows)
    if (room := groups[0].headroom).measured and not room.passed and not apart:
        return f"This setting cannot tell selections apart: it has no headroom. {ROOM}", "bad"
    if not (found := spreads_of(groups[0], examples=True)):
        return "The differences have no spread, so no verdict is possible.", "bad"
    tested = num_tested([group.tables[0].rows for group in groups])
    least = detectable(pooled(list(found.values())), seeds, alpha=ALPHA / max(1, tested))
    return (
        f"{seeds:,} seeds show differences of {measured(least)} or more with 80% power; smaller "
        "ones may exist."
    ), tone


def alarms(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return what makes parts of the comparison worthless."""
    found = []
    lost = sum(row.left_out for group in groups for row in group.tables[0].rows)
    if lost:
        text = "A held-out loss is not finite. Lower target.learning_rate."
        found.append((f"{plural(lost, 'pair')} left out", text))
    if too_few := [text for group in groups for text in group.too_few]:
        told = name(too_few[0].removeprefix("Not compared: "), 200)
        found.append((f"{plural(len(too_few), 'selection')} not compared", told))
    return found


def next_steps(groups: Sequence[Group], commands: Commands | None) -> list[NextStep]:
    """Return what to run next, the most useful first."""
    if commands is None or not groups:
        return []
    rows = _others(groups[:1])
    better = [
        row
        for row in rows
        if row.verdict == "better" and row.difference.mean is not None and IN not in row.method
    ]
    if max((row.units for row in rows), default=0) < MIN_UNITS:
        seeds = f"compare.seeds=[{FEWEST_SEEDS}]"
        commands.add(f"Get a verdict, from {MIN_UNITS} seeds", "compare", seeds)
        return commands.steps
    if better:
        best = max(better, key=lambda row: abs(row.difference.mean or 0.0))
        overrides = [*_selecting(best.method), f"selection.budget={groups[0].budget}"]
        commands.add(f"Train the target on {name(best.method)}’s subset", "finetune", *overrides)
    else:
        overrides = [*_selecting(BASELINE), f"selection.budget={groups[0].budget}"]
        commands.add("Train the target on random examples", "finetune", *overrides)
    commands.add(
        "Look for smaller differences, with more seeds", "compare", f"compare.seeds=[{MORE_SEEDS}]"
    )
    commands.add("Learn how much of the S2L selection is noise", "diagnose")
    return commands.steps


def _selecting(method: str) -> list[str]:
    """Return the overrides that select as a method does."""
    selector, _, like = method.partition(OF)
    return [f"selection.selector={selector}", *([f"selection.like={like}"] if like else [])]


def _others(groups: Sequence[Group]) -> list[Row]:
    """Return the rows of the primary measure that are compared with the baseline."""
    return [
        row
        for group in groups
        for row in group.tables[0].rows
        if row.verdict is not None and not row.is_reference
    ]
