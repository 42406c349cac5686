"""The page of a run: complete, self-contained, small, and safe with any text of a corpus."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from support.reports import HOSTILE, Page, arms_of, report_data

from s2l_ray.report.data import Curve, Example, Rejection, ReportData, Timing
from s2l_ray.report.figures import run as figures
from s2l_ray.report.page import render


@pytest.fixture(scope="module")
def demo() -> str:
    return render(report_data())


def test_duplicates_are_called_kept_or_dropped() -> None:
    for kept, word in ((False, "dropped"), (True, "kept")):
        data = dataclasses.replace(report_data(), n_duplicates=1234, duplicates_kept=kept)
        assert f"Exact duplicates {word}1,234" in "".join(Page(render(data)).text)


def test_files_with_rejected_rows_and_files_passed_over_are_named() -> None:
    data = dataclasses.replace(
        report_data(),
        rejected_by_file=[("data/a.jsonl", 1200, 3)],
        passed_over=[("unknown ending", 2, "README.md, <b>.txt")],
    )
    text = "|".join(piece.strip() for piece in Page(render(data)).text if piece.strip())
    assert "File|Rejected|Rows|data/a.jsonl|3|1,200" in text
    assert "Files passed over|Reason|Files|The first|unknown ending|2|README.md, <b>.txt" in text


def test_page_holds_the_run(demo: str) -> None:
    page = Page(demo)
    text = " ".join(page.text)
    for heading in (
        *("Comparison", "Corpus and subset", "Loss curves of the clusters", "Training"),
        *("Time and throughput", "Cost", "Rejected rows", "Examples from the clusters"),
        *("Findings", "Settings"),
    ):
        assert heading in text
    assert page.tags.count("svg") == 8
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert len([label for label in labels if label]) == len(labels) >= 8
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = {v[1:] for name, v in page.attributes if name == "href"}
    for _, value in page.attributes:
        referred |= set(re.findall(r"url\(#([^)]+)\)", value))
    assert referred == set(ids)


def cost_rows(data: ReportData) -> tuple[str, list[str]]:
    """Return the text before the table of costs, and its rows with cells joined by bars."""
    section = re.search("<h2>Cost</h2>(.*?)</section>", render(data), re.DOTALL)[1]
    lead, table = section.split("<table>")
    rows = re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
    return lead, [re.sub("<[^>]*>", "", row.replace("</t", "|</t")).strip("|") for row in rows]


def test_cost_of_a_run() -> None:
    data = report_data()
    lead, rows = cost_rows(data)
    assert "For this target (1,000,000 parameters) they cost 60.0% less." in lead
    assert rows == [
        "Stage|Time|CPU time|Operations",
        "proxy|1 h 06 min|2 h 13 min|6.00e+09",
        "losses|–|–|3.00e+09",
        "clusters|30 s|1 min 00 s|–",
        "Selection|||9.00e+09",
        "Target on the subset|2 min 05 s||3.00e+09",
        "Target on the corpus|||3.00e+10",
    ]
    on_gpus = [data.cost.steps[0]._replace(gpu_seconds=4000.0), *data.cost.steps[1:]]
    cost = dataclasses.replace(data.cost, steps=on_gpus, parameters=None)
    lead, rows = cost_rows(dataclasses.replace(data, cost=cost))
    assert "more than 333,000 parameters." in lead and "this target" not in lead
    assert rows[0] == "Stage|Time|CPU time|GPU time|Operations"
    assert rows[1] == "proxy|1 h 06 min|2 h 13 min|1 h 06 min|6.00e+09"
    assert [row.split("|")[0] for row in rows[2:]] == ["losses", "clusters", "Selection"]


def test_page_refers_to_nothing_outside(demo: str) -> None:
    page = Page(demo)
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "action") and "http" not in value, (name, value)
        assert name != "href" or value.startswith("#")
    assert "url(" not in page.style and "@import" not in page.style
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(page.tags)


def test_figures_are_the_same_each_time(demo: str) -> None:
    assert figures.losses(report_data()) in demo and figures.sources(report_data()) in demo


def test_missing_sections_are_left_out() -> None:
    bare = ReportData(
        **{"title": "t", "run_dir": "r", "created": "c", "selector": "s2l", "rule": "even"},
        **{"budget": "11%", "seed": 1, "corpus_by_source": {"a": 3}},
    )
    page = Page(render(bare))
    text = " ".join(page.text)
    assert "svg" not in page.tags and "None" not in text
    assert "Whether the subset helps was not measured" in text
    headings = ("Comparison", "Loss curves", "Training", "Time and", "Cost", "Rejected")
    for heading in (*headings, "Findings"):
        assert heading not in text

    some = dataclasses.replace(
        report_data(),
        **{"loss_quantiles_5T": None, "length_subset": None, "cluster_chosen": None, "arms": ()},
    )
    page = Page(render(some))
    assert "Comparison" not in page.text and page.tags.count("svg") == 5


@pytest.mark.parametrize(
    "field",
    [f.name for f in dataclasses.fields(ReportData) if f.default is not dataclasses.MISSING],
)
def test_any_field_may_be_missing(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "to_svg", lambda draw, **_: "<svg></svg>")
    default = next(f.default for f in dataclasses.fields(ReportData) if f.name == field)
    Page(render(dataclasses.replace(report_data(K=2, T=2, n_sources=2), **{field: default})))


def test_what_was_not_evaluated_is_on_the_page() -> None:
    told = dataclasses.replace(report_data(K=2, T=2), left_out=["exam: <b> 3 of 6 are left out"])
    assert "exam: <b> 3 of 6 are left out." in Page(render(told)).text


def test_odd_numbers_are_drawn_or_left_out() -> None:
    centers_KT = np.array([[np.nan, 1.0], [np.inf, 0.0]])
    odd = dataclasses.replace(
        report_data(K=2, T=2),
        centers_KT=centers_KT,
        curves=[Curve("proxy", None, [1], [np.inf]), Curve("s2l", 1, [], [])],
        arms=arms_of(s2l=[math.nan, math.inf], random=[1.0, 1.0]),
        cluster_sizes=[0, 1],
        cluster_chosen=[0, 0],
        length_subset=np.zeros(32, int),
        examples=[],
    )
    text = " ".join(Page(render(odd)).text)
    assert "not finite" in text and "was not measured" in text
    assert figures.losses(report_data(K=1, T=1)).startswith("<svg")


def test_hostile_text_stays_text() -> None:
    names = list(HOSTILE.values())
    text = " ".join(names)
    arms = report_data(names=names).arms
    data = dataclasses.replace(
        report_data(names=names, K=len(names)),
        **{"title": text, "run_dir": text, "budget": text, "selector": text, "created": text},
        **{"hardware": text, "settings_yaml": text, "versions": {text: text}},
        rejections=[Rejection(text, 1, text)],
        timings=[Timing(text, 1.0, text)],
        curves=[Curve(name, 1, [1, 2], [2.0, 1.0]) for name in names],
        arms=[arm._replace(selector=text) if arm.selector == "s2l" else arm for arm in arms],
        examples=[[Example(name, 1.0, math.nan, name, name * 2, True)] for name in names],
    )
    html = render(data)
    html.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", html)
    page = Page(html)
    assert not {"script", "img", "b"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("svg") == 7 and page.tags.count("title") == 1
    for key in set(HOSTILE) - {"controls"}:
        assert HOSTILE[key] in page.text, key  # as a text of its own: in a table, as a prompt
    assert "nul\ufffd bell\ufffd escape\ufffd next\ufffd lone\ufffd end" in page.text


def test_page_stays_small_and_says_what_it_left_out() -> None:
    data = report_data(K=1400, T=12, n_sources=20)
    example = data.examples[0][0]._replace(prompt='"<&>' * 500, response="é" * 3000)
    html = render(dataclasses.replace(data, examples=[[example] * 5 for _ in range(1400)]))
    assert len(html.encode()) < 10_000_000
    text = " ".join(Page(html).text)
    n_shown = int(re.search(r"Showing ([\d,]+) of 7,000 examples", text)[1].replace(",", ""))
    assert 300 < n_shown < 7000
    assert text.count("[1,400 more characters]") == n_shown
    assert '"<&>' * 150 + "…" in text and '"<&>' * 151 not in text


def test_import_is_light() -> None:
    code = (
        "import sys, s2l_ray.report.page; "
        "print([m for m in ('matplotlib', 'jinja2', 'scipy', 'torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
