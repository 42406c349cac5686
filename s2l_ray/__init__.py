"""S2L data selection for LLM fine-tuning, at cluster scale, on Ray.

`load` a configuration, `connect` to Ray, `select`: docs/library.md. The stages are in the folders.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2l_ray.clustering.kmeans import KMeans
    from s2l_ray.config import load
    from s2l_ray.execution.connect import connect
    from s2l_ray.pipeline.selection import Selection
    from s2l_ray.pipeline.subset import select
    from s2l_ray.selection.order import rank

__all__ = ["KMeans", "Selection", "connect", "load", "rank", "select"]
__version__ = "0.1.0"

_HOME = {
    "KMeans": "s2l_ray.clustering.kmeans",
    "Selection": "s2l_ray.pipeline.selection",
    "connect": "s2l_ray.execution.connect",
    "load": "s2l_ray.config",
    "rank": "s2l_ray.selection.order",
    "select": "s2l_ray.pipeline.subset",
}


def __getattr__(name: str) -> Any:
    # On first use, so that `--help` and the refusal of a faulty configuration need no Ray or torch.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 's2l_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
