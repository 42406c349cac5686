"""Whether this process is the driver of a submitted Ray job. Does not import Ray."""

from __future__ import annotations

import os

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets a variable of this name for a submitted job


def in_job() -> bool:
    """Return whether this process is the driver of a submitted Ray job."""
    return JOB_CONFIG in os.environ
