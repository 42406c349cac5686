"""Where the examples of a purpose lie among the clusters, and what they change, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2l_ray.formatting import percent, plural
from s2l_ray.selection.quotas import even
from s2l_ray.store.views import SelectionView

MOST = 0.9  # of the purpose's examples


def purpose_told(selection: SelectionView, sizes: Sequence[int]) -> list[str]:
    """Return sentences on a selection with the selector toward; none for another.

    sizes: of the clusters.
    """
    if selection.toward is None or selection.by_cluster is None:
        return []
    counts_K, chosen_K = np.array(selection.toward["by_cluster"]), np.array(selection.by_cluster)
    sizes_K = np.array(sizes)
    spread_K = even(sizes_K, selection.examples)
    falling = np.argsort(-counts_K, kind="stable")
    reached = np.searchsorted(counts_K[falling].cumsum(), MOST * counts_K.sum())
    theirs = falling[: int(reached) + 1]
    return [
        f"At least {MOST:.0%} of the {plural(int(counts_K.sum()), 'example')} of the purpose lie "
        f"in {len(theirs):,} of {plural(len(counts_K), 'cluster')}, which hold "
        f"{percent(int(sizes_K[theirs].sum()), int(sizes_K.sum()))} of the corpus.",
        f"With selection.toward_share {selection.toward['share']:g} they give "
        f"{int(chosen_K[theirs].sum()):,} of the {selection.examples:,} chosen examples; even "
        f"quotas would give {int(spread_K[theirs].sum()):,}.",
    ]
