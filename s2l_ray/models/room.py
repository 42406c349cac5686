"""The memory that workers have, and the memory of known GPUs. No torch."""

from __future__ import annotations

from typing import NamedTuple

# By Ray's accelerator_type, as their makers say.
NOMINAL_GB = {
    "P4": 8,
    "P100": 16,
    "V100": 16,  # some have 32
    "T4": 16,
    "A10G": 24,
    "L4": 24,
    "L40S": 48,
    "A100": 40,  # some have 80
    "A100-40G": 40,
    "A100-80G": 80,
    "H100": 80,
    "H20": 96,
    "RTX-PRO-6000": 96,
    "H200": 141,
    "B200": 180,
    "GB200": 186,
    "B300": 288,
    "GB300": 288,
    "AMD-Instinct-MI100": 32,
    "AMD-Instinct-MI210": 64,
    "AMD-Instinct-MI250X": 64,  # of one of its two dies, which count as GPUs
    "AMD-Instinct-MI300X-OAM": 192,
    "AMD-Instinct-MI325X-OAM": 256,
}


def nominal(accelerator_type: str | None) -> float | None:
    """Return the nominal memory of a GPU, or None if the type is not known."""
    size = NOMINAL_GB.get(accelerator_type or "")
    return None if size is None else size * 1e9


class Room(NamedTuple):
    """Memory that workers will have, in bytes; None if it is not known.

    gpu: of one GPU. host: of a node, for `per_node` workers. where: for messages.
    """

    gpu: float | None = None
    host: float | None = None
    per_node: int = 1
    where: str = ""


class Verdict(NamedTuple):
    """What does not fit, in a sentence. refused: by so much that it cannot.

    gpu: bytes that a worker surely needs on its GPU. disk: bytes that the models and resume points
    of a training take at a time.
    """

    refused: str = ""
    doubtful: str = ""
    gpu: float = 0.0
    disk: float = 0.0


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size < 9.95e9 else f"{size / 1e9:,.0f} GB"


def parts_told(parts: dict[str, float]) -> str:
    """List what takes the memory, the largest first."""
    largest = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {gigabytes(size)}" for name, size in largest if size >= 5e7)
