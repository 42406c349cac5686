"""Nothing that a stranger can name reaches a terminal raw."""

import json
import logging
import subprocess
import sys
import unicodedata

import pytest
from support.head import REPOSITORY, environment
from support.terminal import python

from s2l_ray.execution import screen
from s2l_ray.execution.progress import Progress
from s2l_ray.formatting import for_json, for_terminal, printable

EVIL = "a\x1b]0;title\x07b\x1b[2Jc\rd\x9b31me\u202ef\u2066g\x7fh\x00i\u2028j\u061ck\U000e0041l"
SAFE = (
    "a\\x1b]0;title\\x07b\\x1b[2Jc\\rd\\x9b31me\\u202ef\\u2066g\\x7fh\\x00i\\u2028j\\u061ck"
    "\\U000e0041l"
)


def raw(text, *, allowed="\n\t"):
    """The controls that a text still has."""
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    return found - set(allowed)


def test_every_control_is_escaped_and_no_other_character():
    assert for_terminal(EVIL) == SAFE
    every = [chr(c) for c in range(sys.maxunicode + 1)]
    controls = raw(every, allowed="\n\t\u200c\u200d")
    assert len(controls) > 2000  # half pairs of UTF-16 among them
    shown = for_terminal("".join(every))
    assert not controls & set(shown)
    plain = "".join(c for c in every if c not in controls)
    assert for_terminal(plain) == plain
    assert for_terminal(shown) == shown
    assert printable(f"{EVIL}\n") == f"{SAFE}\\n"


def test_json_keeps_its_values():
    every = "".join(chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)
    every += "\udc80 \ud800"
    text = for_json(json.dumps({"a": every}, ensure_ascii=False))
    assert raw(text) == {"\u200c", "\u200d"}
    assert (json.loads(text)["a"] == every) is True  # pytest would show the difference


@pytest.mark.parametrize("mode", ["lines", "json", "quiet"])
def test_lines_rows_and_logs_off_the_terminal(mode, capsys):
    logger, handler = logging.getLogger("s2l_ray.of_this_test"), screen.LogHandler()
    logger.addHandler(handler)
    screen.set_mode(mode)
    try:
        logger.warning(f"file {EVIL}")
        screen.write_line(f"error: {EVIL}", "error")
        with Progress(f"target {EVIL}", total=1, unit=EVIL, note=EVIL) as shown:
            shown.advance(1)
    finally:
        screen.set_mode("lines")
        logger.removeHandler(handler)
    written = capsys.readouterr().err
    assert not raw(written)
    if mode == "json":
        told = [json.loads(line) for line in written.splitlines()]
        assert told[0]["message"] == f"file {EVIL}" and told[-1]["unit"] == EVIL
    else:
        assert f"file {SAFE}" in written and f"error: {SAFE}" in written


COMMAND = """
import colorama, logging, sys, warnings
from s2l_ray import cli, commands
from s2l_ray.execution.progress import Progress

EVIL = {evil!r}

def work(path):
    handler = logging.StreamHandler()  # as libraries have
    logging.getLogger("another.library").addHandler(handler)
    with Progress("read " + EVIL, total=1, unit="files", note=EVIL):
        print("result:", EVIL)
        sys.stdout.writelines([EVIL, "\\n"])
        print(EVIL, file=sys.stderr, flush=True)
        logging.getLogger("another.library").warning(EVIL)
        logging.getLogger("s2l_ray.x").warning(EVIL)
        warnings.warn(EVIL)
    colorama.init(strip=False)  # as Ray does: at the end it turns colours off, through sys.stdout
    raise {error}(EVIL)

old = commands.COMMANDS["demo-corpus"]
commands.COMMANDS["demo-corpus"] = commands.Command("demo-corpus", work, "path", False, False)
work.__doc__ = "Write."
cli.main(["demo-corpus", "x.jsonl"])
"""


@pytest.mark.parametrize("error", ["ValueError", "KeyError"])  # a user's fault, and a bug
def test_whatever_a_command_writes(error):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(evil=EVIL, error=error)],
        cwd=REPOSITORY, env=environment(PYTHONIOENCODING="utf-8"), capture_output=True,
    )  # fmt: skip
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 1 and not raw(out) and not raw(err)
    assert out == f"result: {SAFE}\n{SAFE}\n"
    assert err.count(SAFE) >= 6
    assert ("Traceback" in err) == (error == "KeyError")


def test_whatever_a_command_writes_to_a_terminal():
    program = python(COMMAND.format(evil=EVIL, error="ValueError"))
    assert program.ended() == 1
    assert program.written.endswith("\x1b[0m")
    # rich moves the cursor, hides it and clears lines; the terminal adds a CR to each line end.
    assert not raw(program.written, allowed="\n\t\r\x1b")
    for part in ("\x1b]", "\x1b[2J", "\x9b", "\u202e", "\x07"):
        assert part not in program.written
    assert program.written.replace("\r\n", "").count("\\x1b]0;title\\x07b\\x1b[2Jc\\rd") >= 6
