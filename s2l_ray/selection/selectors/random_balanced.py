"""Equal shares per source, uniform within each."""

from __future__ import annotations

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Draw


class RandomBalanced(Draw):
    """Tells what a method's balance over sources is worth. A source smaller than its share gives
    all it has."""

    rule = "uniform within each source, equal shares per source"
    groups = "sources"

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.even(sizes, budget)
