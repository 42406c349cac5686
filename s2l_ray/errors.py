"""Errors that a user can fix. Imports nothing."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run: says the field, what was found and what was wanted."""


class Damaged(ValueError):
    """A file of a finished stage is missing, cut short or altered; names it, and its stage."""

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message, folder)  # both, so that it can be pickled
        self.folder = folder

    def __str__(self) -> str:
        return str(self.args[0])


class LeaseLost(OSError):
    """Another process owns the run directory by now: this one may not commit to it any more."""


class StorageError(OSError):
    """The object store refuses, or does not answer; the message says what and what to do."""


class NodeFull(OSError):
    """No room on the disk of a node; `node` is its id in Ray."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, node)  # both, so that it can be pickled
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


class TooFew(ValueError):
    """A selector has fewer examples to choose from than it was asked for."""
