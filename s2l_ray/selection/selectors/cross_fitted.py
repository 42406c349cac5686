"""S2L over what generalises: losses by a proxy that has not seen the example."""

from __future__ import annotations

from s2l_ray.selection.kinds import Cluster


class CrossFitted(Cluster):
    rule = (
        "each example scored by a proxy that was trained on the other half of the corpus; examples "
        "whose loss does not fall are dropped, the others clustered as by s2l"
    )
    source = "our variant of S2L"
    groups = "clusters_of_learned"
