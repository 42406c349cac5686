"""The winner of a race between other selectors."""

from __future__ import annotations

from s2l_ray.selection.kinds import Winner


class Race(Winner):
    rule = (
        "small models are trained on the subset of each of several selectors "
        "(selection.race.candidates) and evaluated on held-out examples; the subset of the winner "
        "is taken, that of random if none is better beyond noise"
    )
    source = "our own"
