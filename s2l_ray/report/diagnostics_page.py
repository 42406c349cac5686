"""What a diagnosis found in words, as a table for the terminal and as a page.

A record is that of diagnosis.diagnose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from s2l_ray.analysis.gradient_measures import sentences
from s2l_ray.execution import machine
from s2l_ray.formatting import plural
from s2l_ray.report.html import environment, printable

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Run


Diagnosis = Mapping[str, Any]

CHANGES = {  # what a variant changed -> how a sentence begins
    "k-means seed": "Another k-means seed",
    "n_clusters": "Another number of clusters",
    "checkpoints": "Fewer checkpoints",
    "proxy seed": "Another proxy seed",
    "proxy": "Another proxy",
}

GROUPS = {
    "trajectories": "Clusters of trajectories",
    "features": "Clusters of last-layer features",
    "random": "Random groups of the same sizes",
}

BEYOND_CHANCE = 3  # standard deviations
SHARE = 10  # so many beyond chance, and a share of it is off by a tenth or so
ALIKE = 0.05  # two indices or shares less than so far apart are called alike


class Variant(NamedTuple):
    """A variant in the table: indices against the run's groups and subset."""

    changed: str
    to: str
    adjusted_rand: float
    jaccard: float
    by_chance: float
    spread: float
    kept: float | None  # of what the draw alone shares beyond chance; None where that is little
    strata_adjusted_rand: float
    strata_jaccard: float


def variants_of(record: Diagnosis) -> list[Variant]:
    rows, kept_by_draw = [], 0.0
    for variant in record["stability"]:
        main, strata = (variant["subsets"][name] for name in ("s2l", "loss_strata"))
        beyond = main["jaccard"] - main["by_chance"]
        if variant["changed"] == "draw" and beyond > SHARE * main["spread"]:
            kept_by_draw = beyond
        rows.append(
            Variant(
                changed=variant["changed"],
                to=variant["to"],
                adjusted_rand=main["adjusted_rand"],
                jaccard=main["jaccard"],
                by_chance=main["by_chance"],
                spread=main["spread"],
                kept=beyond / kept_by_draw if kept_by_draw else None,
                strata_adjusted_rand=strata["adjusted_rand"],
                strata_jaccard=strata["jaccard"],
            )
        )
    return rows


def sentences_of(record: Diagnosis) -> list[str]:
    """What the numbers say, and no more than they carry."""
    rows = variants_of(record)
    by_change = {
        changed: [row for row in rows if row.changed == changed]
        for changed in dict.fromkeys(row.changed for row in rows)
    }
    [draw] = by_change.pop("draw")
    found = [_draw(draw)]
    noise = float(np.mean([row.adjusted_rand for row in by_change["k-means seed"]]))
    found += [_change(changed, mine, noise) for changed, mine in by_change.items()]
    if "proxy seed" in by_change:
        found.append(_control(by_change["proxy seed"], noise))
    return [*found, _purity(record["purity"]), *_gradients(record["gradients"] or [])]


def as_text(record: Diagnosis) -> str:
    """The table of variants, and what it says."""
    lines = ["against the run's S2L subset (in brackets: loss strata)"]
    for row in variants_of(record):
        kept = "" if row.kept is None else f", {row.kept:.0%} of what the draw alone keeps"
        lines.append(
            f"  {f'{row.changed} {row.to}':24}  adjusted Rand {row.adjusted_rand:.2f} "
            f"({row.strata_adjusted_rand:.2f}), Jaccard {row.jaccard:.3f} "
            f"({row.strata_jaccard:.3f}), by chance {row.by_chance:.3f}{kept}"
        )
    return "\n".join([*lines, *sentences_of(record)])


def write(run: Run, record: Diagnosis) -> str:
    """Render the page to report/diagnostics.html; returns its address."""
    page = render(run.config.name, run.store.uri, str(run.config.selection.budget), record)
    run.store.write_bytes(page.encode(), "report", "diagnostics.html")
    return run.store.address("report", "diagnostics.html")


def render(title: str, run_dir: str, budget: str, record: Diagnosis) -> str:
    from markupsafe import Markup

    from s2l_ray.report.figures.diagnosis import purities

    purity = record["purity"]
    page = (
        environment()
        .get_template("diagnostics.html.j2")
        .render(
            title=title,
            run_dir=run_dir,
            budget=budget,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            sentences=sentences_of(record),
            rows=variants_of(record),
            purity=purity,
            groups=GROUPS,
            figure=Markup(purities(purity)) if purity else "",
            gradients=record["gradients"] or [],
            versions=machine.versions(),
            hardware=machine.hardware(),
        )
    )
    return printable(page)


def _draw(row: Variant) -> str:
    lead = (
        f"Drawn once more from the same clusters, the subset has a Jaccard index of "
        f"{row.jaccard:.3f} with the run's; two uniform subsets of these sizes have "
        f"{row.by_chance:.3f} ± {row.spread:.3f}: "
    )
    decided = (row.jaccard - row.by_chance) / (1 - row.by_chance) if row.by_chance < 1 else 0.0
    if row.jaccard - row.by_chance <= BEYOND_CHANCE * row.spread:
        return lead + "what the clusters decide of what is in it cannot be told from chance."
    if decided >= 0.5:
        return lead + "the clusters decide most of what is in it."
    if decided >= 0.1:
        return lead + "the clusters decide some of what is in it, the draw the rest."
    return lead + "the clusters decide a little of what is in it, the draw nearly all."


def _change(changed: str, rows: Sequence[Variant], noise: float) -> str:
    """noise: the index that another seed of k-means alone gives."""
    rand = float(np.mean([row.adjusted_rand for row in rows]))
    reading = ", so the clusters depend strongly on it"
    if changed == "n_clusters":  # even clusters that nest are unlike: half as many give 2/3
        reading = " (clusters of another number cannot reach 1)"
    elif rand >= 0.9:
        reading = ", so the clusters hardly depend on it"
    elif rand >= 0.7:
        reading = ", so the clusters depend on it to some extent"
    if changed not in ("n_clusters", "k-means seed") and noise - ALIKE < rand < 0.9:
        reading = f", no less than with another seed of k-means alone ({noise:.2f})"
    text = (
        f"{CHANGES[changed]} ({', '.join(row.to for row in rows)}): adjusted Rand index "
        f"{_range([row.adjusted_rand for row in rows], 2)}{reading}; Jaccard index "
        f"{_range([row.jaccard for row in rows], 3)}"
    )
    kept = [row.kept for row in rows if row.kept is not None]
    if not kept:
        return f"{text}."
    share = float(np.mean(kept))
    reading = "most of what the clusters decide changes with it"
    if share >= 0.9:
        reading = "the subset is as steady as its draw lets it be"
    elif share >= 0.5:
        reading = "most of what the clusters decide stays"
    return f"{text}, {share:.0%} of what the draw alone keeps beyond chance: {reading}."


def _control(proxies: Sequence[Variant], noise: float) -> str:
    """k-means that starts elsewhere already makes other clusters of the same trajectories, strata
    stay: so the clusters' index counts as it is, and as a share of what another start leaves."""
    clusters = float(np.mean([row.adjusted_rand for row in proxies]))
    strata = float(np.mean([row.strata_adjusted_rand for row in proxies]))
    bounds = [clusters, clusters / noise] if noise > 0 else [clusters, 1.0]
    reading = "trajectories are about as noisy as the plain mean loss"
    if max(bounds) <= strata - ALIKE:
        reading = "trajectories are noisier than the plain mean loss"
    elif min(bounds) >= strata + ALIKE:
        reading = "trajectories are less noisy than the plain mean loss"
    elif max(bounds) - min(bounds) > ALIKE:
        reading = "k-means' own start hides which of the two is noisier"
    return (
        f"With another proxy seed the clusters' adjusted Rand index is {clusters:.2f} (with "
        f"another k-means seed alone {noise:.2f}), that of as many strata of the mean loss "
        f"{strata:.2f}: {reading}."
    )


def _purity(purity: Diagnosis | None) -> str:
    if purity is None:
        return "The corpus has one source: how pure clusters are in topic cannot be told."
    mine, features, random = (purity[name]["mean"] for name in GROUPS)
    reading = "they follow the topics somewhat"
    if mine - random < ALIKE:
        reading = "they do not follow the topics"
    elif mine - random >= 0.5 * (1 - random):
        reading = "they follow the topics closely"
    beside = "about as pure as"
    if mine - features >= ALIKE:
        beside = "purer than"
    elif features - mine >= ALIKE:
        beside = "less pure than"
    return (
        f"The most common of {plural(len(purity['topics']), 'topic')} makes up {mine:.0%} of a "
        f"cluster of trajectories, {features:.0%} of one of last-layer features and {random:.0%} "
        f"of a random group of the same size (means over examples): {reading}, and "
        f"are {beside} those of features."
    )


def _gradients(rows: Sequence[Diagnosis]) -> list[str]:
    found = []
    for step in dict.fromkeys(row["step"] for row in rows):
        said = sentences([dict(row) for row in rows if row["step"] == step])
        found += [f"Step {step:,} of a target: {sentence}" for sentence in said]
    return found


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
