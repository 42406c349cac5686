"""The figures of a run's page.

Each function takes the whole `ReportData` and returns an `<svg>` element as text, or "" if there is
nothing to draw.

Shape suffixes: T checkpoints, K clusters, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from s2l_ray.analysis.paired import paired
from s2l_ray.config import BASELINE
from s2l_ray.report.data import Curve, ReportData, evaluated_sources
from s2l_ray.report.figures.axes import (
    GREY,
    MAIN,
    OTHERS,
    WORSE,
    finite,
    legend,
    log_axis,
    loss_axis,
    mean_and_error,
    name_rows,
    step_axis,
)
from s2l_ray.report.figures.svg import INK, label, to_svg
from s2l_ray.report.verdict import differences

MAX_POINTS = 200  # of one training curve
MANY_CURVES = 12  # more training curves get thinner lines
MAX_LINES = 40  # more clusters get thinner lines and the quantiles of all examples
QUANTILE_LINES = (  # row of loss_quantiles_5T, label, line style, line width
    (2, "median of all examples", "--", 2.0),
    (1, "25% and 75%", "-", 1.2),
    (3, None, "-", 1.2),
    (0, "5% and 95%", ":", 1.6),
    (4, None, ":", 1.6),
)


def comparison(data: ReportData) -> str:
    """Draw the held-out loss of every arm, and mean and standard error of each selector."""
    selectors = list(dict.fromkeys(arm.selector for arm in data.arms))
    if not selectors:
        return ""

    def draw(axes: Axes) -> None:
        for row, selector in enumerate(selectors):
            loss = finite([arm.loss for arm in data.arms if arm.selector == selector])
            loss = loss[~np.isnan(loss)]
            color = _color(data, selector)
            axes.plot(
                loss, [row + 0.2] * len(loss), "o", color=color, alpha=0.45, markeredgewidth=0
            )
            mean_and_error(axes, loss, row, color)
        name_rows(axes, selectors)
        axes.set_xlabel("held-out loss (nats per token)")

    height = 1.1 + 0.42 * len(selectors)
    return to_svg(draw, name="comparison", height=height, aria_label="Held-out loss by selector")


def differences_by_source(data: ReportData) -> str:
    """Draw the paired difference in held-out loss to the baseline, by source."""
    pairs = paired(data.arms, data.selector, BASELINE)
    by_source = {name: differences(pairs, name) for name in evaluated_sources(data)}
    found = {name: values for name, values in by_source.items() if values}
    if not found:
        return ""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for row, values in enumerate(found.values()):
            mean_and_error(axes, values, row, MAIN if sum(values) < 0 else WORSE)
        name_rows(axes, list(found))
        axes.set_xlabel(f"loss of {label(data.selector)} − loss of {BASELINE}")

    aria_label = f"Held-out loss of {data.selector} minus that of {BASELINE}, by source"
    return to_svg(draw, name="differences", height=1.0 + 0.27 * len(found), aria_label=aria_label)


def sources(data: ReportData) -> str:
    """Draw the share of each source in the corpus and in the subset."""
    corpus, subset = data.corpus_by_source, data.subset_by_source or {}
    n_corpus, n_subset = sum(corpus.values()), sum(subset.values())
    if not n_corpus or not n_subset:
        return ""
    names = sorted(corpus.keys() | subset.keys(), key=lambda name: (-corpus.get(name, 0), name))
    corpus_shares = [100 * corpus.get(name, 0) / n_corpus for name in names]
    subset_shares = [100 * subset.get(name, 0) / n_subset for name in names]

    def draw(axes: Axes) -> None:
        rows = range(len(names))
        axes.hlines(rows, corpus_shares, subset_shares, color="#c4c4c4", linewidth=2.5)
        axes.plot(corpus_shares, rows, "o", color=GREY, markersize=7, label="corpus")
        axes.plot(subset_shares, rows, "D", color=MAIN, markersize=6, label="subset")
        name_rows(axes, names)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of examples (%)")
        legend(axes)

    aria_label = "Share of each source in the corpus and in the subset"
    return to_svg(draw, name="sources", height=1.25 + 0.27 * len(names), aria_label=aria_label)


def clusters(data: ReportData) -> str:
    """Draw chosen examples against size, one point per cluster, on logarithmic axes."""
    if data.cluster_sizes is None or data.cluster_chosen is None or not len(data.cluster_sizes):
        return ""
    sizes_K, chosen_K = np.asarray(data.cluster_sizes), np.asarray(data.cluster_chosen)
    few = len(sizes_K) <= MAX_LINES

    def draw(axes: Axes) -> None:
        top = max(1, int(chosen_K.max()))
        # From 1, not 0, which a logarithmic axis does not have; many points, since a line is
        # straight only between points on axes of two kinds.
        whole = np.geomspace(1, top, 50)
        axes.plot(whole, whole, color=GREY, linestyle="--", label="whole cluster chosen")
        points = axes.plot(sizes_K, chosen_K, "o", color=MAIN, markeredgewidth=0)[0]
        points.set(markersize=7 if few else 4, alpha=0.85 if few else 0.4)
        log_axis(axes, "x", max(1, sizes_K.min()), max(1, sizes_K.max()))
        log_axis(axes, "y", chosen_K.min(), top)
        axes.set_xlabel("examples in the cluster")
        axes.set_ylabel("chosen examples")
        legend(axes)

    aria_label = "Chosen examples against the size of each cluster"
    return to_svg(draw, name="clusters", height=3.2, aria_label=aria_label)


def lengths(data: ReportData) -> str:
    """Draw the histograms of tokens per example in the corpus and in the subset."""
    if data.length_edges is None or data.length_corpus is None or not np.sum(data.length_corpus):
        return ""
    edges, counts = np.asarray(data.length_edges), data.length_corpus

    def draw(axes: Axes) -> None:
        corpus = axes.stairs(_percent(counts), edges, fill=True)
        corpus.set(color="#c9c9c9", label="corpus")
        if data.length_subset is not None and np.sum(data.length_subset):
            subset = _percent(data.length_subset)
            axes.stairs(subset, edges, color=MAIN, linewidth=2, label="subset")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel("tokens per example")
        axes.set_ylabel("share of examples (%)")
        legend(axes)

    return to_svg(draw, name="lengths", height=3.2, aria_label="Tokens per example")


def losses(data: ReportData) -> str:
    """Draw the mean loss of each cluster over the proxy's checkpoints, coloured by its level."""
    if data.steps is None or data.centers_KT is None or not len(data.centers_KT):
        return ""
    steps_T, centers_KT = np.asarray(data.steps), finite(data.centers_KT)
    quantiles_5T = None if data.loss_quantiles_5T is None else finite(data.loss_quantiles_5T)
    few = len(centers_KT) <= MAX_LINES

    def draw(axes: Axes) -> None:
        level_K = np.nan_to_num(centers_KT).mean(axis=1)
        rank_K = np.argsort(np.argsort(level_K, kind="stable")) / max(1, len(level_K) - 1)
        colors = matplotlib.colormaps["viridis"](0.85 * rank_K)
        lines = [np.column_stack([steps_T, center_T]) for center_T in centers_KT]
        width, alpha = (1.8, 0.95) if few else (0.8, 0.5)
        axes.add_collection(LineCollection(lines, colors=colors, linewidths=width, alpha=alpha))
        if len(steps_T) == 1:
            axes.scatter(np.repeat(steps_T, len(lines)), centers_KT[:, 0], c=colors, s=16)
        shown = [centers_KT.ravel()]
        if quantiles_5T is not None:
            drawn = QUANTILE_LINES[:1] if few else QUANTILE_LINES
            for row, text, style, width in drawn:
                axes.plot(steps_T, quantiles_5T[row], color="white", linewidth=width + 2)
                dark: dict[str, Any] = {"color": "black", "linestyle": style, "linewidth": width}
                axes.plot(steps_T, quantiles_5T[row], label=text, **dark)
                shown.append(quantiles_5T[row])
            legend(axes)
        axes.autoscale_view()
        loss_axis(axes, np.concatenate(shown))
        step_axis(axes, "optimizer step of the proxy")

    aria_label = f"Mean loss of {len(centers_KT):,} clusters over the checkpoints of the proxy"
    return to_svg(draw, name="losses", height=4.6, aria_label=aria_label)


def training(data: ReportData) -> str:
    """Draw the training loss of the proxy."""
    return _training(data, [curve for curve in data.curves if curve.name == "proxy"], "proxy")


def targets(data: ReportData) -> str:
    """Draw the training loss of the targets, one colour per selector."""
    return _training(data, [curve for curve in data.curves if curve.name != "proxy"], "targets")


def _training(data: ReportData, curves: Sequence[Curve], whose: str) -> str:
    thinned = [(curve.name, *_thin(curve)) for curve in curves if len(curve.steps)]
    if not thinned:
        return ""

    def draw(axes: Axes) -> None:
        named = set()
        width = 1.0 if len(thinned) > MANY_CURVES else 1.5
        for name, steps_P, losses_P in thinned:
            color = INK if whose == "proxy" else _color(data, name)
            marker = "o" if len(steps_P) == 1 else None
            text = None if name in named else label(name)
            line = axes.plot(steps_P, losses_P, color=color, marker=marker, label=text)[0]
            line.set(linewidth=width, alpha=0.7)
            named.add(name)
        loss_axis(axes, np.concatenate([losses_P for _, _, losses_P in thinned]))
        step_axis(axes, "optimizer step")
        if whose == "targets":
            legend(axes)

    aria_label = f"Training loss of the {whose} over optimizer steps"
    return to_svg(draw, name=f"training-{whose}", height=3.2, aria_label=aria_label)


def _thin(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [P] and losses [P], P <= MAX_POINTS, as means over windows of equal length."""
    starts = np.arange(0, len(curve.steps), -(-len(curve.steps) // MAX_POINTS))
    sizes = np.diff([*starts, len(curve.steps)])
    steps, values = np.asarray(curve.steps, float), finite(curve.losses)
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def _color(data: ReportData, selector: str) -> str:
    """Return a selector's colour, the same in all figures."""
    if selector in (data.selector, BASELINE):
        return MAIN if selector == data.selector else GREY
    names = [*(arm.selector for arm in data.arms), *(curve.name for curve in data.curves)]
    others = sorted(set(names) - {data.selector, BASELINE, "proxy"})
    return OTHERS[others.index(selector) % len(OTHERS)]


def _percent(counts: Sequence[int]) -> np.ndarray:
    return 100 * np.asarray(counts) / np.sum(counts)
