"""The plots of a run's page: each from the whole `ReportData`, None if there is nothing to draw.

Shape suffixes: P points of a curve, H bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2l_ray.formatting import measured, plural
from s2l_ray.report.data import Curve, ReportData
from s2l_ray.report.figures.charts import tone_of
from s2l_ray.report.figures.parts import Key, Line, Plot, Tone, curve, dots, stairs
from s2l_ray.report.figures.scale import fitting, linear, logarithmic
from s2l_ray.report.html import name

MAX_POINTS = 200  # of one training curve
MAX_CURVES = 40  # of targets
MAX_DOTS = 1000  # clusters


def sizes(data: ReportData) -> Plot | None:
    """Plot chosen examples against size, a dot per cluster, on logarithmic axes."""
    if data.cluster_sizes is None or data.cluster_chosen is None:
        return None
    held = [
        (int(size), int(chosen))
        for size, chosen in zip(data.cluster_sizes, data.cluster_chosen, strict=True)
        if size > 0
    ]
    drawn = [(size, chosen) for size, chosen in held if chosen > 0][:MAX_DOTS]
    if not drawn:
        return None
    x, y = logarithmic(size for size, _ in drawn), logarithmic(chosen for _, chosen in drawn)
    whole = [chosen for size, chosen in held if size == chosen]
    others = [chosen for size, chosen in held if size != chosen]
    title = f"{len(whole):,} of {plural(len(held), 'cluster')} were chosen whole"
    if others:
        title += f"; the others give {_about(others)} examples each"
    ends = max(x.low, y.low), min(x.high, y.high)
    lines = [Line("dot", "main", dots(x, y, drawn))]
    if ends[0] < ends[1]:
        steps = np.geomspace(*ends, 20)
        lines.insert(0, Line("dashed", "grey", curve(x, y, zip(steps, steps, strict=True))))
    caption = "Chosen examples against cluster size, a dot per cluster, logarithmic axes."
    if none := sum(1 for _, chosen in held if chosen == 0):
        caption += f" {plural(none, 'cluster')} gave no example."
    return Plot(
        title=title,
        caption=caption,
        x_label="examples in the cluster",
        y_label="chosen",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        lines=lines,
        legend=[Key("dashed", "grey", "whole cluster chosen")],
    )


def _about(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def lengths(data: ReportData) -> Plot | None:
    """Plot the histograms of tokens per example in the corpus and in the subset."""
    if data.length_edges is None or data.length_corpus is None or not np.sum(data.length_corpus):
        return None
    edges_H = np.asarray(data.length_edges, float)
    corpus_H = np.asarray(data.length_corpus, float)
    subset_H = np.asarray(data.length_subset if data.length_subset is not None else [0.0], float)
    x = linear([edges_H[0], edges_H[-1]], most=5)
    shares = [100 * corpus_H / corpus_H.sum()]
    if subset_H.sum():
        shares.append(100 * subset_H / subset_H.sum())
    y = linear(np.concatenate(shares), include=[0], most=4)
    lines = [Line("area", "grey", stairs(x, y, edges_H, shares[0], closed=True))]
    legend, median = [Key("area", "grey", "corpus")], _median(edges_H, corpus_H)
    title = f"Half of the corpus has {measured(median)} tokens or fewer"
    if subset_H.sum():
        lines.append(Line("line", "main", stairs(x, y, edges_H, shares[1], closed=False)))
        legend.append(Key("line", "main", "subset"))
        mine = _median(edges_H, subset_H)
        word = "shorter" if mine < median else "longer"
        if abs(mine - median) < 0.05 * median:
            word = "about as long"
        title = (
            f"Chosen examples are {word}: median about {measured(mine, 2)} tokens, in the corpus "
            f"{measured(median, 2)}"
        )
    return Plot(
        title=title,
        caption="Tokens per example, prompt and response together.",
        x_label="tokens per example",
        y_label="share (%)",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        lines=lines,
        legend=legend,
    )


def _median(edges_H: np.ndarray, counts_H: np.ndarray) -> float:
    """Return the median of a histogram, linear inside its bin."""
    cumulative = np.concatenate([[0], np.cumsum(counts_H)]) / counts_H.sum()
    return float(np.interp(0.5, cumulative, edges_H))


def training(data: ReportData) -> Plot | None:
    """Plot the training loss of the proxy."""
    curves = [found for found in data.curves if found.name == "proxy" and len(found.steps)]
    if not curves:
        return None
    steps, losses = _thin(curves[0])
    title = "The training loss of the proxy is not finite"
    if np.isfinite(losses[[0, -1]]).all():
        word = "fell" if losses[-1] < losses[0] else "did not fall: it went"
        title = (
            f"The proxy’s training loss {word} from {measured(losses[0])} to {measured(losses[-1])}"
        )
    return _training([("ink", steps, losses)], title, "Training loss of the proxy.", [])


def targets(data: ReportData) -> Plot | None:
    """Plot the training loss of the targets, one colour per selector."""
    curves = [found for found in data.curves if found.name != "proxy" and len(found.steps)]
    if not curves:
        return None
    thinned = [(found.name, *_thin(found)) for found in curves[:MAX_CURVES]]
    names = list(dict.fromkeys(whose for whose, _, _ in thinned))
    last = {
        each: float(np.mean([losses[-1] for whose, _, losses in thinned if whose == each]))
        for each in names
    }
    told = ", ".join(f"{name(each)} {measured(last[each])}" for each in names[:3])
    return _training(
        [(tone_of(data, whose), steps, losses) for whose, steps, losses in thinned],
        f"Last training loss of the targets: {told}",
        "Training loss of the targets, a line per seed. It is measured on each one’s own subset, "
        "so it does not tell which is better.",
        [Key("line", tone_of(data, each), each) for each in names],
    )


def _training(
    curves: Sequence[tuple[Tone, np.ndarray, np.ndarray]],
    title: str,
    caption: str,
    legend: list[Key],
) -> Plot:
    x = linear(np.concatenate([steps for _, steps, _ in curves]), include=[0], most=5)
    y = fitting(np.concatenate([losses for _, _, losses in curves]))
    return Plot(
        title=title,
        caption=caption,
        x_label="optimizer step",
        y_label="loss",
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        lines=[
            Line("line", tone, curve(x, y, zip(steps, losses, strict=True)))
            for tone, steps, losses in curves
        ],
        legend=legend,
    )


def _thin(found: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [P] and losses [P], P <= MAX_POINTS, as means over windows of equal length."""
    starts = np.arange(0, len(found.steps), -(-len(found.steps) // MAX_POINTS))
    counts = np.diff([*starts, len(found.steps)])
    steps, values = np.asarray(found.steps, float), np.asarray(found.losses, float)
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts
