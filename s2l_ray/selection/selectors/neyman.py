"""S2L with the budget where gradients are large, and weights that undo it in training."""

from __future__ import annotations

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Cluster


class Neyman(Cluster):
    """q_k proportional to |C_k| sigma_k, at least 1 and at most |C_k|; weights |C_k| / q_k.

    With the variances of the gradients within clusters as sigma_k^2, this allocation gives the
    weighted mean gradient of the subset the least expected squared distance from the corpus's.
    sigma_k is sqrt(mean of |g|^2) here, where |g| is the norm of the gradient of the output head
    at the first checkpoint: an upper bound of sqrt(mean of |g|^2 - |mean of g|^2), and close to it
    unless the gradients of a cluster point in one direction. |mean of g|^2 would need the gradients
    themselves. The standard deviation of |g| is a lower bound, but 0 for gradients of one length in
    all directions, which vary most.
    """

    rule = (
        "from each k-means cluster of the trajectories in proportion to its size times the root "
        "mean square of its gradients' norms at the first checkpoint; training weights undo it"
    )
    source = "Neyman 1934, doi:10.2307/2342192; our variant of S2L"
    details = {"early": ("grad_norm",)}
    spread = "grad_norm"

    def quotas(self, sizes, sources, budget, like=None, spread_G=None):
        """spread_G: root mean squares of gradients' norms by cluster; None: all alike."""
        return quotas.neyman(sizes, budget, sizes if spread_G is None else sizes * spread_G)
