"""The `s2l-ray` command, also `python -m s2l_ray.cli`. jobs/ run the same commands.

Exit status: 0; 1 if the run failed (stderr says what and where); 2 for a faulty configuration or
command line; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from s2l_ray import __version__
from s2l_ray.commands import COMMANDS, Command
from s2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from s2l_ray.config import RunConfig

DESCRIPTION = """\
Select the part of a fine-tuning corpus that is worth training on, and measure
whether it was.

One YAML file describes a run, and its run_dir holds all that the run makes.
Repeat a command to continue it: finished stages are reused.
"""
GROUPS = {"config": "Show a resolved configuration, or the schema of configurations."}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `s2l-ray COMMAND …`."""
    parser = argparse.ArgumentParser(
        prog="s2l-ray",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    groups = {"": parser.add_subparsers(title="commands", metavar="COMMAND", required=True)}
    for command in COMMANDS.values():
        group, _, name = command.name.rpartition(" ")
        if group not in groups:
            inner = groups[""].add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = inner.add_subparsers(metavar="COMMAND", required=True)
        summary = _help_of(command).splitlines()[0]
        _fill(groups[group].add_parser(name, help=summary), command)
    found, more = parser.parse_known_args(arguments)
    if more and (any(text.startswith("-") for text in more) or "overrides" not in found):
        found.parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # overrides that follow an option
        found.overrides += more
    _run(found)


def job(name: str) -> None:
    """Run jobs/NAME.py."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"python jobs/{name.replace('-', '_')}.py")
    _fill(parser, command)
    _run(parser.parse_args())


def _help_of(command: Command) -> str:
    return inspect.getdoc(command.work) or ""


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.description = _help_of(command)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    if command.takes == "path":
        parser.usage = "%(prog)s PATH.jsonl"
        parser.add_argument("paths", nargs="*", metavar="PATH.jsonl", help="the file to write")
    if command.takes in ("run", "plan", "settings", "examples"):
        parser.add_argument("config", metavar="CONFIG.yaml", help="the configuration of the run")
        parser.add_argument(
            "overrides", nargs="*", metavar="key.path=value",
            help="replace one value of it, for example seed=7; the value is YAML",
        )  # fmt: skip
    if command.takes == "examples":
        parser.add_argument(
            "-n",
            type=int,
            default=3,
            choices=range(1, 1001),
            metavar="N",
            help="the number of examples, 3 unless given",
        )
    if command.takes == "plan":
        parser.add_argument(
            "--gpu-memory",
            type=_bytes,
            metavar="80GB",
            help="memory of each GPU; default: by accelerator_type",
        )
        parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.set_defaults(command=command, parser=parser)


def _bytes(text: str) -> float:
    """Read such as "80GB" or "79.6 GiB"."""
    known = re.fullmatch(r"([\d.]+)\s*(GB|GiB|MB|MiB)", text.strip())
    units = {"GB": 1e9, "GiB": 2**30, "MB": 1e6, "MiB": 2**20}
    try:
        size = float(known[1]) * units[known[2]] if known else 0.0
    except ValueError:
        size = 0.0
    if not size:
        raise argparse.ArgumentTypeError(f"expected a size such as 80GB, got {text!r}")
    return size


def _run(arguments: argparse.Namespace) -> None:
    command: Command = arguments.command
    try:
        given = _given(command, arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    try:
        if command.takes in ("run", "examples"):
            from s2l_ray.pipeline import preflight

            preflight.check(
                given[0],
                targets=command.needs_target,
                heldout=command.needs_heldout,
                diagnosis=command.name == "diagnose",
            )
        command.work(*given)
    except KeyboardInterrupt:
        print("stopped; run the same command to continue", file=sys.stderr)
        sys.exit(130)
    # What a user can fix. Anything else is a bug and keeps its trace.
    except (ValueError, OSError) as error:
        # Ray gives an error of a task the task's whole trace; the error itself is its cause.
        print(f"error: {getattr(error, 'cause', None) or error}", file=sys.stderr)
        sys.exit(1)


def _given(command: Command, arguments: argparse.Namespace) -> tuple[Any, ...]:
    """What the command's function takes. ConfigError for a faulty configuration."""
    if command.takes == "nothing":
        return ()
    if command.takes == "path":
        if len(arguments.paths) != 1:
            sys.exit(arguments.parser.format_usage().strip())
        return (arguments.paths[0],)

    from s2l_ray.config import load, resolve
    from s2l_ray.execution.progress import LogHandler

    config = load(arguments.config, arguments.overrides)
    if command.takes == "settings":
        return config, resolve(arguments.config, arguments.overrides)
    _check(command, config, arguments.config)
    lines = LogHandler()
    lines.setFormatter(logging.Formatter("[run] %(message)s"))
    logging.getLogger("s2l_ray").addHandler(lines)
    logging.getLogger("s2l_ray").setLevel(logging.INFO)
    if command.takes == "plan":
        return config, arguments.gpu_memory, arguments.json
    return (config, arguments.n) if command.takes == "examples" else (config,)


def _check(command: Command, config: RunConfig, path: str) -> None:
    if command.needs_target and config.target is None:
        raise ConfigError(f"{path}: target: missing; this command fine-tunes the target")
    if command.needs_heldout and not (config.corpus.heldout_share or config.evaluation.files):
        raise ConfigError(
            f"{path}: corpus.heldout_share: found 0, and evaluation.files is empty; set one of "
            f"them: this command evaluates on held-out examples"
        )


if __name__ == "__main__":
    main()
