"""Cross-fitted S2L that drops whole clusters."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class CrossFittedByCluster(Cluster):
    rule = (
        "each example scored by a proxy that was trained on the other half of the corpus, and "
        "clustered as by s2l; clusters whose mean loss falls by less than a tenth are left out"
    )
    source = "our variant of S2L"
    groups = "clusters_out_of_fold"
    least_fall = 0.1
