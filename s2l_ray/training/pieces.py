"""A training's state in files: flat pieces of named tensors.

Each worker writes what it holds: whole tensors under DDP, parts of the flattened tensors under
ZeRO. The same worker of an equal training finds all that it needs in its own file. With another
number of workers, each reads the pieces that overlap its own.

In a file, a tensor's name is `<parameter>/<key>`, for example `model.norm.weight/exp_avg`. The
file's metadata has the index at which a parameter's pieces start, unless it is 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

MASTER = "fp32"  # the master weights, beside the optimizer's moments


class Piece(NamedTuple):
    """What one worker holds of a parameter."""

    name: str  # of the parameter
    start: int  # of the piece in the flattened parameter, counted in elements
    tensors: dict[str, Any]  # by key: MASTER, exp_avg, …; flat, unless the piece is everything


def file_of(rank: int) -> str:
    """Name the file of a worker's pieces."""
    return f"optimizer-{rank:05d}.safetensors"


def whole_pieces(
    trained: list[tuple[str, Any]], state: dict[Any, dict[str, Any]], rank: int, world: int
) -> Iterator[Piece]:
    """Yield one worker's share of what all workers hold. state: of the optimizer, by parameter."""
    for number, (name, parameter) in enumerate(trained):
        if number % world == rank:
            yield Piece(name, 0, {MASTER: parameter, **state.get(parameter, {})})


def restore_whole(
    trained: list[tuple[str, Any]], optimizer: torch.optim.Optimizer, saved: SavedPieces
) -> None:
    """Set weights and optimizer from saved pieces, as torch's load_state_dict would."""
    saved.open_all()
    parameters, group = dict(trained), optimizer.param_groups[0]
    on_device = group.get("fused") or group.get("capturable")
    for name, key in saved.names():
        parameter, value = parameters[name], saved.whole(name, key)
        if key == MASTER:
            parameter.data.copy_(value)
        else:
            if key == "step" and not isinstance(optimizer, torch.optim.AdamW):  # of 8 bits
                optimizer.state[parameter][key] = int(value)
                continue
            there = "cpu" if key == "step" and not on_device else parameter.device
            optimizer.state[parameter][key] = value.to(there, copy=True)


def copied(piece: Piece, *, masters: bool = True) -> Piece:
    """Copy a piece to CPU memory. masters: the master weights too."""
    kept = {key: value for key, value in piece.tensors.items() if key != MASTER or masters}
    copies = {
        key: torch.as_tensor(value).detach().to("cpu", copy=True) for key, value in kept.items()
    }
    return piece._replace(tensors={key: each.contiguous() for key, each in copies.items()})


def write(pieces: Iterable[Piece], file: Path) -> None:
    tensors, starts = dict[str, Tensor](), dict[str, int]()
    for piece in pieces:
        tensors |= {f"{piece.name}/{key}": tensor for key, tensor in piece.tensors.items()}
        if piece.start:
            starts[piece.name] = piece.start
    save_file(tensors, file, metadata={"starts": json.dumps(starts)})


class SavedPieces:
    """Pieces in files.

    fetch: returns the local folder with the files of the given names. first: the file to look into
    first, if it is among them; the others are fetched if something is missing there.
    """

    def __init__(self, fetch: Callable[[list[str]], str], names: list[str], first: str) -> None:
        self.fetch = fetch
        self.places: dict[str, list[tuple[int, Any]]] = {}  # by tensor: start, open file
        self.rest = names
        if first in names:
            self.rest = [name for name in names if name != first]
            self._open([first])

    def open_all(self) -> None:
        if self.rest:
            self._open(self.rest)
            self.rest = []

    def names(self) -> list[tuple[str, str]]:
        """List parameter and key of what is in the open files."""
        found = (path.rpartition("/") for path in self.places)
        return [(name, key) for name, _, key in found if name]

    def keys(self) -> list[str]:
        """List the keys in the open files."""
        return sorted({key for _, key in self.names()})

    def whole(self, name: str, key: str) -> Tensor:
        """Read what was written as one piece, in its shape."""
        [(_, file)] = self.places[f"{name}/{key}"]
        return file.get_tensor(f"{name}/{key}")

    def part(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Read elements of a flattened tensor, in fp32. KeyError if the files lack some."""
        path = f"{name}/{key}"
        found = torch.empty(stop - start)
        if not self._read(path, start, found):
            self.open_all()
            if not self._read(path, start, found):
                raise KeyError(f"{path}: no file has all of elements {start:,} to {stop:,}")
        return found

    def _read(self, path: str, start: int, into: Tensor) -> bool:
        """Copy what the open files have; return whether that is all."""
        left, stop = into.numel(), start + into.numel()
        for begin, file in self.places.get(path, ()):
            piece = file.get_slice(path)
            shape = piece.get_shape()
            if len(shape) != 1:  # a whole tensor
                piece = file.get_tensor(path).flatten()
                shape = piece.shape
            first, last = max(start, begin), min(stop, begin + shape[0])
            if first < last:
                into[first - start : last - start] = piece[first - begin : last - begin]
                left -= last - first
        return left == 0

    def _open(self, names: list[str]) -> None:
        folder = self.fetch(names)
        for name in names:
            file = safe_open(Path(folder, name), "pt")
            starts = json.loads((file.metadata() or {}).get("starts", "{}"))
            for path in file.keys():  # noqa: SIM118 - no mapping
                start = starts.get(path.rpartition("/")[0], 0)
                self.places.setdefault(path, []).append((start, file))
