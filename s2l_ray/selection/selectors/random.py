"""The baseline that every method must beat."""

from __future__ import annotations

from s2l_ray.selection.kinds import Draw


class Random(Draw):
    rule = "uniform over all examples"
