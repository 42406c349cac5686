"""The report of a run: plain numbers in, one self-contained HTML page out.

    html = render(ReportData(title="demo", run_dir="runs/demo", ...))

`render` reads no file of the run and needs no network, nor does the page: the figures are inline
SVG, the style is inline CSS, there is no script. Corpus text, names of sources and paths are
untrusted: the template escapes everything, the figures never parse their labels as math.

Shape suffixes: N examples, T checkpoints, K clusters, H bins of a histogram, P points of a curve.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s2l_ray.config import BASELINE
from s2l_ray.report.comparison import signed
from s2l_ray.report.findings import diagnostics, means, summarize, verdict
from s2l_ray.report.statistics import Seeds

if TYPE_CHECKING:
    from s2l_ray.cost import Cost

__all__ = ["Arm", "Curve", "Example", "Rejection", "ReportData", "Stage", "render", "verdict"]

MAX_TEXT_CHARS = 600  # of one prompt or response
MAX_EXAMPLES_BYTES = 3_000_000  # of all prompts and responses together, escaped, in UTF-8


class Arm(NamedTuple):
    """One target: trained on one selection with one seed, then evaluated.

    Losses are held-out, mean cross-entropy in nats per label token; lower is better.
    """

    selector: str
    seed: int
    n_examples: int
    n_steps: int
    loss: float
    loss_by_source: Mapping[str, float]
    n_tokens: int  # of the selection
    error_over_examples: float | None  # of the loss less the baseline's, were others held out
    others: Mapping[str, float]  # what else was measured, by its name in words

    @property
    def seeds(self) -> Seeds:
        """One seed stands for the selection and the training alike."""
        return self.seed, self.seed


class Curve(NamedTuple):
    """Training loss (nats per label token) of one model: `steps` [P] and `losses` [P].

    `name` is "proxy" for the proxy, else the selector of the target; `seed` may be None.
    """

    name: str
    seed: int | None
    steps: Sequence[float]
    losses: Sequence[float]


class Example(NamedTuple):
    """One example to show; losses (nats per label token) at the first and the last checkpoint."""

    source: str
    loss_first: float
    loss_last: float
    prompt: str
    response: str
    chosen: bool


class Rejection(NamedTuple):
    """Rows set aside for one reason, with one place ("file:row") to look at."""

    reason: str
    n_rows: int
    place: str = ""


class Stage(NamedTuple):
    """One stage; `seconds` is wall clock of when it ran, None if that is not known."""

    name: str
    seconds: float | None
    throughput: str = ""
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the page shows. What is None or empty is left out of the page.

    Arrays may be lists or numpy arrays. Losses are in nats per label token.
    """

    title: str  # name of the configuration
    run_dir: str
    created: str  # date and time, as it is to be shown
    selector: str  # the selector whose subset this run is about
    budget: str  # as asked for: "1,100 examples", "11% of the corpus", "2M tokens"
    seed: int
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    hardware: str = ""
    settings_yaml: str = ""  # the resolved configuration

    corpus_by_source: Mapping[str, int]  # source -> examples offered to the selector
    n_duplicates: int = 0  # exact ones
    duplicates_kept: bool = False
    n_rejected: int = 0  # rows set aside
    rejections: Sequence[Rejection] = ()
    n_held_out: int = 0  # examples kept for evaluation, not in corpus_by_source
    n_unlabelled: int = 0  # examples without a label token after truncation
    n_truncated: int = 0

    subset_by_source: Mapping[str, int] | None = None  # source -> chosen examples

    length_edges: Sequence[float] | None = None  # [H + 1], tokens
    length_corpus: Sequence[int] | None = None  # [H], examples
    length_subset: Sequence[int] | None = None  # [H], examples

    curves: Sequence[Curve] = ()

    steps: Sequence[int] | None = None  # [T], optimizer steps of the proxy's checkpoints
    n_left_out: int = 0  # checkpoints not scored, since the clusters had stopped changing
    agreement: float | None = None  # then: adjusted Rand index of the last two prefixes
    centers_KT: Sequence[Sequence[float]] | None = None  # [K, T], mean loss of each cluster
    cluster_sizes: Sequence[int] | None = None  # [K], examples
    cluster_chosen: Sequence[int] | None = None  # [K], chosen examples
    loss_quantiles_5T: Sequence[Sequence[float]] | None = None  # [5, T]: 5, 25, 50, 75, 95%
    explained_variance_level: float | None = None  # share 0..1, first principal component
    inertia: float | None = None  # k-means: sum of squared distances
    n_iter: int | None = None  # k-means: iterations
    share_above_quota: float | None = None  # share 0..1 of clusters larger than their quota
    adjusted_rand: float | None = None  # this partition against one with another seed

    examples: Sequence[Sequence[Example]] = ()  # [K] lists, position = cluster id

    arms: Sequence[Arm] = ()
    left_out: Sequence[str] = ()  # sentences: what is not evaluated on, or not compared, and why

    stages: Sequence[Stage] = ()
    peak_memory_bytes: int | None = None  # of the driver
    cost: Cost | None = None  # of the selection, and what its subset spares


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
        share=_share,
        number=_number,
        signed=_signed,
        seconds=_seconds,
        flops=_flops,
    )
    return found


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """`text` with what HTML or UTF-8 cannot hold (controls, lone surrogates) made U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def evaluated_sources(data: ReportData) -> list[str]:
    """Sources with a held-out loss, the largest in the corpus first."""
    found = {source for arm in data.arms for source in arm.loss_by_source}
    return sorted(found, key=lambda source: (-data.corpus_by_source.get(source, 0), source))


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


def _share(part: float, whole: float = 1) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _number(value: float | None, digits: int = 4) -> str:
    """Fixed digits, for losses; "–" for None, "not finite" for NaN and infinities."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if abs(value) < float("inf") else "not finite"


def _signed(value: float | None) -> str:
    return "–" if value is None else signed(value)


def _flops(value: float | None) -> str:
    return "–" if value is None else f"{value:.2e}"


def _seconds(value: float | None) -> str:
    """A duration as people read it: "0.8 s", "45 s", "12 min 05 s", "3 h 20 min"."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"
