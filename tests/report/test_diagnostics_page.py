"""A diagnosis's sentences, table and page: numbers by hand, hostile names."""

import copy
import re
from dataclasses import asdict

import numpy as np
import pytest
from support.reports import Page, a_law

from s2l_ray.analysis.alarms import Alarm
from s2l_ray.report import diagnostics_page as page
from s2l_ray.report.figures import diagnosis as figures
from s2l_ray.report.next_steps import Commands

HOSTILE = "<script>alert(1)</script>"


def subsets(s2l, strata):
    """Take (adjusted Rand index, Jaccard index) of each; chance gives 0.1."""
    names = ("adjusted_rand", "jaccard", "by_chance", "spread", "examples")
    names += ("correlation", "draw_noise")
    found = {
        "s2l": (*s2l, 0.1, 0.01, 40, 0.97, 0.99),
        "loss_strata": (*strata, 0.1, 0.01, 40, None, 1.0),
    }
    return {selector: dict(zip(names, mine, strict=True)) for selector, mine in found.items()}


def groups(*shares):
    return {
        "mean": float(np.mean(shares)),
        "quantiles": np.quantile(shares, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist(),
        "shares_K": list(shares),
        "sizes_K": [10] * len(shares),
    }


@pytest.fixture
def record():
    variants = [
        ("draw", "43", (1.0, 0.3), (1.0, 0.11)),
        ("k-means seed", "43", (0.5, 0.29), (1.0, 0.11)),
        ("n_clusters", "50", (0.75, 0.22), (0.8, 0.1)),
        ("proxy seed", "1", (0.2, 0.14), (0.6, 0.1)),
        ("proxy seed", "2", (0.3, 0.16), (0.8, 0.1)),
        ("proxy", HOSTILE, (0.95, 0.3), (0.9, 0.1)),
    ]
    return {
        "stability": [
            {"changed": changed, "to": to, "subsets": subsets(s2l, strata)}
            for changed, to, s2l, strata in variants
        ],
        "laws": {
            "bins": {"loss_edges": [0.5, 1.0], "length_edges": [], "sources": ["a", HOSTILE]},
            "laws": {
                "s2l": asdict(a_law(["a", HOSTILE]))
                | {"corpus": {"loss": [0.4, 0.4, 0.2]}, "subset": {"loss": [0.2, 0.2, 0.6]}},
                "loss_strata": asdict(a_law(["a", HOSTILE])),
            },
        },
        "purity": {
            "topics": ["a", HOSTILE], "column": "source", "largest": 0.6,
            "trajectories": groups(0.8, 0.9),
            "features": groups(0.9, 1.0), "random": groups(0.6, 0.6),
        },
        "gradients": None,
    }  # fmt: skip


def test_what_is_kept_is_a_share_of_what_the_draw_keeps(record):
    rows = page.variants_of(record)
    assert [row.kept for row in rows] == pytest.approx([1, 0.95, 0.6, 0.2, 0.3, 1])
    # Within ten standard deviations of chance the share would be mostly noise.
    for jaccard, told in (
        (0.129, "not distinguishable from chance"),
        (0.18, "the draw nearly all"),
    ):
        record["stability"][0]["subsets"]["s2l"]["jaccard"] = jaccard
        assert [row.kept for row in page.variants_of(record)] == [None] * 6
        assert told in page.sentences_of(record)[0]


def test_sentences_say_what_the_numbers_say(record):
    draw, kmeans, number, seed, proxy, control, topics = page.sentences_of(record)
    assert "0.300" in draw and "0.100 ± 0.010" in draw and "determine some of the subset" in draw
    assert "(43)" in kmeans and "clusters 0.50 (they depend strongly on it)" in kmeans
    assert "95%" in kmeans and "as stable as its draw allows" in kmeans
    assert "0.75 (with another number of clusters it cannot reach 1)" in number
    assert "60%" in number and "stays" in number
    assert "(1, 2)" in seed and "clusters 0.20 to 0.30" in seed and "25%" in seed
    assert "determine changes" in seed
    assert "(they hardly depend on it)" in proxy
    assert "is 0.25 (with another k-means seed alone 0.50)" in control
    assert "loss 0.70. Trajectories are noisier" in control
    assert "2 topics makes up 85%" in topics and "95% of a cluster of last-layer" in topics
    assert "60% of a random group" in topics
    assert "follow the topics closely. They are less pure than clusters of features" in topics


def test_near_duplicates_are_told_if_they_were_searched_for(record):
    before = page.sentences_of(record)
    record["near_duplicates"] = ["3.0% are in 2 groups.", "s2l spends nothing on copies."]
    assert page.sentences_of(record) == [*before, " ".join(record["near_duplicates"])]
    assert "s2l spends nothing on copies." in render(record)


@pytest.mark.parametrize(
    ("start", "proxy", "strata", "told"),
    [
        (0.5, 0.45, 0.55, "start of k-means hides which"),  # 0.9 of what another start leaves
        (0.5, 0.45, 0.35, "less noisy"),
        (1.0, 0.5, 0.52, "about as noisy"),
        (0.9, 0.4, 0.8, "noisier than"),
        (0.0, 0.0, 0.5, "start of k-means hides which"),
    ],
)
def test_k_means_noise_is_not_blamed_on_trajectories(record, start, proxy, strata, told):
    for variant in record["stability"]:
        if variant["changed"] == "k-means seed":
            variant["subsets"]["s2l"]["adjusted_rand"] = start
        if variant["changed"] == "proxy seed":
            variant["subsets"]["s2l"]["adjusted_rand"] = proxy
            variant["subsets"]["loss_strata"]["adjusted_rand"] = strata
    assert told in page.sentences_of(record)[5]


@pytest.mark.parametrize(
    ("rand", "told"),
    [
        (0.44, "clusters 0.44 (they depend strongly on it)."),
        (0.46, "clusters 0.46 (no lower than the 0.50 of another k-means seed alone)."),
        (0.89, "clusters 0.89 (no lower than the 0.50 of another k-means seed alone)."),
        (0.90, "clusters 0.90 (they hardly depend on it)."),
    ],
)
def test_k_means_noise_is_not_blamed_on_the_change(record, rand, told):
    [proxy] = [each for each in record["stability"] if each["changed"] == "proxy"]
    proxy["subsets"]["s2l"]["adjusted_rand"] = rand
    assert told in page.sentences_of(record)[4]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.setattr(page.machine, "hardware", lambda: "2 CPUs")


def test_sentences_if_the_draw_decides_all(record):
    noise = copy.deepcopy(record)
    noise["stability"] = noise["stability"][:3]
    for variant in noise["stability"]:
        variant["subsets"]["s2l"]["jaccard"] = 0.12
    noise["purity"] = None
    draw, kmeans, number, topics = page.sentences_of(noise)
    assert "not distinguishable from chance" in draw
    assert "Beyond chance" not in kmeans + number and "subset 0.120. Inclusion" in kmeans
    assert "one topic" in topics
    assert "<svg" not in render(noise)


def test_clusters_as_pure_as_random_groups(record):
    record["purity"]["trajectories"] = groups(0.62, 0.62)
    assert "do not follow the topics" in page.sentences_of(record)[-1]


def render(record):
    return page.render("a <b>", "run & dir", "11%", record)


def test_the_page_escapes_and_shows_every_row(record):
    html = render(record)
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "a &lt;b&gt;" in html and "run &amp; dir" in html
    shown = Page(html)
    table = re.search("All variants as a table.*?<table>(.*?)</table>", html, re.DOTALL)[1]
    assert Page(table).texts("td")[9:18] == [
        "43", "0.500", "0.290", "0.100 ± 0.010", "95.0%", "0.970", "99.0%", "1.00", "0.110",
    ]  # fmt: skip
    assert shown.tags.count("svg") == 1 and table.count('<th scope="row">') == 6
    told = " ".join(shown.texts("li"))
    for sentence in page.sentences_of(record):
        assert sentence in told


def test_the_page_answers_in_the_order_of_a_run_s(record):
    shown = Page(page.render("t", "r", "11%", record, Commands("/x/config.yaml")))
    assert shown.texts("h2") == [
        "The subset changes most with proxy seed 1: overlap 0.140", "What makes it change",
        "Whether clusters follow topics", "How to go on", "The record",
    ]  # fmt: skip
    assert shown.texts("p")[2:5] == [
        "The S2L subset (budget 11%) was compared with those of 6 variants of the run.",
        "Another draw from the same clusters overlaps it by 0.300, chance by 0.100.",
        "Of that overlap beyond chance, the worst change (proxy seed 1) keeps 20.0%.",
    ]  # fmt: skip
    for tag in ("p", "li", "figcaption"):
        assert max(map(len, shown.texts(tag))) <= 250, tag
    assert shown.texts("pre")[0] == "s2l-ray compare /x/config.yaml"


def test_alarms_stand_above_the_first_sentence(record):
    told = [Alarm("diverged", "The proxy diverged <b>", "Lower it.")]
    html = page.render("t", "r", "11%", record, alarms=told)
    assert html.index("The proxy diverged &lt;b&gt;") < html.index('class="lead"')
    assert 'role="alert"' not in render(record)


def test_trust_follows_what_the_worst_change_keeps(record):
    rows = page.variants_of(record)
    assert page.trust(rows)[1] == "bad"
    assert page.trust(rows[:2]) == (
        "Of that overlap beyond chance, the worst change (k-means seed 43) keeps 95.0%.", "good"
    )  # fmt: skip
    assert page.trust(rows[:3])[1] == "unsure"  # 60%
    by_chance = rows[0]._replace(jaccard=0.13)
    assert page.trust([by_chance, *rows[1:]])[0].endswith("not distinguishable from chance.")
    unknown = [row._replace(kept=None) for row in rows]
    assert page.trust(unknown)[0].startswith("The clusters determine so little")


def test_overlaps_and_partitions_by_hand(record):
    rows = page.variants_of(record)
    overlaps = figures.overlaps(rows)
    # An axis from 0 to 0.3: the draw at its end, chance at a third.
    link, chance, mine = overlaps.rows[0].marks
    assert (chance.start, mine.start, link.width) == (33.33, 100, 66.67)
    assert [row.cells for row in overlaps.rows[:2]] == [["0.300", "100%"], ["0.290", "95.0%"]]
    partitions = figures.partitions(rows)
    assert (
        partitions.title == "The clusters change most with proxy seed 1: adjusted Rand index 0.20"
    )
    assert [mark.start for mark in partitions.rows[0].marks] == [100, 50]  # strata, clusters
    assert len(partitions.rows) == 5  # the draw keeps the clusters


def test_inclusion_is_drawn_of_variants_whose_probabilities_vary(record):
    for variant, correlation in zip(
        record["stability"], (1, 0.97, None, 0.5, 0.6, 0.9), strict=True
    ):
        variant["subsets"]["s2l"]["correlation"] = correlation
    chart = figures.inclusion(page.variants_of(record))
    assert [row.cells for row in chart.rows] == [
        ["0.970", "99.0%"], ["0.500", "99.0%"], ["0.600", "99.0%"], ["0.900", "99.0%"],
    ]  # fmt: skip
    assert [mark.start for mark in chart.rows[1].marks] == [50, 50]
    assert chart.title.startswith("Inclusion probabilities correlate at 0.500 or more")
    assert figures.inclusion(page.variants_of(record)[:1]) is None  # the draw changes none


def test_purities_by_hand(record):
    plot = figures.purities(record["purity"])
    assert (
        plot.title == "The most common topic makes up 85.0% of a cluster, 60.0% of a random group"
    )
    # Two groups of equal size, 0.9 and 0.8, the purest first.
    assert plot.lines[0].path == "M0 10L50 10L100 20"
    assert plot.lines[3].path == "M0 40L100 40"  # the corpus: 0.6
    assert figures.purities(None) is None


def test_gradients_of_a_target(record):
    pairs = {"measure": "pairs", "groups": 10, "pairs": 450, "cosine_error": 0.01,
             "squared_distance": 3.0, "squared_distance_error": None}  # fmt: skip
    mean = {"measure": "mean gradient", "of": HOSTILE, "examples": 1234, "draws": 5,
            "distance": 0.3217, "distance_error": 0.0123, "cosine": 0.951,
            "uniform": 0.2892}  # fmt: skip
    record["gradients"] = [
        {"step": 1500, **row}
        for row in (
            pairs | {"of": "clusters", "cosine": 0.4567},
            pairs | {"of": "random groups", "cosine": 0.1},
            mean | {"weighted": False},
            mean | {"weighted": True, "distance": 0.1111},
        )
    ]
    pair_words, mean_words = page.gradient_sentences_of(record)
    assert pair_words.startswith("Target at step 1,500: Gradients within a cluster are more")
    assert "32.2% ± 1.2%" in mean_words and "the difference is 11.1%" in mean_words
    html = render(record)
    assert "<script" not in html
    for shown in (
        "0.457 ± 0.010",
        "1,234",
        "32.2% ± 1.2%",
        "28.9%",
        "11.1%",
        "by cluster",
        "random groups",
    ):
        assert shown in html


def test_text_has_a_line_per_variant_and_the_sentences(record):
    lines = page.as_text(record).splitlines()
    assert len(lines) == 1 + 6 + 7 + 2
    assert " ".join(lines[2].split()) == (
        "k-means seed 43 adjusted Rand 0.50 (1.00), Jaccard 0.290 (0.110), by chance 0.100, "
        "kept 95%, inclusion correlates at 0.970, draw noise 99.0%"
    )
    assert lines[-1].startswith("loss_strata: 50.0% of the subset comes from the tenth of")


def test_inclusion_and_draw_noise_are_told(record):
    kmeans = record["stability"][1]["subsets"]["s2l"]
    kmeans["correlation"], kmeans["draw_noise"] = 0.9712, 0.987
    told = page.sentences_of(record)[1]
    assert (
        "Inclusion probabilities correlate at 0.971 with the run’s, and the draw alone explains "
        "98.7% of the difference between the subsets."
    ) in told
    assert "correlate at 0.970 or more" in page.sentences_of(record)[3]  # of two proxy seeds
    kmeans["correlation"] = None  # every example has the same chance
    assert "Inclusion" not in page.sentences_of(record)[1]
    assert "inclusion correlates at –, draw noise 98.7%" in page.as_text(record).splitlines()[2]
    assert page.law_sentences_of(record)[0] == (
        "s2l: 60.0% of the subset comes from the 20.0% of examples with the highest loss (total "
        "variation from uniform 0.40)."
    )
