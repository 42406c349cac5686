"""Parts and manifests: what a finished stage consists of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from s2l_ray.store.checksums import checksum_of, checksum_of_files

FORMAT = 1  # of manifests; a reader refuses a newer one


@dataclass(frozen=True)
class Part:
    """One committed or committable file of a stage.

    folder: of the stage that wrote it, if that is another one (corpora that grow).
    """

    unit: str
    file: str
    rows: int
    bytes: int
    checksum: str
    stats: dict[str, Any] = field(default_factory=dict)  # what the unit reports (JSON)
    folder: str = ""

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        if not self.folder:
            del found["folder"]
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Part:
        return cls(**data)


@dataclass(frozen=True)
class Manifest:
    """A finished stage. `info` is what the stage reports (JSON); views.py gives it types.

    beside: files that are no parts of the stage's table, such as the centers of clusters.
    """

    folder: str  # below the run directory
    fingerprint: str
    parts: list[Part]
    info: dict[str, Any] = field(default_factory=dict)
    beside: list[Part] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> list[Part]:
        """All files that the manifest lists."""
        return [*self.parts, *self.beside]

    @property
    def checksum(self) -> str:
        """The checksum of the files, by their names."""
        return checksum_of_files({part.file: part.checksum for part in self.files})

    def to_json(self) -> dict[str, Any]:
        """Return what manifest.json holds, with a checksum of the rest."""
        data: dict[str, Any] = {"format": FORMAT, "stage": self.folder}
        data |= {"fingerprint": self.fingerprint, "parts": [p.to_json() for p in self.parts]}
        data["info"] = self.info
        if self.beside:
            data["beside"] = [part.to_json() for part in self.beside]
        return data | {"checksum": checksum_of(json.dumps(data).encode())}


def manifest_of(folder: str, data: dict[str, Any]) -> Manifest:
    """Build a manifest from its JSON; KeyError, TypeError or ValueError if it is malformed, or the
    manifest of another folder."""
    for name, kind in {"format": int, "fingerprint": str, "parts": list, "info": dict}.items():
        _check_type(name, data[name], kind)
    beside = data.get("beside", [])
    _check_type("beside", beside, list)
    parts, others = ([Part.from_json(part) for part in each] for each in (data["parts"], beside))
    for part in (*parts, *others):
        for name in ("unit", "file", "checksum", "folder"):
            _check_type(name, getattr(part, name), str)
        for name in ("rows", "bytes"):
            _check_type(name, getattr(part, name), int)
        _check_type("stats", part.stats, dict)
    rest = {name: value for name, value in data.items() if name != "checksum"}
    if data["checksum"] != (found := checksum_of(json.dumps(rest).encode())):
        raise ValueError(f"expected checksum {data['checksum']}, got {found}")
    # Version 0.1 wrote the first name of the folder alone.
    if data["stage"] not in (folder, folder.split("/")[0]):
        raise ValueError(f"it belongs to {data['stage']}")
    return Manifest(folder, data["fingerprint"], parts, data["info"], others)


def _check_type(name: str, value: Any, expected: type) -> None:
    if type(value) is not expected:
        raise TypeError(f"{name}: expected {expected.__name__}, got {str(value)[:40]!r}")
