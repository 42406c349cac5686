"""The report of a run: plain numbers in, one self-contained HTML page out.

    html = render(ReportData(title="demo", run_dir="runs/demo", ...))

`render` reads no file of the run and needs no network, nor does the page: the figures are inline
SVG, the style is inline CSS, there is no script. Corpus text, names of sources and paths are
untrusted: the template escapes everything, the figures never parse their labels as math.

Shape suffixes: N examples, T checkpoints, K clusters, H bins of a histogram, P points of a curve.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.config import BASELINE
from s2l_ray.formatting import MISSING, duration, percent, signed
from s2l_ray.report.findings import diagnostics, means, summarize, verdict

if TYPE_CHECKING:
    pass
from s2l_ray.report.data import Arm, Curve, Example, Rejection, ReportData, Stage, evaluated_sources

__all__ = ["Arm", "Curve", "Example", "Rejection", "ReportData", "Stage", "render", "verdict"]


MAX_TEXT_CHARS = 600  # of one prompt or response


MAX_EXAMPLES_BYTES = 3_000_000  # of all prompts and responses together, escaped, in UTF-8


def render(data: ReportData) -> str:
    """The page as HTML text (write it as UTF-8). Raises ValueError if two arms share a seed."""
    from markupsafe import Markup

    from s2l_ray.report import figures

    names: tuple[str, ...] = (
        "comparison",
        "differences_by_source",
        "sources",
        "clusters",
        "lengths",
        "losses",
    )
    names += ("training", "targets")
    shown, n_shown, n_offered = _examples_to_show(data.examples)
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            n_corpus=sum(data.corpus_by_source.values()),
            n_subset=sum((data.subset_by_source or {}).values()),
            verdict=verdict(data.arms, main=data.selector, baseline=BASELINE) if data.arms else "",
            baseline=BASELINE,
            summaries=summarize(data.arms, baseline=BASELINE),
            tables=[
                ("Other measures", "Measure", means(data.arms, lambda arm: arm.others)),
                ("Held-out loss by source", "Source", _losses_by_source(data)),
            ],
            clusters=_cluster_rows(data),
            diagnostics=diagnostics(data),
            examples=shown,
            n_shown=n_shown,
            n_offered=n_offered,
            max_text_chars=MAX_TEXT_CHARS,
            longest_stage=max((s.seconds or 0 for s in data.stages), default=0) or 1,
            figures={name: Markup(getattr(figures, name)(data)) for name in names},
        )
    )
    return printable(page)


def environment() -> Any:
    """Of the templates: everything is escaped, and a name that is not there is an error."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        count=lambda n: f"{n:,}",
        sentence=lambda words: words[:1].upper() + words[1:],
        share=percent,
        number=_number,
        signed=lambda value: MISSING if value is None else signed(value),
        seconds=lambda value: MISSING if value is None else duration(value),
        scientific=_scientific,
    )
    return found


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """`text` with what HTML or UTF-8 cannot hold (controls, lone surrogates) made U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _losses_by_source(data: ReportData) -> dict[str, list[tuple[float | None, float | None]]]:
    """source -> for each selector, in the order of `summarize`, mean and standard error."""
    found = means(data.arms, lambda arm: arm.loss_by_source)
    return {source: found[source] for source in evaluated_sources(data)}


def _cluster_rows(data: ReportData) -> list[dict[str, Any]]:
    """One row per cluster (id, size, chosen, first and last mean loss), lowest mean loss first."""
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
    """Cut texts, then take the first example of every cluster, the second, ... while they fit.

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
    """The first `MAX_TEXT_CHARS` characters, and how many are missing."""
    missing = len(text) - MAX_TEXT_CHARS
    text = printable(text[:MAX_TEXT_CHARS])
    return f"{text}… [{missing:,} more characters]" if missing > 0 else text


def _number(value: float | None, digits: int = 4) -> str:
    """Fixed digits, for losses; "–" for None, "not finite" for NaN and infinities."""
    if value is None:
        return MISSING
    return f"{value:.{digits}f}" if abs(value) < float("inf") else "not finite"


def _scientific(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2e}"
