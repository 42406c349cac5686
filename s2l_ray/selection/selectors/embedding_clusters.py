"""S2L's rule with embeddings instead of trajectories."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class EmbeddingClusters(Cluster):
    """Tells what trajectories are worth compared with features."""

    rule = "as s2l, on the mean last hidden states at the last checkpoint"
    groups = "clusters_of_features"
    details = {"final": ("features",)}
