"""Parts and manifests: what a finished stage consists of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from s2l_ray.store.checksums import checksum_of

FORMAT = 1  # of manifests; a reader refuses a newer one


@dataclass(frozen=True)
class Part:
    """One committed or committable file of a stage."""

    unit: str
    file: str
    rows: int
    bytes: int
    checksum: str
    stats: dict[str, Any] = field(default_factory=dict)  # what the unit reports (JSON)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Part:
        return cls(**data)


@dataclass(frozen=True)
class Manifest:
    """A finished stage. `info` is what the stage reports (JSON); views.py gives it types."""

    folder: str  # below the run directory
    fingerprint: str
    parts: list[Part]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def manifest_of(folder: str, data: dict[str, Any]) -> Manifest:
    """Build a manifest from its JSON; KeyError, TypeError or ValueError if it is malformed."""
    for name, kind in {"format": int, "fingerprint": str, "parts": list, "info": dict}.items():
        _check_type(name, data[name], kind)
    parts = [Part.from_json(part) for part in data["parts"]]
    for part in parts:
        for name in ("unit", "file", "checksum"):
            _check_type(name, getattr(part, name), str)
        for name in ("rows", "bytes"):
            _check_type(name, getattr(part, name), int)
        _check_type("stats", part.stats, dict)
    rest = {name: value for name, value in data.items() if name != "checksum"}
    if data["checksum"] != (found := checksum_of(json.dumps(rest).encode())):
        raise ValueError(f"expected checksum {data['checksum']}, got {found}")
    return Manifest(folder, data["fingerprint"], parts, data["info"])


def _check_type(name: str, value: Any, expected: type) -> None:
    if type(value) is not expected:
        raise TypeError(f"{name}: expected {expected.__name__}, got {str(value)[:40]!r}")
