"""The page of a run: plain numbers in, one self-contained HTML page out.

    html = render(ReportData(title="demo", run_dir="runs/demo", ...))

`render` reads no file of the run. The page needs no network and no script: figures are inline SVG,
the style is inline CSS. Corpus text, names of sources and paths are untrusted: the template escapes
everything, and figures never parse their labels as math.

Shape suffixes: N examples, T checkpoints, K clusters, H bins of a histogram, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s2l_ray.config import BASELINE
from s2l_ray.report.data import Example, ReportData, evaluated_sources
from s2l_ray.report.findings import findings
from s2l_ray.report.html import environment, printable
from s2l_ray.report.verdict import means, summarize, verdict

FIGURES = (
    "comparison",
    "differences_by_source",
    "sources",
    "clusters",
    "lengths",
    "losses",
    "training",
    "targets",
)


MAX_TEXT_CHARS = 600  # per prompt or response
MAX_TOKENS = 2000  # of an example whose labels are marked
MAX_EXAMPLES_BYTES = 3_000_000  # all prompts and responses, escaped, in UTF-8


def render(data: ReportData) -> str:
    """Return the page as HTML text, to be written as UTF-8.

    Raises ValueError if two arms of a selector share a seed.
    """
    from markupsafe import Markup

    from s2l_ray.report.figures import run as figures

    told, notes = "", list[str]()
    if data.arms:
        told, notes = verdict(data.arms, main=data.selector, baseline=BASELINE)
    shown, n_shown, n_offered = _examples_to_show(data.examples)
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            n_corpus=sum(data.corpus_by_source.values()),
            n_subset=sum((data.subset_by_source or {}).values()),
            verdict=told,
            notes=notes,
            baseline=BASELINE,
            summaries=summarize(data.arms, baseline=BASELINE),
            tables=[
                ("Other measures", "Measure", means(data.arms, lambda arm: arm.others)),
                ("Held-out loss by source", "Source", _losses_by_source(data)),
            ],
            clusters=_cluster_rows(data),
            findings=findings(data),
            examples=shown,
            n_shown=n_shown,
            n_offered=n_offered,
            max_text_chars=MAX_TEXT_CHARS,
            max_tokens=MAX_TOKENS,
            longest=max((t.seconds or 0 for t in data.timings), default=0) or 1,
            figures={name: Markup(getattr(figures, name)(data)) for name in FIGURES},
        )
    )
    return printable(page)


def _losses_by_source(data: ReportData) -> dict[str, list[tuple[float | None, float | None]]]:
    """Return source -> mean and standard error of each selector, in the order of `summarize`."""
    found = means(data.arms, lambda arm: arm.loss_by_source)
    return {source: found[source] for source in evaluated_sources(data)}


def _cluster_rows(data: ReportData) -> list[dict[str, Any]]:
    """Return a row per cluster, lowest mean loss first: id, size, chosen, first and last loss."""
    if data.cluster_sizes is None:
        return []
    K = len(data.cluster_sizes)
    chosen = [None] * K if data.cluster_chosen is None else [int(n) for n in data.cluster_chosen]
    rows = []
    for k in range(K):
        center_T = [] if data.centers_KT is None else [float(x) for x in data.centers_KT[k]]
        row: dict[str, Any] = {"id": k, "size": int(data.cluster_sizes[k]), "chosen": chosen[k]}
        row["first"], row["last"] = (center_T[0], center_T[-1]) if center_T else (None, None)
        row["level"] = sum(center_T) / len(center_T) if center_T else 0.0
        rows.append(row)
    return sorted(rows, key=lambda row: row["level"])


def _examples_to_show(
    clusters: Sequence[Sequence[Example]],
) -> tuple[dict[int, list[Example]], int, int]:
    """Cut texts; take the first example of every cluster, then the second, … while they fit.

    Returns cluster id -> examples, the number of examples shown, the number offered.
    """
    from markupsafe import escape

    shown: dict[int, list[Example]] = {}
    room = MAX_EXAMPLES_BYTES
    for rank in range(max(map(len, clusters), default=0)):
        for k, members in enumerate(clusters):
            if rank >= len(members):
                continue
            prompt, response = (_cut(t) for t in (members[rank].prompt, members[rank].response))
            room -= len(escape(prompt + response).encode())
            if room < 0:
                break
            cut = members[rank]._replace(prompt=prompt, response=response)
            shown.setdefault(k, []).append(cut)
    return dict(sorted(shown.items())), sum(map(len, shown.values())), sum(map(len, clusters))


def _cut(text: str) -> str:
    """Return the first `MAX_TEXT_CHARS` characters, and how many more there are."""
    missing = len(text) - MAX_TEXT_CHARS
    text = printable(text[:MAX_TEXT_CHARS])
    return f"{text}… [{missing:,} more characters]" if missing > 0 else text
