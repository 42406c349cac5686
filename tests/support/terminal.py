"""A real terminal: what a program writes to it, and what it would show."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from support.head import REPOSITORY, environment


class Typed:
    """A program started on a terminal of its own. `read` returns what it has written so far."""

    def __init__(self, *command, columns=80, **env):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [*map(str, command)], stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY,
            env=environment(TERM="xterm", PYTHONPATH=str(REPOSITORY), **env),
            preexec_fn=_on_this_terminal,
        )  # fmt: skip
        os.close(slave)
        self.written, self.columns = "", columns

    def read(self, until=None, timeout=120.0):
        """Read until a pattern has been written, or to the end."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if until is not None and re.search(until, self.written):
                return self.written
            ready, _, _ = select.select([self.master], [], [], 0.1)
            if not ready:
                continue
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the program has ended
                data = b""
            if not data:
                return self.written
            self.written += data.decode(errors="replace")
        raise TimeoutError(self.written)

    def press_ctrl_c(self):
        os.write(self.master, b"\x03")

    def ended(self, timeout=60.0):
        """Wait for the end; return the exit status."""
        self.read(timeout=timeout)
        return self.process.wait(timeout)

    def screen(self):
        return shown(self.written, self.columns)


def python(code, **how):
    """Start a Python program on a terminal."""
    return Typed(sys.executable, "-c", code, **how)


def _on_this_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def shown(text, columns):
    """Return the lines that a terminal of this width shows: of its controls, those that rich uses.

    AssertionError for any other.
    """
    lines, row, column = [[]], 0, 0
    for piece in re.findall(r"\033\[[?\d;]*[A-Za-z]|[^\033]|\033", text):
        if piece == "\n":
            row += 1
            lines += [[]] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif match := re.fullmatch(r"\033\[(\d*)A", piece):
            row -= int(match[1] or 1)
        elif piece == "\033[2K":
            lines[row] = []
        elif re.fullmatch(r"\033\[[\d;]*m|\033\[\?25[lh]", piece):
            continue  # colours, and the cursor hidden or shown
        else:
            assert piece[0] != "\033", repr(piece)
            if column == columns:  # the terminal wraps
                row, column = row + 1, 0
                lines += [[]] * (row + 1 - len(lines))
            line = lines[row] = [*lines[row], *" " * (column - len(lines[row]))]
            line[column : column + 1] = [piece]
            column += 1
    return ["".join(line).rstrip() for line in lines]
