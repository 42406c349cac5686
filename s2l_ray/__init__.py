"""S2L data selection for LLM fine-tuning, at cluster scale, on Ray.

`select` and `KMeans` are the two things most programs need; the stages live in the modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2l_ray.clustering.kmeans import KMeans
    from s2l_ray.pipeline.subset import Selection, select

__all__ = ["KMeans", "Selection", "select"]
__version__ = "0.1.0"

_HOME = {
    "KMeans": "s2l_ray.clustering.kmeans",
    "Selection": "s2l_ray.pipeline.subset",
    "select": "s2l_ray.pipeline.subset",
}


def __getattr__(name: str) -> Any:
    # Ray and torch are imported on first use: a faulty configuration is refused without them.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 's2l_ray' has no attribute {name!r}")
