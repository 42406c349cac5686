"""The middle of EL2N."""

from __future__ import annotations

from s2l_ray.selection.selectors.el2n import EL2N


class EL2NMiddle(EL2N):
    rule = "nearest to the median EL2N at the first checkpoint"
    source = "Marion et al. 2023, arXiv 2309.04564"
    order = "middle"
