"""Find where the items of a JSON list or object begin and end, in a stream, without parsing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from s2l_ray.corpus.files.json_lines import BOM

CHUNK = 2**20
HEAD = 2**12  # bytes that are returned of what is too long
SPACES = re.compile(rb"\s*+")
REST = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'  # of a string, up to its last quote or the end of the data
REST_OF_STRING = re.compile(REST, re.DOTALL)
# Whole strings and what stands between, up to a bracket, a comma or colon, or an open string.
SHALLOW = re.compile(rb'(?:[^"\[\]{},:]++|"' + REST + rb'")*+', re.DOTALL)
DEEP = re.compile(rb'(?:[^"\[\]{}]++|"' + REST + rb'")*+', re.DOTALL)  # commas mean nothing


class Scanner:
    """A position in a stream of JSON. OSError where the stream cannot be JSON."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.data = stream.read(CHUNK).removeprefix(BOM)
        self.at = 0  # position in `data`
        self.before = 0  # bytes of the stream before `data`
        self.stop = b""  # what ended the last piece

    def peek(self) -> bytes:
        """Skip white space; return the next byte, or nothing at the end."""
        while True:
            self.at = SPACES.match(self.data, self.at).end()  # type: ignore[union-attr]
            if found := self.data[self.at : self.at + 1]:
                return found
            if not self._more(self.at):
                return b""

    def take(self, wanted: bytes) -> None:
        """Skip white space and the byte `wanted`."""
        if self.peek() != wanted:
            raise OSError(f"expected {wanted.decode()!r} at byte {self.before + self.at:,}")
        self.at += 1

    def items(self, limit: int) -> Iterator[tuple[bytes, int]]:
        """Yield each item of a list and its size in bytes; of one over the limit, only its start.

        The list must begin here.
        """
        self.take(b"[")
        if self.peek() == b"]":
            self.take(b"]")
            return
        while True:
            yield self.piece(limit, b",]")
            if self.stop == b"]":
                return

    def members(self) -> Iterator[str]:
        """Yield each key of an object, which must begin here.

        The caller takes the value, with `piece(limit, b",}")` as the last step.
        """
        self.take(b"{")
        if self.peek() == b"}":
            self.take(b"}")
            return
        while True:
            text, _ = self.piece(CHUNK, b":")
            try:
                yield str(json.loads(text))
            except ValueError as error:
                raise OSError(f"a key before byte {self.before + self.at:,}: {error}") from None
            if self.stop == b"}":
                return

    def end(self) -> None:
        """OSError if anything follows."""
        if self.peek():
            raise OSError(
                f"more text after the end of the first JSON value, at byte "
                f"{self.before + self.at:,}; expected one value, or one object per line"
            )

    def piece(self, limit: int, stops: bytes = b"") -> tuple[bytes, int]:
        """Read up to one of `stops` outside brackets and strings; return the text and its size.

        Without stops, read one object or list. Of a text over the limit only the start is returned.
        """
        self.peek()
        start, dropped, head, depth, in_string = self.at, 0, b"", 0, False
        while True:
            if in_string:
                self.at = REST_OF_STRING.match(self.data, self.at).end()  # type: ignore[union-attr]
                if self.data[self.at : self.at + 1] == b'"':
                    self.at, in_string = self.at + 1, False
                    continue
                token = b""
            else:
                passed = (DEEP if depth else SHALLOW).match(self.data, self.at)
                self.at = passed.end()  # type: ignore[union-attr]
                token = self.data[self.at : self.at + 1]
            if token and token != b'"':
                self.at += len(token)
                closing = token in b"]}"
                depth += (token in b"[{") - closing
                if token in stops and depth == -closing:
                    end = self.at - 1
                    break
                if closing and depth == 0 and not stops:
                    end = self.at
                    break
                if depth < 0:
                    raise OSError(f"unexpected {token.decode()!r} at byte {self.before + self.at}")
                continue
            if len(self.data) - start > limit:  # too long: forget all but the beginning
                head = head or self.data[start : start + HEAD]
                if token:  # the string is not whole yet
                    self.at, in_string = self.at + 1, True
                    continue
                dropped, start = dropped + self.at - start, self.at
            if not self._more(start):
                raise OSError("cut short: the JSON does not end")
            start = 0
        self.stop = token
        text = self.data[start:end].rstrip()
        size = dropped + len(text)
        return (text if size <= limit else head or text[:HEAD]), size

    def _more(self, keep: int) -> bool:
        """Forget what is before `keep`, and read on; return False at the end."""
        chunk = self.stream.read(max(CHUNK, len(self.data) - keep))
        self.data = self.data[keep:] + chunk
        self.at, self.before = self.at - keep, self.before + keep
        return bool(chunk)
