"""S2L without trajectories: clusters of the mean loss."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class LossKMeans(Cluster):
    """Tells what the course of the loss adds to its level: k-means on one number per example."""

    rule = "the budget spread evenly over k-means clusters of the mean loss: S2L without the course"
    groups = "clusters_of_means"
    control_for, control_words = "s2l", "clusters of the mean loss instead of trajectories"
