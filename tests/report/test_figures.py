"""Figures: odd numbers, and labels that are neither math nor markup."""

from __future__ import annotations

import dataclasses

from support.reports import HOSTILE, report_data

from s2l_ray.report.data import Curve
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
