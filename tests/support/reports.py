"""Made-up data of a run's page, hostile text, and a parser of pages."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from s2l_ray.analysis.cost import Cost, Step
from s2l_ray.analysis.laws import Law
from s2l_ray.report.data import Arm, Curve, Example, LawBins, Piece, Rejection, ReportData, Timing

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


BLOCKS = {"h1", "h2", "h3", "p", "li", "figcaption", "summary", "th", "td", "pre", "dt", "dd"}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The tags, attributes and text of a page, whose tags must balance."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.style = ""
        self.blocks: list[tuple[str, str]] = []  # paragraphs, items, headings, …: tag, text
        self._block: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in BLOCKS:
            self._block.append((tag, []))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()
        if tag in BLOCKS:
            name, pieces = self._block.pop()
            self.blocks.append((name, " ".join("".join(pieces).split())))

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)
            for _, pieces in self._block[-1:]:
                pieces.append(data)

    def texts(self, tag: str) -> list[str]:
        """Return the texts of the elements with this tag, one of BLOCKS, without their spaces."""
        return [text for name, text in self.blocks if name == tag]


def arms_of(**losses: list[float]) -> list[Arm]:
    return [
        Arm(selector, seed, 1100, 51, loss, {"a": loss, "b": loss + 1}, 9000, None, {"macro": loss})
        for selector, values in losses.items()
        for seed, loss in enumerate(values)
    ]


def a_law(sources) -> Law:
    """Half of the subset from the tenth with the highest loss."""
    even = [1 / len(sources)] * len(sources)
    return Law(
        examples=1000,
        chosen=100.0,
        reach=1.0,
        effective=60.0,
        corpus={"loss": [0.1] * 10, "length": [0.5, 0.3, 0.2], "source": even},
        subset={"loss": [0.5 / 9] * 9 + [0.5], "length": [0.2, 0.3, 0.5], "source": even},
    )


def report_data(*, K: int = 20, T: int = 8, n_sources: int = 14, names=()) -> ReportData:
    """Return a run like the demo's, with K clusters, T checkpoints and made-up numbers."""
    rng = np.random.default_rng(0)
    names = list(names) or [f"source_{i}" for i in range(n_sources)]
    centers_KT = np.sort(rng.gamma(2, 0.5, (K, 1)), axis=0) + np.linspace(1, 0.3, T)
    corpus = dict(zip(names, rng.integers(100, 1000, len(names)).tolist(), strict=True))
    arms = [
        Arm(selector, seed, 1100, 51, 1.2 + 0.01 * seed, dict.fromkeys(names, 1.3), 9000, 0.01, {})
        for selector in ("s2l", "random")
        for seed in (1, 2)
    ]
    pieces = [Piece("How many? <b>" * 60, False), Piece("Four & more. " * 60, True)]
    example = Example("a.jsonl:7", names[0], 2.0, 1.0, pieces, chosen=True)
    return ReportData(
        title="demo",
        run_dir="runs/demo",
        created="2026-01-01 12:00 UTC",
        selector="s2l",
        rule="the budget spread evenly over clusters (Yang et al. 2024)",
        budget="10%",
        seed=42,
        versions={"ray": "2.60.0"},
        hardware="1 node",
        settings_yaml="seed: 42\n",
        settings_path="/runs/my demo/report/config.yaml",
        subset_path="/runs/my demo/selections/s2l-seed42/f00/subset",
        exports={"alpaca": "/runs/my demo/exports/alpaca"},
        has_target=True,
        has_heldout=True,
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
        law=a_law(names),
        law_rows=[["selector", "TV loss"], ["s2l", "0.40"], ["random", "0.00"]],
        laws_alike=["The subsets of random and strata differ by no more than draws do."],
        law_bins=LawBins(np.arange(1, 10) / 4, [5.0, 12.5], names),
        examples=[[example, example._replace(chosen=False)] for _ in range(K)],
        arms=arms,
        timings=[
            Timing("tokens", 3.2, "9,000 examples/s"),
            Timing("proxy", 4060.0, "90 tokens/s while training", training=4000.0),
            Timing("losses", None, state="reused"),
        ],
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
            target=Step("targets/s2l-seed1", 125.0, 250.0, 0.0, None),
        ),
    )
