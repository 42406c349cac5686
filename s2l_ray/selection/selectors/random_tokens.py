"""As many tokens as another selection, uniform."""

from __future__ import annotations

from s2l_ray.selection.kinds import Draw


class RandomTokens(Draw):
    """Tells whether a method gains by choosing longer or shorter examples."""

    rule = "uniform, with as many tokens as another selection (selection.like)"
    like = "tokens"
    control_for, control_words = "like", "random examples, as many tokens"
