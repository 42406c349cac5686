"""What a run took, by stage: time, processors and operations in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from s2l_ray.analysis.cost import WORTHS, times
from s2l_ray.formatting import duration, share, short
from s2l_ray.report.figures.parts import Chart, Mark, Row
from s2l_ray.report.figures.scale import linear
from s2l_ray.report.html import name, sentences

if TYPE_CHECKING:
    from s2l_ray.analysis.cost import Cost, Step
    from s2l_ray.report.data import ReportData, Timing

# Stages that are shown together.
MANY = ("selections", "targets", "evaluations", "race", "diagnostics")


class Stage(NamedTuple):
    """A row of the table."""

    timing: Timing | None
    step: Step | None
    name: str


@dataclass(frozen=True, kw_only=True)
class Price:
    title: str  # the finding
    sentences: list[str]
    times: Chart | None
    stages: list[Stage]
    on_gpus: bool


def priced(data: ReportData) -> Price | None:
    """Return the price of a run; None if nothing is known of it."""
    if not data.timings and data.cost is None:
        return None
    steps = {} if data.cost is None else {step.stage: step for step in data.cost.steps}
    stages = [Stage(timing, steps.pop(timing.name, None), timing.name) for timing in data.timings]
    stages += [Stage(None, step, step.stage) for step in steps.values()]
    return Price(
        title=_title(data),
        sentences=[] if data.cost is None else _sentences(data.cost),
        times=_times(data),
        stages=stages,
        on_gpus=any(stage.step is not None and stage.step.gpu_seconds for stage in stages),
    )


def _sentences(cost: Cost) -> list[str]:
    """Say what the selection must be worth beside a random subset, then beside the whole corpus."""
    against = cost.against_random
    told = [] if against is None else against.sentences
    found = [each for text in [*told, cost.taken] if text for each in sentences(text)]
    return found + sentences(cost.summary)


def _title(data: ReportData) -> str:
    if data.cost is None:
        return "What the run took"
    against = data.cost.against_random
    if against is None or not against.flops:
        return "What the selection took"
    if against.worth is not None:
        return (
            f"For this target, the subset must be worth {times(against.worth)} as much random data "
            f"to pay"
        )
    least = WORTHS[0]
    return (
        f"A subset worth {times(least)} as much random data pays from "
        f"{short(against.break_even(least))} parameters on"
    )


def _times(data: ReportData) -> Chart | None:
    """Show where the time went; stages of the many targets are summed."""
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    for timing in data.timings:
        if timing.seconds is None:
            continue
        kind = timing.name.partition("/")[0]
        row = kind if kind in MANY else timing.name
        seconds[row] = seconds.get(row, 0.0) + timing.seconds
        counts[row] = counts.get(row, 0) + 1
    if not sum(seconds.values()):
        return None
    unit, word = (60.0, "minutes") if max(seconds.values()) > 120 else (1.0, "seconds")
    axis = linear([each / unit for each in seconds.values()], include=[0])
    largest = max(seconds, key=lambda row: seconds[row])
    part = share(seconds[largest], sum(seconds.values()))
    return Chart(
        title=f"{name(largest)} took the most time: {duration(seconds[largest])}, {part} of all",
        caption="Time by stage, start-up of workers included. Stages that ran side by side count "
        "in full, and so may add up to more than the run.",
        names="Stage",
        axis=word,
        ticks=axis.ticks,
        heads=["Time"],
        rows=[
            Row(
                row if counts[row] == 1 else f"{row} ({counts[row]:,} stages)",
                [Mark("block", "main", 0.0, axis.at(each / unit))],
                [duration(each)],
            )
            for row, each in seconds.items()
        ],
    )
