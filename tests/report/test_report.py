"""The report: what it says about a comparison, and that no text of a corpus gets out of hand."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from s2l_ray.analysis.cost import Cost, Step
from s2l_ray.report import figures, gather
from s2l_ray.report.data import Arm, Curve, Example, Rejection, ReportData, Stage
from s2l_ray.report.findings import diagnostics, others_in_words, summarize
from s2l_ray.report.page import render, verdict

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": "\"><img src=x onerror='alert(2)'>",
    "math": r"$x_1$ and $\frac{",
    "template": "{{7*7}}{% raw %}",
    "closing": "</title></style></svg></details></pre><b id='q'>&amp;]]>--><!--",
    "controls": "nul\x00 bell\x07 escape\x1b next\x85 lone\ud800 end",
    "right_to_left": "שלום \u202eevil\u202c العربية",
    "leading": "_hidden",
    "long": "w" * 5000,
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; asserts that the tags balance."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)


def arms_of(**losses: list[float]) -> list[Arm]:
    return [
        Arm(selector, seed, 1100, 51, loss, {"a": loss, "b": loss + 1}, 9000, None, {"macro": loss})
        for selector, values in losses.items()
        for seed, loss in enumerate(values)
    ]


def report_data(*, K: int = 20, T: int = 8, n_sources: int = 14, names=()) -> ReportData:
    """A run as the demo makes it, with K clusters, T checkpoints and made-up numbers."""
    rng = np.random.default_rng(0)
    names = list(names) or [f"source_{i}" for i in range(n_sources)]
    centers_KT = np.sort(rng.gamma(2, 0.5, (K, 1)), axis=0) + np.linspace(1, 0.3, T)
    corpus = dict(zip(names, rng.integers(100, 1000, len(names)).tolist(), strict=True))
    arms = [
        Arm(selector, seed, 1100, 51, 1.2 + 0.01 * seed, dict.fromkeys(names, 1.3), 9000, 0.01, {})
        for selector in ("s2l", "random")
        for seed in (1, 2)
    ]
    example = Example(names[0], 2.0, 1.0, "How many? <b>" * 60, "Four & more. " * 60, True)
    return ReportData(
        title="demo",
        run_dir="runs/demo",
        created="2026-01-01 12:00 UTC",
        selector="s2l",
        budget="1,100 examples",
        seed=42,
        versions={"ray": "2.60.0"},
        hardware="1 node",
        settings_yaml="seed: 42\n",
        corpus_by_source=corpus,
        subset_by_source={name: n // 10 for name, n in corpus.items()},
        n_rejected=3,
        rejections=[Rejection("empty response", 3, "a.jsonl:7")],
        length_edges=np.linspace(0, 512, 33),
        length_corpus=rng.integers(0, 100, 32),
        length_subset=rng.integers(0, 10, 32),
        curves=[Curve("proxy", None, range(1000), rng.random(1000) + 1)]
        + [Curve(arm.selector, arm.seed, [1, 2, 3], [3.0, 2.0, 1.0]) for arm in arms],
        steps=np.arange(1, T + 1) * 50,
        centers_KT=centers_KT,
        cluster_sizes=rng.integers(1, 500, K),
        cluster_chosen=rng.integers(0, 20, K),
        loss_quantiles_5T=np.quantile(centers_KT, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0),
        explained_variance_level=0.98,
        inertia=7193.0,
        n_iter=12,
        share_above_quota=0.97,
        adjusted_rand=0.5,
        examples=[[example] * 5 for _ in range(K)],
        arms=arms,
        stages=[Stage("tokens", 3.2, "9,000 examples/s"), Stage("proxy", 4000.0, reused=True)],
        peak_memory_bytes=400_000_000,
        cost=Cost(
            steps=[
                Step("proxy", 4000.0, 8000.0, 0.0, 6e9),
                Step("losses", None, None, None, 3e9),
                Step("clusters", 30.0, 60.0, 0.0, None),
            ],
            corpus_tokens=1000,
            subset_tokens=100,
            epochs=5.0,
            parameters=1_000_000,
            seconds=125.0,
        ),
    )


@pytest.fixture(scope="module")
def demo() -> str:
    return render(report_data())


def test_verdict_better() -> None:
    # differences -1, -2, -3, -1, -2, -3 (x 0.01): mean -0.02, variance 0.8e-4, SE 0.0036515
    arms = arms_of(s2l=[0.99, 0.98, 0.97, 0.99, 0.98, 0.97], random=[1.0] * 6)
    text = verdict(arms, main="s2l")
    assert text.startswith("s2l beat random")
    assert "0.0200 ± 0.0037 lower" in text and "6 pairs" in text
    assert "−0.0294 to −0.0106" in text  # 0.02 ± 2.571 x 0.0036515


def test_verdict_worse_and_noise() -> None:
    worse = arms_of(s2l=[1.01, 1.02, 1.03, 1.01, 1.02, 1.03], random=[1.0] * 6)
    assert verdict(worse, main="s2l").startswith("s2l did NOT beat random; it is worse")
    assert "0.0200 ± 0.0037 higher" in verdict(worse, main="s2l")
    noise = arms_of(s2l=[0.9, 1.1, 0.8, 1.2, 0.95, 1.0], random=[1.0] * 6)
    text = verdict(noise, main="s2l")
    assert text.startswith("s2l did not beat random beyond noise") and "−0.0083 ± 0.0583" in text


@pytest.mark.parametrize(
    ("main", "lead", "numbers"),
    [
        ([0.9], "No verdict", "0.1000 lower than that of random (one pair"),
        ([1.1], "s2l did not beat random here", "0.1000 higher"),
        ([1.0], "s2l did not beat random here", "the same as that of random"),
        ([0.9, 0.8], "No verdict", "0.1500 ± 0.0500 lower than that of random (mean"),
        ([1.1, 1.2], "s2l did not beat random here", "0.1500 ± 0.0500 higher"),
        ([0.5, 0.5, 0.5, 0.5], "No verdict", "0.5000 ± 0.0000 lower"),
    ],
)
def test_too_few_pairs_carry_no_verdict(main: list[float], lead: str, numbers: str) -> None:
    text = verdict(arms_of(s2l=main, random=[1.0] * len(main)), main="s2l")
    assert text.startswith(lead) and numbers in text
    assert "cannot support a verdict" in text and "at least 5" in text


def test_copies_carry_no_verdict() -> None:
    text = verdict(arms_of(s2l=[0.75] * 6, random=[1.0] * 6), main="s2l")
    assert text.startswith("No verdict") and "0.2500 ± 0.0000 lower" in text
    assert "6 pairs cannot support a verdict" in text and "some spread among them" in text


def test_verdict_tells_how_far_other_held_out_examples_would_move_a_difference() -> None:
    arms = arms_of(s2l=[0.9, 0.8, 0.7], random=[1.0] * 3)
    assert "standard error of" not in verdict(arms, main="s2l")
    for row, error in enumerate((0.02, 0.05, 0.04)):
        arms[row] = arms[row]._replace(error_over_examples=error)
    wanted = "over which one pair's difference has a standard error of 0.0400)"
    assert wanted in verdict(arms, main="s2l")
    wanted = "one pair of targets with the same seed, so no standard error over seeds, on the same "
    one = verdict([arms[0], arms[3]], main="s2l")
    assert wanted in one and "a standard error of 0.0200)" in one


def test_verdict_pairs_by_seed() -> None:
    # seeds 0 and 1 pair; seed 2 of random has no partner. Unpaired means would say "worse".
    arms = arms_of(s2l=[2.9, 0.9], random=[3.0, 1.0, 0.1])
    assert "0.1000 ± 0.0000 lower" in verdict(arms, main="s2l")
    assert "2 pairs" in verdict(list(reversed(arms)), main="s2l")


def test_verdict_without_a_comparison() -> None:
    assert "was not measured" in verdict(arms_of(s2l=[1.0]), main="s2l")
    assert "was not measured" in verdict([], main="s2l")
    assert "baseline" in verdict(arms_of(random=[1.0]), main="random")
    with pytest.raises(ValueError, match="'s2l' have selection seed 0"):
        verdict(arms_of(s2l=[1.0]) * 2, main="s2l")


def test_verdict_tells_of_lost_runs_and_unequal_steps() -> None:
    arms = arms_of(s2l=[0.9, math.nan], random=[1.0, 1.0])
    assert "Left out: 1 pair in which a loss is not finite" in verdict(arms, main="s2l")
    arms[0] = arms[0]._replace(n_steps=99)
    assert "unequal numbers of steps (51–99 against 51)" in verdict(arms, main="s2l")
    assert "tokens" not in verdict(arms, main="s2l")
    arms[1] = arms[1]._replace(n_tokens=9181)
    wanted = "unequal numbers of tokens (9,000–9,181 against 9,000). All pairs have one proxy"
    assert wanted in verdict(arms, main="s2l")


def test_summary_of_selectors() -> None:
    s2l, random = summarize(arms_of(s2l=[1.0, 3.0], random=[2.0, 2.0]), baseline="random")
    assert s2l[:7] == ("s2l", 2, "1,100", "9,000", "51", 2.0, 1.0)
    assert s2l[7:] == (0.0, 1.0, 2)
    assert random.difference is None and random.standard_error == 0.0


def test_what_else_was_measured_has_a_line_each_and_a_table() -> None:
    record = {
        "seed": 0, "examples": 9, "steps": 2, "tokens": 90, "loss": 1.0, "macro": 1.5,
        "by_source": {"a": 1.0}, "examples_by_source": {"a": 4}, "answer_loss": None,
    }  # fmt: skip
    right = {"s2l": [5, 7], "random": [3, 3]}
    records = [
        record | {"selector": name, "seed": seed}
        | {"exact_match": {"sums": {"correct": correct, "questions": 20}}}
        for name, counts in right.items()
        for seed, correct in enumerate(counts)
    ]  # fmt: skip
    arms = gather.arms_of(records)
    lines = others_in_words(arms)
    assert lines == [
        "held-out loss, mean over sources: s2l 1.5000 ± 0.0000, random 1.5000 ± 0.0000",
        "sums, share answered right: s2l 0.3000 ± 0.0500, random 0.1500 ± 0.0000",
    ]
    text = " ".join(
        "".join(Page(render(dataclasses.replace(report_data(), arms=arms))).text).split()
    )
    assert "Measures2lrandom" in text and "sums, share answered right0.3000 ± 0.0500" in text
    assert "Other measures" not in Page(render(report_data())).text
    assert gather.arms_of([]) == [] and others_in_words([]) == []


def test_duplicates_that_were_kept_are_told_so() -> None:
    for kept, word in ((False, "dropped"), (True, "kept")):
        data = dataclasses.replace(report_data(), n_duplicates=1234, duplicates_kept=kept)
        assert f"Duplicates {word}1,234" in "".join(Page(render(data)).text)


def test_diagnostics_in_words() -> None:
    text = " ".join(diagnostics(report_data()))
    assert "98.0% of the variance of the trajectories is the loss level" in text
    assert "close to loss strata" in text
    assert "Nearly every cluster (97.0%) is larger than its quota" in text
    assert "single clusters mean little" in text
    # As tests/test_planted.py has them: every cluster is larger than its quota of 6.
    sizes, chosen = [160] * 3 + [10] * 6 + [60], [6] * 10
    data = dataclasses.replace(
        report_data(), cluster_sizes=sizes, cluster_chosen=chosen, share_above_quota=1.0
    )
    text = " ".join(diagnostics(data))
    assert "Nearly every cluster (100.0%) is larger than its quota: hardly one is taken" in text
    assert (
        "in the smaller half of the clusters 60.0% were chosen, of those in the larger half 5.5%: "
        "what is rare is favoured."
    ) in text
    data = dataclasses.replace(data, cluster_chosen=[16] * 3 + [1] * 6 + [6])
    assert "half 10.0%: what is rare is not favoured." in " ".join(diagnostics(data))
    data = dataclasses.replace(report_data(), loss_quantiles_5T=np.ones((5, 8)))
    assert any("did not fall" in sentence for sentence in diagnostics(data))


def test_page_holds_the_run(demo: str) -> None:
    page = Page(demo)
    text = " ".join(page.text)
    for heading in (
        *("Comparison", "Corpus against subset", "Loss curves of the clusters", "Training"),
        *("Time and throughput", "Cost", "Rejected rows", "Examples from the clusters"),
        *("Diagnostics", "Settings"),
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
    """The text before the table of costs, and its rows, cells between bars."""
    section = re.search("<h2>Cost</h2>(.*?)</section>", render(data), re.DOTALL)[1]
    lead, table = section.split("<table>")
    rows = re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
    return lead, [re.sub("<[^>]*>", "", row.replace("</t", "|</t")).strip("|") for row in rows]


def test_cost_of_a_run() -> None:
    data = report_data()
    lead, rows = cost_rows(data)
    assert "For this one, of 1,000,000, it is 60.0% less." in lead
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
    assert "more than 333,000 parameters." in lead and "this one" not in lead
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
        **{"title": "t", "run_dir": "r", "created": "c", "selector": "s2l", "budget": "11%"},
        **{"seed": 1, "corpus_by_source": {"a": 3}},
    )
    page = Page(render(bare))
    text = " ".join(page.text)
    assert "svg" not in page.tags and "None" not in text
    assert "whether the subset helps was not measured" in text
    headings = ("Comparison", "Loss curves", "Training", "Time and", "Cost", "Rejected")
    for heading in (*headings, "Diagnostics"):
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


def test_checkpoints_left_out_are_told() -> None:
    assert "Scoring stopped" not in " ".join(diagnostics(report_data(T=3)))
    stopped = dataclasses.replace(report_data(T=3), n_left_out=9, agreement=0.9712)
    text = " ".join(diagnostics(stopped))
    assert "Scoring stopped after 3 of 12 checkpoints, which spared 75% of it" in text
    assert "adjusted Rand index 0.971 " in text


def test_what_was_not_evaluated_on_is_told() -> None:
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
        stages=[Stage(text, 1.0, text)],
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
        "import sys, s2l_ray.report; "
        "print([m for m in ('matplotlib', 'jinja2', 'scipy', 'torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
