"""The `s2l-ray` command, also `python -m s2l_ray.cli`. jobs/ run the same commands.

Exit status: 0; 1 if the run failed (stderr says what and where); 2 for a faulty configuration or
command line; 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from s2l_ray import __version__
from s2l_ray.commands import COMMANDS, Command, Planning
from s2l_ray.ending import RUNNING, help_of, lack_of, python, say_next, stopped, summary
from s2l_ray.errors import ConfigError
from s2l_ray.execution import screen, stopping, terminal

logger = logging.getLogger("s2l_ray")

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
        _fill(groups[group].add_parser(name, help=summary(command)), command)
    program = f"{python()} -m s2l_ray.cli" if sys.argv[0].endswith(".py") else "s2l-ray"
    _run(parser, arguments, f"{program} COMMAND")


def job(name: str) -> None:
    """Run jobs/NAME.py."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"python jobs/{name.replace('-', '_')}.py")
    _fill(parser, command)
    folder = os.path.dirname(sys.argv[0])
    _run(parser, None, f"{python()} {shlex.quote(os.path.join(folder, 'JOB.py'))}")


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.description = help_of(command)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    if command.takes == "path":
        parser.usage = "%(prog)s PATH.jsonl"
        parser.add_argument("paths", nargs="*", metavar="PATH.jsonl", help="the file to write")
    if command.takes == "push":
        parser.add_argument("target", metavar="hf://OWNER/NAME", help="the dataset to write")
    if command.takes in ("run", "evaluate", "plan", "pilot", "settings", "examples", "push"):
        parser.add_argument("config", metavar="CONFIG.yaml", help="the configuration of the run")
        parser.add_argument(
            "overrides", nargs="*", metavar="key.path=value",
            help="replace one value of it, for example seed=7; the value is YAML",
        )  # fmt: skip
    if command.takes in ("run_dir", "garbage"):
        parser.add_argument(
            "place", metavar="RUN_DIR", help="the run directory, or the run's CONFIG.yaml"
        )
        parser.add_argument(
            "overrides", nargs="*", metavar="key.path=value", help="overrides of CONFIG.yaml"
        )
    if command.takes == "garbage":
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would go, and remove nothing"
        )
    if command.takes == "run_dir":
        parser.add_argument(
            "--watch", action="store_true", help="look again every few seconds until the run ends"
        )
        parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    if command.takes == "examples":
        parser.add_argument(
            "-n",
            type=int,
            default=3,
            choices=range(1, 1001),
            metavar="N",
            help="the number of examples, 3 unless given",
        )
    if command.takes == "evaluate":
        parser.add_argument(
            "--lm-eval",
            metavar="TASKS",
            help="tasks of lm-evaluation-harness to run on the target too: names or YAML files, "
            "separated by commas",
        )
    if command.takes == "pilot":
        limit = parser.add_mutually_exclusive_group(required=True)
        limit.add_argument(
            "--gpu-hours", type=_amount, metavar="2", help="GPU-hours that it may take"
        )
        limit.add_argument("--minutes", type=_amount, metavar="20", help="minutes that it may take")
    if command.takes == "plan":
        parser.add_argument(
            "--gpu-memory",
            type=_bytes,
            metavar="80GB",
            help="memory of each GPU; default: by --gpu or accelerator_type",
        )
        parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    if command.takes in ("plan", "pilot"):
        parser.add_argument(
            "--gpu",
            type=_gpu,
            metavar="H100",
            help="estimate the speed of this GPU, at an assumed share of its peak",
        )
        parser.add_argument(
            "--tokens-per-second",
            type=_amount,
            metavar="N",
            help="tokens that all workers of the proxy train on in a second; else it is measured "
            "here for some seconds",
        )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--quiet", action="store_true", help="print results, warnings and errors")
    output.add_argument(
        "--json-logs", action="store_true", help="write each line of stderr as a JSON object"
    )
    if command.takes == "push":
        parser.add_argument("--public", action="store_true", help="let everyone read the examples")
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


def _gpu(text: str) -> str:
    from s2l_ray.models.peaks import PEAKS, peak_of

    if (known := peak_of(text)) is None:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PEAKS)}, got {text!r}")
    return known[0]


def _amount(text: str) -> float:
    try:
        amount = float(text.replace(",", ""))
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return amount


def _run(parser: argparse.ArgumentParser, given: Sequence[str] | None, program: str) -> None:
    """program: what runs a command, with its name for COMMAND, or that of its job for JOB."""
    arguments, more = parser.parse_known_args(given)
    if more and (any(text.startswith("-") for text in more) or "overrides" not in arguments):
        arguments.parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # overrides that follow an option
        arguments.overrides += more
    arguments.program, arguments.connected = program, _connected()
    arguments.given = sys.argv[1:] if given is None else given
    # Otherwise a thread that goes on for a moment after Ray has stopped would start it again.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    # Their bars move the cursor.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    terminal.guard("stdout", "stderr")
    screen.set_mode("quiet" if arguments.quiet else "json" if arguments.json_logs else "lines")
    lines = screen.LogHandler(logging.WARNING if arguments.quiet else logging.INFO)
    lines.setFormatter(logging.Formatter("[run] %(message)s"))
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        with stopping.stoppable():
            _run_to_the_end(arguments)
    finally:
        logger.removeHandler(lines)


def _run_to_the_end(arguments: argparse.Namespace) -> None:
    command: Command = arguments.command
    began = time.monotonic()
    try:
        given = _given(command, arguments)
        if command.takes in RUNNING:
            from s2l_ray.pipeline import preflight

            preflight.check(
                given[0],
                targets=command.needs_target,
                heldout=command.needs_heldout,
                diagnosis=command.name == "diagnose",
                afresh=command.name == "refit",
            )
        command.work(*given)
        _disconnect(arguments)  # takes seconds, so before the last lines
        if command.takes in ("run", "evaluate", "pilot"):
            say_next(arguments, given[0], time.monotonic() - began)
    # What a user can fix. Anything else is a bug and keeps its trace.
    except (ValueError, OSError) as error:
        # Ray gives an error of a task the task's whole trace; the error itself is its cause.
        screen.write_line(f"error: {getattr(error, 'cause', None) or error}", "error")
        sys.exit(1)
    except KeyboardInterrupt:
        screen.end_all()
        screen.write_line("stopping", "warning")
        _disconnect(arguments)
        screen.write_line(stopped(arguments), "warning")
        sys.exit(stopping.status())
    finally:
        _disconnect(arguments)


def _connected() -> bool:
    # Not there if Ray is not imported, or was being imported when a signal came.
    return getattr(sys.modules.get("ray"), "is_initialized", bool)()


def _disconnect(arguments: argparse.Namespace) -> None:
    """Disconnect from Ray, and stop a local one, if the command has connected."""
    if _connected() and not arguments.connected:
        sys.modules["ray"].shutdown()


def _given(command: Command, arguments: argparse.Namespace) -> tuple[Any, ...]:
    """What the command's function takes. Exits for a faulty configuration or command line."""
    if command.takes == "nothing":
        return ()
    if command.takes == "path":
        if len(arguments.paths) != 1:
            sys.exit(arguments.parser.format_usage().strip())
        return (arguments.paths[0],)
    if command.takes == "run_dir":
        return arguments.place, arguments.overrides, arguments.watch, arguments.json
    if command.takes == "garbage":
        return arguments.place, arguments.overrides, arguments.dry_run

    from s2l_ray.config import load, resolve

    try:
        config = load(arguments.config, arguments.overrides)
        if command.takes == "settings":
            return config, resolve(arguments.config, arguments.overrides)
        if lack := lack_of(command, config):
            raise ConfigError(f"{arguments.config}: {lack}")
    except ConfigError as error:
        screen.write_line(str(error), "error")
        sys.exit(2)
    if command.takes == "evaluate":
        return config, arguments.lm_eval
    if command.takes == "pilot":
        from s2l_ray.pipeline.pilot import Limit

        options = Planning(None, arguments.gpu, arguments.tokens_per_second)
        return config, options, Limit(arguments.gpu_hours, arguments.minutes)
    if command.takes == "plan":
        rate = arguments.tokens_per_second
        return config, Planning(arguments.gpu_memory, arguments.gpu, rate, arguments.json)
    if command.takes == "push":
        return config, arguments.target, arguments.public
    return (config, arguments.n) if command.takes == "examples" else (config,)


if __name__ == "__main__":
    main()
