"""Judge extracted answers in a process of their own."""

from __future__ import annotations

import ray

from s2l_ray.evaluation.answers import is_right


@ray.remote(num_cpus=0)
def judge(found: list[str | None], expected: list[str]) -> list[bool]:
    """Return which extracted answers are right; None is not.

    math-verify needs the main thread of a process for its time limits. A Ray task runs there; the
    work of an actor does not.
    """
    return [
        mine is not None and is_right(mine, theirs)
        for mine, theirs in zip(found, expected, strict=True)
    ]
