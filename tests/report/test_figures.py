"""Figures: where lines and arrows lie, and labels that are neither math nor markup."""

from __future__ import annotations

import dataclasses

import pytest
from matplotlib.figure import Figure
from support.reports import HOSTILE, report_data

from s2l_ray.analysis.paired import Outcome, table
from s2l_ray.report.data import Curve
from s2l_ray.report.figures import comparison
from s2l_ray.report.figures import run as figures


def test_labels_of_figures_are_neither_math_nor_markup() -> None:
    names = [HOSTILE["script"], r"$x_1$", "_hidden", "a" * 100, "\u202eevil\nline"]
    data = report_data(names=names)
    arms = [arm._replace(selector=name) for arm in data.arms[:1] for name in names]
    curves = [Curve(name, 1, [1, 2], [2.0, 1.0]) for name in names]
    data = dataclasses.replace(data, arms=arms, curves=curves)
    for draw in (figures.sources, figures.comparison, figures.targets):
        svg = draw(data)
        assert "&lt;script&gt;alert(1)&lt;/scri" in svg and "<script" not in svg
        assert "$x_1$" in svg and "_hidden" in svg and "evil line" in svg
        assert "a" * 25 + "…" in svg and "a" * 26 not in svg


def axes_of(monkeypatch, module, draw_figure):
    """Return the axes that `draw_figure` draws on."""
    axes = Figure().add_subplot()
    monkeypatch.setattr(module, "to_svg", lambda draw, **_: draw(axes) or "<svg></svg>")
    draw_figure()
    return axes


@pytest.mark.parametrize("least", [0, 1])  # with 0 one axis is linear below 1
def test_the_line_of_whole_clusters_is_where_sizes_are_chosen_counts(monkeypatch, least) -> None:
    data = dataclasses.replace(
        report_data(), cluster_sizes=[2, 22, 700], cluster_chosen=[least, 22, 36]
    )
    line, points = axes_of(monkeypatch, figures, lambda: figures.clusters(data)).get_lines()
    x, y = line.get_data()
    assert x.tolist() == y.tolist() and min(x) > 0 and max(x) == pytest.approx(36)
    assert points.get_xdata().tolist() == [2, 22, 700]


def test_a_far_difference_is_an_arrow_with_its_number(monkeypatch) -> None:
    arms = [
        Outcome(name, 1, seed, seed, {"loss": loss + 0.001 * (seed % 2) * (name != "random")})
        for name, loss in {"random": 3.0, "a": 2.98, "b": 3.01, "c": 2.99, "far": 2.5}.items()
        for seed in range(6)
    ]
    rows = table(arms, "loss")
    axes = axes_of(monkeypatch, comparison, lambda: comparison.forest(rows, "random", "forest-0"))
    assert [each.get_text() for each in axes.texts] == ["−0.4995"]
    [arrow] = [line for line in axes.get_lines() if line.get_marker() == "<"]
    low, high = axes.get_xlim()
    assert low < arrow.get_xdata()[0] < -0.02 and (low, high) == pytest.approx((-high, high))
    assert high < 0.03
