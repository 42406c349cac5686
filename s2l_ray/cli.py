"""What the commands in jobs/ share: configuration, overrides, errors without a traceback."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from s2l_ray.config import RunConfig, load
from s2l_ray.errors import ConfigError


def main(
    description: str,
    work: Callable[[RunConfig], None],
    *,
    needs_target: bool = False,
    needs_heldout: bool = False,
) -> None:
    """Parse `CONFIG.yaml [key.path=value …]`, refuse what is wrong with it, then do the work.

    Exit status 2: the configuration; 1: what the run met (the message says what, and where).
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config, arguments.overrides)
        if needs_target and config.target is None:
            raise ConfigError(f"{arguments.config}: target: missing, this command fine-tunes one")
        if needs_heldout and not (config.corpus.heldout_share or config.evaluation.files):
            raise ConfigError(
                f"{arguments.config}: corpus.heldout_share: 0, and no evaluation.files: nothing "
                f"to evaluate on"
            )
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("[run] %(message)s"))
    logging.getLogger("s2l_ray").addHandler(lines)
    logging.getLogger("s2l_ray").setLevel(logging.INFO)
    try:
        work(config)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    # What a user can mend; anything else is a bug and keeps its trace.
    except (ValueError, OSError) as error:
        # Ray gives an error of a task the task's whole trace; the error itself is its cause.
        print(f"error: {getattr(error, 'cause', None) or error}", file=sys.stderr)
        sys.exit(1)
