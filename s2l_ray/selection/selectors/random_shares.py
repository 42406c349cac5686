"""The source shares of another selection, uniform within each source."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Draw


class RandomShares(Draw):
    """Tells what a method's mix of sources is worth without its trajectories."""

    rule = (
        "uniform within each source, with the source shares of another selection (selection.like)"
    )
    groups = "sources"
    like = "shares"
    control_for, control_words = "like", "random examples, the same shares of sources"

    def quotas(self, sizes, sources, budget, like=None):
        known = {} if like is None else like
        weights = [known.get(source, 0) for source in sources] if known else sizes
        return quotas.in_shares(sizes, budget, np.asarray(weights, np.float64))
