"""The page of a run: its order, its numbers, its size, and safe with any text of a corpus."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from support.reports import HOSTILE, Page, arms_of, report_data

from s2l_ray.report.data import Curve, Example, Piece, Rejection, ReportData, Timing
from s2l_ray.report.figures.clusters import cut_pieces
from s2l_ray.report.html import MAX_CHARS
from s2l_ray.report.page import render

THREE_LINES = 250  # characters, at 80 and more to a line


@pytest.fixture(scope="module")
def demo() -> str:
    return render(report_data())


def changed(**fields) -> Page:
    return Page(render(dataclasses.replace(report_data(), **fields)))


def test_the_page_answers_in_the_order_of_the_questions(demo: str) -> None:
    assert Page(demo).texts("h2")[1:] == [
        "Why these examples",
        "Whether it pays",
        "For this target, the subset must be worth ×4 as much random data to pay",
        "How to go on",
        "The record",
    ]
    # The first heading of the second level is the title of the first screen's figure.
    assert Page(demo).texts("h2")[0] == "The subset has nearly the corpus’s mix of sources"


def test_the_law_of_the_selection_is_shown(demo: str) -> None:
    page = Page(demo)
    assert (
        "50.0% of the subset comes from the tenth of examples with the highest loss (total "
        "variation from uniform 0.40)"
    ) in page.texts("h3")
    rows = [re.sub("<[^>]*>", " ", row).split() for row in re.findall("<tr.*?</tr>", demo)]
    # The tenth has 100 of 1,000 examples, and 50 of the 100 chosen ones.
    assert ["2.25", "and", "more", "50.0%", "50.0%"] in rows
    assert ["0.250", "to", "0.500", "5.56%", "5.56%"] in rows
    assert ["12.5", "and", "more", "20.0%", "50.0%", "25.0%"] in rows  # by length
    assert any("worth 60 uniformly drawn ones" in text for text in page.texts("li"))
    source = next(row for row in rows if row[0] == "source_0" and len(row) == 7)
    assert source[-1] == "10.0%"
    assert ["s2l", "0.40"] in rows
    assert "The subsets of random and strata differ by no more than draws do." in page.texts("p")
    without = changed(law=None, law_rows=())
    assert "total variation" not in " ".join(without.text) and "–" in without.texts("td")


def test_every_figure_has_a_title_and_a_caption(demo: str) -> None:
    figures = re.findall("<figure.*?</figure>", demo, re.DOTALL)
    assert len(figures) == 10
    for figure in figures:
        page = Page(figure)
        assert any(page.texts("h2") + page.texts("h3")), figure[:200]
        assert all(page.texts("figcaption"))


def test_no_paragraph_has_more_than_three_lines(demo: str) -> None:
    for tag in ("p", "li", "figcaption"):
        assert max(map(len, Page(demo).texts(tag))) <= THREE_LINES


def test_headings_do_not_skip_a_level(demo: str) -> None:
    levels = [int(tag[1]) for tag in Page(demo).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_a_browser_reads_out(demo: str) -> None:
    page = Page(demo)
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert all(labels) and len([x for x in labels if x.startswith("Loss curve of cluster")]) == 20
    assert len(re.findall('<svg[^>]*role="img"[^>]*aria-label', demo)) == page.tags.count("svg")
    assert ("lang", "en") in page.attributes


def test_colours_have_contrast_in_light_and_in_dark(demo: str) -> None:
    """WCAG 2: 4.5 for text, on the page and on its tint."""
    for scheme in re.findall(r":root \{(.*?)\}", Page(demo).style, re.DOTALL):
        color = dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", scheme))
        for text in ("ink", "soft", "main", "worse", "good"):
            for ground in ("paper", "tint"):
                assert contrast(color[text], color[ground]) >= 4.5, (text, ground)
        assert contrast(color["worse"], color["alarm"]) >= 4.2  # bold
        for mark in ("grey", "other1", "other2", "other3", "other4", "other5"):
            assert contrast(color[mark], color["paper"]) >= 3  # marks


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_figures_have_no_colours_but_those_of_the_page(demo: str) -> None:
    body = demo[demo.index("</style>") :]
    assert not re.search("(fill|stroke|color|background)[=:]", body)
    dark = Page(demo).style.partition("prefers-color-scheme: dark")[2]
    light = Page(demo).style.partition("@media")[0]
    names = [re.findall(r"--(\w+): #", scheme) for scheme in (light, dark)]
    assert names[0] == names[1] and len(names[0]) == 15


def test_curves_and_clusters_are_linked_by_label() -> None:
    data = dataclasses.replace(report_data(K=3, T=2), cluster_sizes=[5, 7, 9])
    html = render(data)
    for k, size in enumerate((5, 7, 9)):
        assert f'<a href="#cluster-{k}">{k}</a>' in html
        [card] = re.findall(
            f'<details class="card" id="cluster-{k}">.*?</summary>', html, re.DOTALL
        )
        assert f"Cluster {k}<" in card and f"of {size} chosen" in card and "<svg" in card


def test_examples_say_whether_they_were_chosen_and_mark_labels() -> None:
    mine = Example(
        "b.jsonl:3", "algebra", 2.346, 1.2, [Piece("2+2?", False), Piece("4", True)], True
    )
    other = mine._replace(place="b.jsonl:9", chosen=False)
    data = dataclasses.replace(report_data(K=1, T=2), examples=[[mine, other]])
    html = render(data)
    [table] = re.findall('<table class="examples".*?</table>', html, re.DOTALL)
    cells = Page(table).texts("td")
    assert cells == ["chosen", "2.35 → 1.20", "2+2?4", "not chosen", "2.35 → 1.20", "2+2?4"]
    assert Page(table).texts("th")[4:] == ["algebrab.jsonl:3", "algebrab.jsonl:9"]
    assert table.count("2+2?<mark>4</mark>") == 2


def test_an_example_is_cut_to_so_much_prompt_and_so_many_labels() -> None:
    pieces = [Piece("p" * 300, False), Piece("l" * 500, True), Piece("q" * 300, False),
              Piece("r", False)]  # fmt: skip
    assert MAX_CHARS == 400
    assert cut_pieces(pieces) == [
        Piece("p" * 300, False),
        Piece("l" * 400 + "… [100 more characters]", True),
        Piece("q" * 100 + "… [200 more characters]", False),
    ]


def test_one_table_says_why_two_times_of_a_stage_differ() -> None:
    page = Page(render(report_data()))
    rows = stages(render(report_data()))
    assert rows == [
        "Stage|Time|Training alone|CPU time|Operations|Rate|State",
        "tokens|3.2 s|–|–|–|9,000 examples/s|run",
        "proxy|1 h 07 min|1 h 06 min|2 h 13 min|6.00e+09|90 tokens/s while training|run",
        "losses|–|–|–|3.00e+09|–|reused",
        "clusters|–|–|1 min 00 s|–|–|–",
        "Selection|9.00e+09||",
        "Target on the subset|3.00e+09||",
        "Target on the corpus|3.00e+10||",
    ]
    assert any("with starting its workers" in text for text in page.texts("li"))
    told = page.texts("li")
    first, second = (
        next(i for i, text in enumerate(told) if text.startswith(begin))
        for begin in (
            "A random subset of the same size costs nothing",
            "Training on the subset takes",
        )
    )
    assert first < second, "the price beside random comes first"
    assert "For this target (1,000,000 parameters) they cost 60.0% less." in told
    data = report_data()
    on_gpus = [data.cost.steps[0]._replace(gpu_seconds=4000.0), *data.cost.steps[1:]]
    cost = dataclasses.replace(data.cost, steps=on_gpus, parameters=None)
    html = render(dataclasses.replace(data, cost=cost))
    assert "more than 333,000 parameters" in html and "this target" not in html
    assert stages(html)[2].startswith("proxy|1 h 07 min|1 h 06 min|2 h 13 min|1 h 06 min|6.00e+09")


def stages(html: str) -> list[str]:
    """Return the rows of the table of stages, cells joined by bars."""
    table = re.search("of every stage</summary>.*?<table>(.*?)</table>", html, re.DOTALL)[1]
    rows = re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
    return [re.sub("<[^>]*>", "", re.sub("</t[hd]>", "|", row))[:-1] for row in rows]


def test_where_the_time_went_adds_up_the_many_targets() -> None:
    timings = [Timing("proxy", 30.0), Timing("targets/a", 40.0), Timing("targets/b", 20.5),
               Timing("losses", None, state="reused")]  # fmt: skip
    page = changed(timings=timings)
    assert "targets took the most time: 1 min 00 s, 66.9% of all" in page.texts("h3")
    assert "targets (2 stages)" in page.texts("th")


def test_wide_tables_are_folded_and_say_that_they_scroll(demo: str) -> None:
    for table in re.findall(r'<div class="scroll"(?:(?!</div>).)*<table', demo, re.DOTALL):
        before = demo[: demo.index(table)]
        assert before.rstrip().endswith("The table scrolls sideways.</p>"), table[:80]
    # All other tables are charts and examples, which fit any width.
    assert demo.count("<table") == demo.count("sideways") + demo.count('<figure class="chart') + 20


def test_where_the_subset_is_and_how_to_go_on(demo: str) -> None:
    page = Page(demo)
    assert "As alpaca, it is in /runs/my demo/exports/alpaca." in page.texts("p")
    [load, verdict, noise, budget] = page.texts("pre")[:4]
    assert "ray.data.read_parquet('/runs/my demo/selections/s2l-seed42/f00/subset')" in load
    file = "'/runs/my demo/report/config.yaml'"
    assert verdict == f"s2l-ray compare {file} 'compare.seeds=[0,1,2,3,4,5]'"
    assert noise == f"s2l-ray diagnose {file}" and budget.startswith(f"s2l-ray select {file} ")


def test_duplicates_are_called_kept_or_dropped() -> None:
    for kept, word in ((False, "dropped"), (True, "kept")):
        page = changed(n_duplicates=1234, duplicates_kept=kept)
        names, values = page.texts("dt"), page.texts("dd")
        assert values[names.index(f"Exact duplicates {word}")] == "1,234"


def test_files_with_rejected_rows_and_files_passed_over_are_named() -> None:
    page = changed(
        rejected_by_file=[("data/a.jsonl", 1200, 3)],
        passed_over=[("unknown ending", 2, "README.md, <b>.txt")],
    )
    text = "|".join(piece.strip() for piece in page.text if piece.strip())
    assert "File|Rejected|Rows|data/a.jsonl|3|1,200" in text
    assert "Reason|Files|The first|unknown ending|2|README.md, <b>.txt" in text


def test_page_refers_to_nothing_outside(demo: str) -> None:
    page = Page(demo)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        assert name not in ("src", "srcset", "action") and "http" not in value, (name, value)
        assert name != "href" or value[1:] in ids
    assert "url(" not in page.style and "@import" not in page.style
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(page.tags)


def test_the_page_is_the_same_each_time(demo: str) -> None:
    assert render(report_data()) == demo


def test_missing_sections_are_left_out() -> None:
    bare = ReportData(
        **{"title": "t", "run_dir": "r", "created": "c", "selector": "s2l", "rule": "even"},
        **{"budget": "11%", "seed": 1, "corpus_by_source": {"a": 3}},
    )
    page = Page(render(bare))
    text = " ".join(page.text)
    assert "svg" not in page.tags and "None" not in text
    assert page.texts("h2") == [
        "Why these examples",
        "Whether it pays",
        "How to go on",
        "The record",
    ]
    assert "No subset has been chosen yet of 3 examples." in page.texts("p")
    assert any("was not measured" in each for each in page.texts("p"))


@pytest.mark.parametrize(
    "field",
    [f.name for f in dataclasses.fields(ReportData) if f.default is not dataclasses.MISSING],
)
def test_any_field_may_be_missing(field: str) -> None:
    default = next(f.default for f in dataclasses.fields(ReportData) if f.name == field)
    Page(render(dataclasses.replace(report_data(K=2, T=2, n_sources=2), **{field: default})))


def test_what_was_not_evaluated_is_on_the_page() -> None:
    page = changed(left_out=["exam: <b> 3 of 6 are left out"])
    assert "exam: <b> 3 of 6 are left out." in page.texts("li")


def test_odd_numbers_are_drawn_or_left_out() -> None:
    odd = dataclasses.replace(
        report_data(K=2, T=2),
        centers_KT=np.array([[np.nan, 1.0], [np.inf, 0.0]]),
        curves=[Curve("proxy", None, [1], [np.inf]), Curve("s2l", 1, [], [])],
        arms=arms_of(s2l=[math.nan, math.inf], random=[1.0, 1.0]),
        cluster_sizes=[0, 1],
        cluster_chosen=[0, 0],
        length_subset=np.zeros(32, int),
        examples=[],
    )
    html = render(odd)
    assert "2 targets diverged" in html and "was not measured" in html
    assert not re.search(r"\b(nan|inf)\b", " ".join(Page(html).text), re.IGNORECASE)
    assert not re.search(r'(style|d)="[^"]*(nan|inf)', html)


def test_hostile_text_stays_text() -> None:
    names = list(HOSTILE.values())
    text = " ".join(names)
    arms = report_data(names=names).arms
    pieces = [Piece(text, False), Piece(HOSTILE["script"], True)]
    data = dataclasses.replace(
        report_data(names=names, K=len(names)),
        **{"title": text, "run_dir": text, "budget": text, "selector": text, "created": text},
        **{"hardware": text, "settings_yaml": text, "versions": {text: text}, "rule": text},
        **{"subset_path": text, "settings_path": text, "exports": {text: text}},
        rejections=[Rejection(text, 1, text)],
        timings=[Timing(text, 1.0, text)],
        curves=[Curve(name, 1, [1, 2], [2.0, 1.0]) for name in names],
        arms=[arm._replace(selector=text) if arm.selector == "s2l" else arm for arm in arms],
        examples=[
            [Example(name, name, 1.0, math.nan, [*pieces, Piece(name, False)], True)]
            for name in names
        ],
    )
    html = render(data)
    html.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", html)
    page = Page(html)
    assert not {"script", "img", "b"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("title") == 1 and page.tags.count("style") == 1
    for key in set(HOSTILE) - {"controls", "right_to_left", "long"}:
        assert HOSTILE[key] in page.text, key  # as a text of its own: in a table
    assert "שלום evil العربية" in page.text  # a name, without the control that reverses it
    assert HOSTILE["right_to_left"] in " ".join(page.text)  # an example's text is as it was
    assert "w" * 39 + "…" in page.text and "w" * 119 + "…" in page.text
    assert "nul\ufffd bell\ufffd escape\ufffd next\ufffd lone\ufffd end" in page.text
    # Controls of direction stand only where an element of its own ends their effect.
    for tag in ("h2", "h3", "li", "figcaption"):
        assert not [told for told in page.texts(tag) if "\u202e" in told], tag


def test_page_stays_small_and_says_what_it_left_out() -> None:
    """A thousand sources, 20,000 clusters, long texts: no more than a few megabytes."""
    data = report_data(K=20_000, T=12, n_sources=1000)
    pieces = [Piece('"<&>' * 500, False), Piece("é" * 3000, True)]
    example = data.examples[0][0]._replace(pieces=pieces)
    timings = [Timing(f"targets/{number}", 1.0) for number in range(3000)]
    html = render(
        dataclasses.replace(data, examples=[[example] * 5 for _ in range(20_000)], timings=timings)
    )
    assert len(html.encode()) < 3_000_000
    page = Page(html)
    assert "24 of 20,000 clusters, evenly spaced from low to high loss." in html
    assert "984 other sources" in page.texts("th")
    assert "All 20,000 clusters as a table" in page.texts("summary")
    assert html.count("[2,600 more characters]") >= 24
    assert len(stages(html)) < 1010


def test_import_is_light() -> None:
    code = (
        "import sys, s2l_ray.report.page; "
        "print([m for m in ('jinja2', 'scipy', 'torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
