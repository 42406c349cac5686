"""S2L as the paper describes it."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class S2L(Cluster):
    rule = "the budget spread evenly over k-means clusters of the trajectories"
    source = "Yang et al. 2024, arXiv 2403.07384, Algorithm 1"
