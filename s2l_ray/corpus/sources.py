"""Where a corpus is: files on any filesystem, folders saved by `datasets`, datasets of a hub, or
a built-in corpus of the demo."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.endings import LEGEND, TEXT
from s2l_ray.corpus.files.finding import find
from s2l_ray.corpus.files.source import BUILT_IN, Found, SourceFile, find_built_in
from s2l_ray.corpus.mapping import row_map_of


def resolve(config: CorpusConfig) -> list[SourceFile]:
    """Find the files of config.path, each once, by name. ValueError if a path matches nothing."""
    return find_all(config).files


def find_all(config: CorpusConfig) -> Found:
    """Find the files as `resolve` does, and what is passed over."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    files, passed = dict[Any, SourceFile](), dict[str, str]()
    for path in paths:
        if path.startswith("hf://"):
            from s2l_ray.corpus.files.hub import find_hub  # imports an HTTP client: 0.5 s

            found = find_hub(path, config)
        elif path in BUILT_IN:
            found = find_built_in(path)
        else:
            found = find(path, config)
        if not found.files:
            others = "; ".join(f"{why}: {names}" for why, _, names in by_reason(found.passed))
            raise ValueError(
                f"corpus.path: {path!r} matches no file; expected files ending in {LEGEND}, or a "
                f"folder saved by datasets{'; found ' + others if others else ''}"
            )
        passed |= found.passed
        for file in found.files:
            key = file.root, file.path if file.root else os.path.realpath(file.path)
            if key in files and files[key].path != file.path:
                passed[file.name] = f"the same file as {files[key].name}"
            else:
                files[key] = file
    if all(_is_blank(file) for file in files.values()):
        names = shown([file.name for file in files.values()])
        raise ValueError(f"corpus.path: cannot be read: only empty files: {names}")
    ordered = sorted(files.values(), key=lambda file: file.name)
    return Found(ordered, dict(sorted(passed.items())))


def split_of_path(path: str, default: str) -> str | None:
    """Return the default split, or None if the path names one: hf://owner/dataset:config/split."""
    named = path.startswith("hf://") and "/" in path.removeprefix("hf://").partition(":")[2]
    return None if named else default


def by_reason(passed: Mapping[str, str]) -> list[tuple[str, int, str]]:
    """Return each reason why files are passed over, their number and the first names."""
    names = dict[str, list[str]]()
    for name, why in passed.items():
        names.setdefault(why, []).append(name)
    return [(why, len(found), shown(found)) for why, found in names.items()]


def shown(names: Sequence[str], most: int = 5) -> str:
    """Join the first names, and count the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def fingerprint_of(
    config: CorpusConfig,
    digest: dict[str, int] | None = None,
    *,
    seed: int = 42,
    files: Sequence[SourceFile] | None = None,
) -> str:
    """Fingerprint the sources (names, sizes, content or time or hub commit) and the settings.

    A Ray Dataset is identified by its digest. The seed counts only if examples are held out.
    files: those of a generation, of a corpus that grows.
    """
    settings = config.settings() | {"seed": seed if config.holds_out else None}
    del settings["max_rejected_share"], settings["map"]
    settings.pop("grow", None)
    if row_map := row_map_of(config):
        settings["map"] = [config.map, row_map.checksum]
    if digest is None:
        files = resolve(config) if files is None else files
        sources: Any = [[f.name, f.bytes, f.stamp, f.start] for f in files]
    else:
        sources = digest
        settings |= {"path": None, "format": None, "split": None}
    text = json.dumps([settings, sources], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_blank(file: SourceFile) -> bool:
    """Return whether a text file is empty. Reading any other empty file fails and says so."""
    return not file.bytes and file.format in TEXT
