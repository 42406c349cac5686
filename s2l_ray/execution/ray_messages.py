"""What Ray's raylets tell the driver, such as that workers were killed for their memory.

Ray 2.60 prints it to stdout, which is for results, and has no setting for it.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import ray._private.worker

logger = logging.getLogger(__name__)

# Of no use to a user: a node with few CPUs has more worker processes than Ray expects; Ray Train's
# own actor may not be restarted.
USUAL = re.compile(
    r"worker processes have been started on node|has constructor arguments in the object store"
)


def log_instead() -> None:
    """Log these messages as warnings from now on, but the usual ones."""
    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = _log


def _log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    for line in data["lines"]:
        if not USUAL.search(line):
            logger.warning(f"Ray: {line.strip()}")
