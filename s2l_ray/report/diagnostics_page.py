"""A diagnosis as a table on the terminal and as a page.

Its record is that of pipeline.diagnosis.diagnose.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from s2l_ray.analysis.laws_told import correlation_told
from s2l_ray.execution import events, machine
from s2l_ray.formatting import measured, plural, share
from s2l_ray.report.data import LawBins
from s2l_ray.report.diagnosis_text import (
    BEYOND_CHANCE,
    GROUPS,
    Diagnosis,
    Variant,
    gradient_sentences_of,
    law_sentences_of,
    laws_of,
    sentences_of,
    variants_of,
)
from s2l_ray.report.html import environment, name, printable
from s2l_ray.report.next_steps import Commands, NextStep, write_settings

if TYPE_CHECKING:
    from s2l_ray.analysis.alarms import Alarm
    from s2l_ray.pipeline.run import Run


def as_text(record: Diagnosis) -> str:
    """Return the table of variants, and what the diagnosis says."""
    lines = ["variants against the run, in parentheses the same for loss strata"]
    rows = variants_of(record)
    width = max(len(f"{row.changed} {row.to}") for row in rows)
    for row in rows:
        kept = "" if row.kept is None else f", kept {row.kept:.0%}"
        lines.append(
            f"  {f'{row.changed} {row.to}':{width}}  adjusted Rand {row.adjusted_rand:.2f} "
            f"({row.strata_adjusted_rand:.2f}), Jaccard {row.jaccard:.3f} "
            f"({row.strata_jaccard:.3f}), by chance {row.by_chance:.3f}{kept}, inclusion "
            f"correlates at {correlation_told(row.correlation)}, draw noise {share(row.draw_noise)}"
        )
    told = [*sentences_of(record), *law_sentences_of(record), *gradient_sentences_of(record)]
    return "\n".join([*lines, *told])


def write(run: Run, record: Diagnosis) -> str:
    """Write the page to report/diagnostics.html and return its address."""
    of_run = run.config.name, run.store.uri, str(run.config.selection.budget)
    told = write_settings(run), run.alarms.all(), run.hardware
    page = render(*of_run, record, *told)
    run.store.write_bytes(page.encode(), "report", "diagnostics.html")
    events.tell(lambda each: each.reported("diagnostics.html", page))
    return run.store.address("report", "diagnostics.html")


def render(
    title: str,
    run_dir: str,
    budget: str,
    record: Diagnosis,
    commands: Commands | None = None,
    alarms: Sequence[Alarm] = (),
    hardware: str = "",
) -> str:
    """Return the page as HTML text, to be written as UTF-8. alarms: of the run's stages. hardware:
    that the run worked on."""
    from s2l_ray.report.figures import diagnosis as figures
    from s2l_ray.report.figures.laws import by_loss

    rows = variants_of(record)
    told, tone = trust(rows)
    page = (
        environment()
        .get_template("diagnostics.html.j2")
        .render(
            title=title,
            run_dir=run_dir,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            alarms=alarms,
            lead=compared(rows, budget),
            trusted=told,
            tone=tone,
            sentences=sentences_of(record),
            gradient_sentences=gradient_sentences_of(record),
            rows=rows,
            purity=record["purity"],
            groups=GROUPS,
            overlaps=figures.overlaps(rows),
            partitions=figures.partitions(rows),
            inclusion=figures.inclusion(rows),
            law=by_loss(laws_of(record)["s2l"], LawBins(**record["laws"]["bins"])),
            law_sentences=law_sentences_of(record)[1:],
            correlation_told=correlation_told,
            purities=figures.purities(record["purity"]),
            gradients=record["gradients"] or [],
            next_steps=next_steps(commands),
            versions=machine.versions(),
            hardware=hardware,
        )
    )
    return printable(page)


def compared(rows: Sequence[Variant], budget: str) -> list[str]:
    """Say what was compared, and what the clusters determine of the subset."""
    draw = rows[0]
    return [
        f"The S2L subset (budget {name(budget)}) was compared with those of "
        f"{plural(len(rows), 'variant')} of the run.",
        f"Another draw from the same clusters overlaps it by {measured(draw.jaccard)}, chance by "
        f"{measured(draw.by_chance)}.",
    ]


def trust(rows: Sequence[Variant]) -> tuple[str, str]:
    """Say what of the overlap survives the least favourable change, and how good that is."""
    draw, *others = rows
    if draw.jaccard - draw.by_chance <= BEYOND_CHANCE * draw.spread:
        return "What the clusters determine is not distinguishable from chance.", "bad"
    known = [row for row in others if row.kept is not None]
    if not known:
        return "The clusters determine so little that its stability cannot be told.", "unsure"
    worst = min(known, key=lambda row: row.kept or 0.0)
    kept = worst.kept or 0.0
    change = f"{worst.changed} {name(worst.to)}"
    text = f"Of that overlap beyond chance, the worst change ({change}) keeps {share(kept)}."
    return text, "good" if kept >= 0.9 else "unsure" if kept >= 0.5 else "bad"


def next_steps(commands: Commands | None) -> list[NextStep]:
    """Return what to run next."""
    if commands is None:
        return []
    commands.add("Learn whether the subset helps a target", "compare")
    more = "clusters.random_state=7", "diagnose.seeds=[]"
    commands.add("See the same for another k-means seed", "diagnose", *more)
    return commands.steps
