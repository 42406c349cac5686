"""Figures: where marks lie, and titles that state what the numbers say."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from support.reports import Page, arms_of, report_data

from s2l_ray.report.data import Curve
from s2l_ray.report.figures import charts, clusters, plots
from s2l_ray.report.figures.parts import curve, dots, stairs
from s2l_ray.report.figures.scale import Scale, fitting, linear, logarithmic


def data_of(**fields):
    return dataclasses.replace(report_data(), **fields)


def test_linear_axes_end_at_round_numbers() -> None:
    axis = linear([2.79, 2.96])
    assert [tick.text for tick in axis.ticks] == ["2.75", "2.80", "2.85", "2.90", "2.95", "3.00"]
    assert [tick.at for tick in axis.ticks] == [0, 20, 40, 60, 80, 100]
    assert axis.at(2.875) == 50 and axis.at(9.0) == 100
    below = linear([-0.4, 0.1], include=[0])
    assert [tick.text for tick in below.ticks] == ["−0.4", "−0.3", "−0.2", "−0.1", "0.0", "0.1"]
    assert below.at(0) == 80
    one = linear([5.0])
    assert one.low < 5 < one.high
    assert linear([]).low == 0 and linear([math.nan, math.inf, 1, 2]).high == 2


def test_logarithmic_axes_label_round_numbers() -> None:
    axis = logarithmic([1, 1000])
    assert [tick.text for tick in axis.ticks] == ["1", "10", "100", "1,000"]
    assert axis.at(math.sqrt(1000)) == pytest.approx(50) and axis.at(0) == 0
    assert fitting([1, 10]).log is False and fitting([1, 30]).log is True
    assert fitting([0, 30]).log is False


def test_paths_by_hand() -> None:
    x, y = Scale(0, 10, []), Scale(0, 4, [])
    assert curve(x, y, [(0, 4), (5, 2), (10, 0)]) == "M0 0L50 50L100 100"
    assert curve(x, y, [(0, 4), (5, math.nan), (10, 0)]) == "M0 0M100 100"
    assert curve(x, y, [(5, 2)]) == "M50 50h0"
    assert dots(x, y, [(5, 1), (10, 4)]) == "M50 75h0M100 0h0"
    edges, counts = np.array([0, 5, 10]), np.array([2, 4])
    assert stairs(x, y, edges, counts, closed=True) == "M0 100L0 50H50L50 0H100V100Z"
    assert stairs(x, y, edges, counts, closed=False) == "M0 50L0 50H50L50 0H100"


def test_corpus_against_subset_by_hand() -> None:
    chart = charts.sources(
        data_of(corpus_by_source={"a": 60, "b": 40}, subset_by_source={"a": 2, "b": 8})
    )
    assert chart.title == "a shrinks from 60.0% of the corpus to 20.0% of the subset"
    assert [(row.name, row.cells) for row in chart.rows] == [
        ("a", ["60.0%", "20.0%"]), ("b", ["40.0%", "80.0%"]),
    ]  # fmt: skip
    assert chart.ticks[-1].text == "80"
    link, corpus, subset = chart.rows[0].marks
    assert (corpus.start, subset.start, link.start, link.width) == (75, 25, 25, 50)
    assert charts.sources(data_of(corpus_by_source={"a": 1}, subset_by_source={"a": 1})) is None
    assert charts.sources(data_of(subset_by_source=None)) is None


def test_many_sources_become_one_row() -> None:
    corpus = {f"s{number:03d}": 1000 - number for number in range(1000)}
    chart = charts.sources(data_of(corpus_by_source=corpus, subset_by_source=corpus))
    assert [row.name for row in chart.rows][-2:] == ["s015", "984 other sources"]
    total = sum(corpus.values())
    rest = sum(list(corpus.values())[16:])
    assert chart.rows[-1].cells == [f"{100 * rest / total:.1f}%"] * 2


def test_selectors_seed_by_seed() -> None:
    chart = charts.selectors(data_of(arms=arms_of(s2l=[1.0, 3.0], random=[2.5, 3.5])))
    assert chart.title == "s2l has the lowest held-out loss: 2.00 nats per token"
    s2l, random = chart.rows
    assert s2l.cells == ["2.00 ± 1.0", "−1.00 ± 0.50"] and random.cells == [
        "3.00 ± 0.50",
        "baseline",
    ]
    assert [mark.kind for mark in s2l.marks] == ["faint", "faint", "diamond"]
    assert [mark.start for mark in s2l.marks] == [0, 80, 40]  # from 1.0 to 3.5
    assert {mark.tone for mark in random.marks} == {"grey"}


def test_differences_by_source_by_hand() -> None:
    arms = arms_of(s2l=[0.9, 0.8], random=[1.0, 1.0])
    arms[0] = arms[0]._replace(loss_by_source={"a": 1.3, "b": 1.9})
    chart = charts.differences_by_source(data_of(arms=arms, corpus_by_source={"a": 2, "b": 1}))
    assert chart.title == "s2l has a lower loss than random on 1 of 2 sources"
    assert [(row.name, row.cells) for row in chart.rows] == [
        ("all sources", ["−0.150"]), ("a", ["+0.0500"]), ("b", ["−0.150"]),
    ]  # fmt: skip
    # a: differences 0.3 and −0.2 on an axis from −0.2 to 0.3
    assert [mark.start for mark in chart.rows[1].marks] == [100, 0, 50] and chart.zero == 40
    assert {mark.tone for mark in chart.rows[1].marks} == {"worse"}
    assert "intervals" not in chart.caption


def test_five_pairs_have_an_interval() -> None:
    # −0.02 ± 0.0036515 as in test_trust.py, on one source and overall
    arms = arms_of(s2l=[0.99, 0.98, 0.97, 0.99, 0.98, 0.97], random=[1.0] * 6)
    arms = [arm._replace(loss_by_source={"a": arm.loss}) for arm in arms]
    chart = charts.differences_by_source(data_of(arms=arms, corpus_by_source={"a": 2}))
    [row] = chart.rows
    assert row.cells == ["−0.0200 [−0.0294, −0.0106]"]
    [bar] = [mark for mark in row.marks if mark.kind == "bar"]
    low, high = -0.0294, -0.0106
    span = next(mark for mark in row.marks if mark.kind == "diamond").start
    assert bar.start < span < bar.start + bar.width
    assert bar.width == pytest.approx(100 * (high - low) / 0.03, abs=1.5)  # axis −0.03 to 0


def test_the_line_of_whole_clusters_is_where_sizes_are_chosen_counts() -> None:
    plot = plots.sizes(data_of(cluster_sizes=[2, 22, 700, 0], cluster_chosen=[2, 22, 36, 0]))
    assert plot.title == "2 of 3 clusters were chosen whole; the others give 36 examples each"
    line, points = plot.lines
    places = [tuple(map(float, p.split())) for p in re.findall(r"M([\d. ]+)h0", points.path)]
    ends = [tuple(map(float, p.split())) for p in re.findall(r"[ML]([\d. ]+)", line.path)]
    assert len(places) == 3 and len(ends) == 20
    # The clusters that were chosen whole lie on the line.
    for x, y in places[:2]:
        assert np.interp(x, *zip(*ends, strict=True)) == pytest.approx(y, abs=1)
    assert np.interp(places[2][0], *zip(*ends, strict=True)) < places[2][1]
    none = plots.sizes(data_of(cluster_sizes=[2, 5], cluster_chosen=[2, 0]))
    assert none.caption.endswith("1 cluster gave no example.")


def test_lengths_state_their_medians() -> None:
    plot = plots.lengths(
        data_of(length_edges=[0, 10, 20], length_corpus=[1, 3], length_subset=[2, 0])
    )
    # corpus: a quarter below 10, so half at 10 + 10/3; subset: half at 5
    assert plot.title == "Chosen examples are shorter: median about 5.0 tokens, in the corpus 13"
    assert plot.lines[1].path == "M0 0L0 0H50L50 100H100"


def test_training_curves() -> None:
    proxy = Curve("proxy", None, range(1000), np.linspace(4, 2, 1000))
    plot = plots.training(data_of(curves=[proxy]))
    assert plot.title == "The proxy’s training loss fell from 4.00 to 2.00"
    assert plot.lines[0].path.count("L") == 199
    up = Curve("proxy", None, [1, 2], [2.0, 3.0])
    assert "did not fall: it went from 2.00 to 3.00" in plots.training(data_of(curves=[up])).title
    targets = [Curve("s2l", 1, [1, 2], [3.0, 1.0]), Curve("random", 1, [1, 2], [3.0, 2.0])]
    plot = plots.targets(data_of(curves=targets))
    assert plot.title == "Last training loss of the targets: s2l 1.00, random 2.00"
    assert [line.tone for line in plot.lines] == ["main", "grey"]
    assert plots.targets(data_of(curves=[proxy])) is None


def test_small_multiples_share_a_scale_and_run_from_low_to_high() -> None:
    data = data_of(
        cluster_sizes=[5, 6, 7], cluster_chosen=[1, 2, 3], steps=[10, 20],
        centers_KT=[[4.0, 2.0], [1.0, 1.0], [2.0, 1.0]], loss_quantiles_5T=np.full((5, 2), 2.0),
        examples=[],
    )  # fmt: skip
    found = clusters.cards(data)
    assert [card.id for card in found.cards] == [1, 2, 0]
    # One logarithmic axis from 1 to 4, where 2 is half way.
    assert [card.path for card in found.cards] == [
        "M0 100L100 100", "M0 50L100 100", "M0 0L100 50",
    ]  # fmt: skip
    assert found.median == "M0 50L100 50"
    assert "all on one logarithmic scale from 1.00 to 4.00;" in found.caption
    assert (
        found.title
        == "Clusters differ in the level of the loss (98.0% of the variance), hardly in its shape"
    )
    shaped = clusters.cards(dataclasses.replace(data, explained_variance_level=0.3))
    assert shaped.title == (
        "Clusters differ in the shape of their loss curves, ending between 1.00 and 2.00"
    )


def test_clusters_without_curves_are_the_largest_first() -> None:
    data = data_of(cluster_sizes=[5, 9, 7], cluster_chosen=[1, 2, 3], centers_KT=None, examples=[])
    found = clusters.cards(data)
    assert [card.id for card in found.cards] == [1, 2, 0] and found.cards[0].path == ""
    assert found.title == "The examples fall into 3 clusters"
    many = clusters.cards(dataclasses.replace(report_data(K=30), centers_KT=None))
    assert many.caption.endswith("24 of 30 clusters, evenly spaced from large to small.")


def test_of_many_clusters_the_ends_are_among_the_shown() -> None:
    data = report_data(K=500, T=2)  # centers rise with the id
    ids = [card.id for card in clusters.cards(data).cards]
    assert len(ids) == 24 and (ids[0], ids[-1]) == (0, 499)
    gaps = np.diff(ids)
    assert max(gaps) - min(gaps) <= 1


def test_names_in_figures_are_text() -> None:
    from s2l_ray.report.page import render

    names = ["<b>x</b>", "$x_1$", "_hidden", "\u202eevil\nline"]
    page = Page(render(report_data(names=names, K=2, T=2)))
    assert {"<b>x</b>", "$x_1$", "_hidden", "evil line"} <= set(page.text)
