"""S2L over what is learned: the falls of the loss."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class PruneThenCluster(Cluster):
    rule = "examples whose loss does not fall are dropped, the falls of the others clustered"
    source = "our variant of S2L"
    groups = "clusters_of_falls"
