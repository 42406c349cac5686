"""A run directory: parts, manifests, atomic commits, the lease. Local and S3; no Ray."""

from s2l_ray.store.manifest import Manifest, Part
from s2l_ray.store.store import Store

__all__ = ["Manifest", "Part", "Store"]
