"""Errors that a user can fix. Imports nothing."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names the field, the value found and what was
    expected."""


class Damaged(ValueError):
    """A file of a finished stage is missing, cut short or changed. `folder` is the stage's."""

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message, folder)  # both, for pickle
        self.folder = folder

    def __str__(self) -> str:
        return str(self.args[0])


class LeaseLost(OSError):
    """Another process has taken over the run directory. This one may not commit to it any more."""


class LimitReached(ValueError):
    """A limit that the user set ends the run. What is committed is kept."""


class StorageError(OSError):
    """The object store refuses a request or does not answer. The message says what to do."""


class NodeFull(OSError):
    """The disk of a node is full. `node` is the node's Ray id."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, node)  # both, for pickle
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


class ObjectStoreFull(OSError):
    """Ray's object store of a node is full, and so is the disk that it spills to."""


class GPUFailed(RuntimeError):
    """A GPU of a node fails, or what runs on it. `node` is the node's Ray id."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, node)  # both, for pickle
        self.node = node

    def __str__(self) -> str:
        return str(self.args[0])


class TooFew(ValueError):
    """A selector has fewer examples to choose from than the budget asks for."""
