"""What a command says at its end: the time it took, what may follow, and how to continue."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from s2l_ray.commands import COMMANDS, Command
from s2l_ray.execution.job import in_job
from s2l_ray.formatting import duration

if TYPE_CHECKING:
    from s2l_ray.config import RunConfig

logger = logging.getLogger(__name__)

RUNNING = ("run", "evaluate", "examples", "pilot")  # what a command takes that makes stages


def help_of(command: Command) -> str:
    return inspect.getdoc(command.work) or ""


def summary(command: Command) -> str:
    return help_of(command).splitlines()[0]


def lack_of(command: Command, config: RunConfig) -> str | None:
    """Say what a configuration lacks for a command."""
    if command.needs_target and config.target is None:
        return "target: missing; this command fine-tunes the target"
    if command.needs_heldout and not config.has_heldout:
        return (
            "corpus.heldout_share: found 0, and evaluation.files is empty; set one of them: this "
            "command evaluates on held-out examples"
        )
    return None


def say_next(arguments: argparse.Namespace, config: RunConfig, seconds: float) -> None:
    """Log the time taken, and the commands that may follow."""
    logger.info(f"finished in {duration(seconds)}")
    for name in arguments.command.then:
        command = COMMANDS[name]
        if not lack_of(command, config) and (config.trains_proxy or name != "diagnose"):
            given = shlex.join([arguments.config, *arguments.overrides])
            logger.info(f"next: {_program(command, arguments)} {given}  # {summary(command)}")


def stopped(arguments: argparse.Namespace) -> str:
    """Return the last line of a command that a signal has stopped."""
    if arguments.command.takes not in RUNNING:
        return "stopped"
    # As it was typed; `main` has the command's name among its arguments.
    program = _program(arguments.command, arguments).removesuffix(f" {arguments.command.name}")
    return f"stopped; to continue, run: {program} {shlex.join(arguments.given)}"


def python() -> str:
    """Return this Python as one would type it: it need not be the one that `python` starts."""
    if in_job() or shutil.which("python") == sys.executable:
        return "python"
    relative = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if relative.startswith("..") else relative)


def _program(command: Command, arguments: argparse.Namespace) -> str:
    text = arguments.program.replace("JOB.py", command.name.replace("-", "_") + ".py")
    text = text.replace("COMMAND", command.name)
    return f"ray job submit --working-dir . -- {text}" if in_job() else text
