"""S2L as the official code does it."""

from __future__ import annotations

from s2l_ray.selection import quotas
from s2l_ray.selection.kinds import Cluster


class S2LOfficial(Cluster):
    rule = "equal budgets per source, then per k-means cluster within each source"
    source = "github.com/BigML-CS-UCLA/S2L, schedules/s2l.py"
    groups = "clusters_by_source"
    init = "official"

    def quotas(self, sizes, sources, budget, like=None):
        return quotas.by_source_then_cluster(sizes, sources, budget)
