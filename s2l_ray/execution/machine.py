"""The hardware and the package versions of a run."""

from __future__ import annotations

import platform
import resource
from functools import cache
from importlib.metadata import version

import ray

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "scikit-learn", "pyarrow", "numpy")


@cache  # looking them up takes 20 ms
def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def hardware() -> str:
    """Describe the cluster's resources and the driver's architecture in one line; "" before the
    driver has connected."""
    if not ray.is_initialized():
        return ""
    have = ray.cluster_resources()
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    gpus = f", {have['GPU']:.0f} GPUs" if have.get("GPU") else ""
    memory = have.get("memory", 0) / 2**30
    return (
        f"{nodes} node{'s' if nodes > 1 else ''}, {have.get('CPU', 0):.0f} CPUs{gpus}, "
        f"{memory:.0f} GiB for Ray ({platform.machine()})"
    )


def peak_memory() -> float:
    """Return the largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if platform.system() == "Darwin" else 1024)
