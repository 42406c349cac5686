"""S2L's rule on clusters made as the official code makes them."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class S2LOfficialClusters(Cluster):
    """Tells what k-means++ and its lower inertia change; in all else it is s2l."""

    rule = "s2l on clusters of few examples, from random centers, as the official code makes them"
    source = "the clustering of github.com/BigML-CS-UCLA/S2L"
    init = "official"
