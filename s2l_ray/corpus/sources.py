"""Where a corpus is: files on any filesystem, folders saved by `datasets`, datasets of a hub."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.finding import COMPRESSED, ENDINGS, find
from s2l_ray.corpus.files.hub import find_hub
from s2l_ray.corpus.files.source import SourceFile
from s2l_ray.corpus.mapping import row_map_of


def resolve(config: CorpusConfig) -> list[SourceFile]:
    """Find the files of config.path, each once, by name. ValueError if a path matches nothing."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    found: dict[Any, SourceFile] = {}
    for path in paths:
        if path.startswith("hf://"):
            files = find_hub(path.removeprefix("hf://"), config.split)
        else:
            files = find(path, config)
        if not files:
            raise ValueError(
                f"corpus.path: {path!r} matches no file; expected files ending in "
                f"{', '.join(ENDINGS)} (also {' or '.join(COMPRESSED)}), or a folder saved by "
                "datasets"
            )
        found |= {(file.root, file.path, file.start): file for file in files}
    return sorted(found.values(), key=lambda file: (file.name, file.start))


def fingerprint_of(
    config: CorpusConfig, digest: dict[str, int] | None = None, *, seed: int = 42
) -> str:
    """Fingerprint the sources (names, sizes, content or time or hub commit) and the settings.

    A Ray Dataset is identified by its digest. The seed counts only if examples are held out.
    """
    settings = config.settings() | {"seed": seed if config.heldout_share else None}
    del settings["max_rejected_share"], settings["map"]
    if row_map := row_map_of(config):
        settings["map"] = [config.map, row_map.checksum]
    if digest is None:
        sources: Any = [[f.name, f.bytes, f.stamp, f.start] for f in resolve(config)]
    else:
        sources = digest
        settings |= {"path": None, "format": None, "split": None}
    text = json.dumps([settings, sources], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
