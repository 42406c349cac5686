"""A command's stdout and stderr, on which control characters are escaped.

Names of files, sources and models, errors of templates and what libraries log may come from a
stranger. An escape sequence among them could rewrite what the terminal shows, or its title.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from s2l_ray.formatting import for_terminal

RESET = "\033[0m"  # colours off; colorama, which Ray loads, writes it when the process ends


class SafeStream:
    """A text stream that writes to another one, with control characters escaped."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text if text == RESET else for_terminal(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guard(*names: str) -> None:
    """Make streams of `sys` safe from now on: "stdout", "stderr"."""
    for name in names:
        stream = getattr(sys, name)
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))


def behind(stream: Any) -> Any:
    """Return the stream that a safe one writes to, for programs that draw."""
    return stream.stream if isinstance(stream, SafeStream) else stream
