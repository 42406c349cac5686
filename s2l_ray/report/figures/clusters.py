"""Clusters as small multiples: a card for each, with its loss curve. T checkpoints, K clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s2l_ray.formatting import measured, share
from s2l_ray.report.data import Example, Piece, ReportData
from s2l_ray.report.figures.parts import curve
from s2l_ray.report.figures.scale import Scale, linear
from s2l_ray.report.html import MAX_CHARS, cut

MAX_BYTES = 1_000_000  # of all texts of examples, escaped, in UTF-8
MAX_CARDS = 24  # shown at first; the other clusters are in the table
MOST, NEARLY_ALL = 0.5, 0.9  # shares of the variance that the level explains


class Card(NamedTuple):
    """A cluster. `path` is its loss curve, "" if its center is not a curve of losses."""

    id: int
    size: int
    chosen: int | None
    first: float | None  # loss
    last: float | None
    path: str
    examples: Sequence[Example]


class Cards(NamedTuple):
    title: str  # the finding
    caption: str
    median: str  # path of the median over all examples, "" if there are no curves
    cards: list[Card]  # lowest mean loss first, or largest first
    n_clusters: int


def cards(data: ReportData) -> Cards | None:
    """Return the clusters to show: evenly spaced among all, ordered by mean loss."""
    if data.cluster_sizes is None or not len(data.cluster_sizes):
        return None
    K = len(data.cluster_sizes)
    places = np.unique(np.linspace(0, K - 1, min(K, MAX_CARDS)).round().astype(int))
    order_K = order(data)
    shown = [order_K[place] for place in places]
    examples = _examples_to_show(data, shown)
    centers_KT = None if data.centers_KT is None else np.asarray(data.centers_KT, float)
    scale, paths, median = "", dict.fromkeys(shown, ""), ""
    if centers_KT is not None:
        T = centers_KT.shape[1]
        steps = np.arange(T) if data.steps is None else np.asarray(data.steps, float)
        x = Scale(steps[0], max(steps[-1], steps[0] + 1), [])
        y = _loss_axis(centers_KT[np.isfinite(centers_KT)])
        kind = "logarithmic scale" if y.log else "scale"
        scale = f"{kind} from {measured(y.low)} to {measured(y.high)}"
        paths = {k: curve(x, y, zip(steps, centers_KT[k], strict=True)) for k in shown}
        if data.loss_quantiles_5T is not None:
            median = curve(x, y, zip(steps, data.loss_quantiles_5T[2], strict=True))
    found = [
        Card(
            id=k,
            size=int(data.cluster_sizes[k]),
            chosen=None if data.cluster_chosen is None else int(data.cluster_chosen[k]),
            first=None if centers_KT is None else float(centers_KT[k, 0]),
            last=None if centers_KT is None else float(centers_KT[k, -1]),
            path=paths[k],
            examples=examples[k],
        )
        for k in shown
    ]
    caption = (
        f"Mean loss over the proxy’s checkpoints, all on one {scale}; grey: median of all examples."
    )
    if centers_KT is None:
        caption = "The largest clusters first."
    if len(found) < K:
        way = "large to small" if centers_KT is None else "low to high loss"
        caption += f" {len(found):,} of {K:,} clusters, evenly spaced from {way}."
    return Cards(_title(data, centers_KT), caption, median, found, K)


def _loss_axis(losses: np.ndarray) -> Scale:
    """Return an axis that ends at the extreme losses; logarithmic if all are positive."""
    low, high = float(losses.min(initial=np.inf)), float(losses.max(initial=-np.inf))
    if not low < high:
        return linear([low])
    return Scale(low, high, [], log=low > 0)


def order(data: ReportData) -> list[int]:
    """Return the cluster ids, lowest mean loss first; without curves the largest first."""
    assert data.cluster_sizes is not None
    keys = -np.asarray(data.cluster_sizes, float)
    if data.centers_KT is not None:
        keys = np.nan_to_num(np.asarray(data.centers_KT, float), posinf=1e9).mean(axis=1)
    return [int(k) for k in np.argsort(keys, kind="stable")]


def _title(data: ReportData, centers_KT: np.ndarray | None) -> str:
    K = 0 if data.cluster_sizes is None else len(data.cluster_sizes)
    level = data.explained_variance_level
    if centers_KT is None or level is None:
        return f"The examples fall into {K:,} clusters"
    if level >= MOST:
        shape = "hardly in its shape" if level >= NEARLY_ALL else "less in its shape"
        return f"Clusters differ in the level of the loss ({share(level)} of the variance), {shape}"
    last = centers_KT[:, -1][np.isfinite(centers_KT[:, -1])]
    ends = (
        f", ending between {measured(last.min())} and {measured(last.max())}" if len(last) else ""
    )
    return f"Clusters differ in the shape of their loss curves{ends}"


def _examples_to_show(data: ReportData, clusters: Sequence[int]) -> dict[int, list[Example]]:
    """Cut texts; take the first example of every cluster, then the second, … while they fit."""
    from markupsafe import escape

    shown: dict[int, list[Example]] = {k: [] for k in clusters}
    offered = {k: data.examples[k] if k < len(data.examples) else () for k in clusters}
    room = MAX_BYTES
    for rank in range(max(map(len, offered.values()), default=0)):
        for k, members in offered.items():
            if rank >= len(members):
                continue
            pieces = cut_pieces(members[rank].pieces)
            room -= sum(len(escape(piece.text).encode()) for piece in pieces)
            if room < 0:
                return shown
            shown[k].append(members[rank]._replace(pieces=pieces))
    return shown


def cut_pieces(pieces: Sequence[Piece]) -> list[Piece]:
    """Cut an example to MAX_CHARS characters of its prompt and as many of its labels."""
    room, found = {True: MAX_CHARS, False: MAX_CHARS}, []
    for text, is_label in pieces:
        if room[is_label] > 0:
            found.append(Piece(cut(text, room[is_label]), is_label))
        room[is_label] -= len(text)
    return found
