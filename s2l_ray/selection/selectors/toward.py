"""S2L toward a purpose: more from the clusters in which the purpose's examples lie."""

from __future__ import annotations

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Cluster


class Toward(Cluster):
    rule = (
        "as s2l, with part of the budget (selection.toward_share) divided among the clusters as "
        "examples of the purpose (selection.toward) are"
    )
    source = "our variant of S2L"
    toward = "shares"

    def quotas(self, sizes, sources, budget, like=None, counts_G=None, share=0.0):
        """counts_G: examples of the purpose in each cluster; None: the quotas of s2l. share:
        selection.toward_share."""
        if counts_G is None:
            return quotas.even(sizes, budget)
        return quotas.toward(sizes, budget, counts_G, share)
