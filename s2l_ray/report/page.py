"""The page of a run: plain numbers in, one self-contained HTML page out.

    html = render(ReportData(title="demo", run_dir="runs/demo", ...))

`render` reads no file of the run. The page needs no network and no script: figures are HTML and
inline SVG, the style is inline CSS. Corpus text, names of sources and paths are untrusted: the
templates escape everything. The page's size is bounded, whatever the corpus's.

Shape suffixes: N examples, T checkpoints, K clusters, H bins of a histogram, P points of a curve.
"""

from __future__ import annotations

from typing import Any

from s2l_ray.analysis.laws_told import sentences as law_sentences
from s2l_ray.config import BASELINE
from s2l_ray.report.data import ReportData, evaluated_sources
from s2l_ray.report.findings import findings
from s2l_ray.report.html import MAX_CHARS, environment, printable
from s2l_ray.report.next_steps import loading, next_steps
from s2l_ray.report.price import priced
from s2l_ray.report.trust import alarms, chosen, source_mix, trust
from s2l_ray.report.verdict import means, summarize, verdict

MAX_ROWS = 1000  # of a table of sources, clusters or stages
MAX_SETTINGS = 100_000  # characters
MAX_TOKENS = 2000  # of an example whose labels are marked one by one


def render(data: ReportData) -> str:
    """Return the page as HTML text, to be written as UTF-8.

    Raises ValueError if two arms of a selector share a seed.
    """
    from s2l_ray.report.figures import charts, clusters, laws, plots

    told, notes = "", list[str]()
    if data.arms:
        told, notes = verdict(data.arms, main=data.selector, baseline=BASELINE)
    trusted, tone = trust(data)
    tables = [
        ("Other measures", "Measure", means(data.arms, lambda arm: arm.others)),
        ("Held-out loss by source", "Source", _losses_by_source(data)),
    ]
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            alarms=alarms(data),
            lead=[chosen(data), source_mix(data)],
            trusted=trusted,
            tone=tone,
            verdict=told,
            notes=notes,
            baseline=BASELINE,
            summaries=summarize(data.arms, baseline=BASELINE),
            tables=[(title, kind, _first(rows)) for title, kind, rows in tables if rows],
            sources=_first(_source_rows(data)),
            clusters=_first(_cluster_rows(data)),
            cards=clusters.cards(data),
            law=laws.by_loss(data.law, data.law_bins),
            law_sentences=[] if data.law is None else law_sentences(data.law),
            law_by_length=laws.by_length(data.law, data.law_bins),
            law_by_source=laws.by_source(data.law, data.law_bins),
            findings=findings(data),
            price=priced(data),
            next_steps=next_steps(data),
            loading=loading(data),
            max_chars=MAX_CHARS,
            max_rows=MAX_ROWS,
            max_tokens=MAX_TOKENS,
            max_settings=MAX_SETTINGS,
            charts=charts,
            plots=plots,
        )
    )
    return printable(page)


def _first(rows: Any) -> Any:
    """Return the first MAX_ROWS of a list or mapping."""
    if isinstance(rows, dict):
        return dict(list(rows.items())[:MAX_ROWS])
    return rows[:MAX_ROWS]


def _losses_by_source(data: ReportData) -> dict[str, list[tuple[float | None, float | None]]]:
    """Return source -> mean and standard error of each selector, in the order of `summarize`."""
    found = means(data.arms, lambda arm: arm.loss_by_source)
    return {source: found[source] for source in evaluated_sources(data)}


def _source_rows(data: ReportData) -> list[tuple[str, int, int]]:
    """Return source, its examples, and how many of them were chosen, the largest source first."""
    subset = data.subset_by_source or {}
    rows = [(name, n, subset.get(name, 0)) for name, n in data.corpus_by_source.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def _cluster_rows(data: ReportData) -> list[dict[str, Any]]:
    """Return a row per cluster, lowest mean loss first: id, size, chosen, first and last loss."""
    from s2l_ray.report.figures.clusters import order

    if data.cluster_sizes is None:
        return []
    return [
        {
            "id": k,
            "size": int(data.cluster_sizes[k]),
            "chosen": None if data.cluster_chosen is None else int(data.cluster_chosen[k]),
            "first": None if data.centers_KT is None else float(data.centers_KT[k][0]),
            "last": None if data.centers_KT is None else float(data.centers_KT[k][-1]),
        }
        for k in order(data)
    ]
