"""Datasets of a Hugging Face hub: `hf://owner/dataset@revision:config/split`.

The Parquet files of a dataset are read in place, through the hub's filesystem. Of a dataset in
another format those are read that the hub has made of it, in the branch refs/convert/parquet.
The token comes from the environment (HF_TOKEN), on the driver and on the nodes.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.files.matching import matches
from s2l_ray.corpus.files.source import Found, SourceFile
from s2l_ray.corpus.files.splits import split_of
from s2l_ray.execution.hub import SECONDS, http_error, patiently, silence

PREFIX = "hf://"
CONVERTED = "refs/convert/parquet"
PATH = re.compile(
    r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<config>[^/:]+)(/(?P<split>[^/]+))?)?"
)
REFUSED = (401, 403, 404)

Tables = dict[str, dict[str, list[str]]]  # paths in the repository by config and split


@dataclass(frozen=True)
class HubPath:
    """What a path of config.path names; null is what the user left out."""

    name: str
    revision: str | None
    config: str | None
    split: str | None


@dataclass(frozen=True)
class _Repository:
    """A dataset's repository at one commit."""

    commit: str
    sizes: dict[str, int]  # of the Parquet files, in bytes, by path
    configs: tuple[Mapping[str, Any], ...]  # of the dataset card


def parse_hub_path(path: str) -> HubPath:
    match = PATH.fullmatch(path)
    if match is None:
        raise ValueError(
            f"corpus.path: {path!r}: expected hf://owner/dataset, optionally followed by "
            "@revision, :config or :config/split"
        )
    return HubPath(**match.groupdict())


def find_hub(path: str, config: CorpusConfig) -> Found:
    """Find the Parquet files of one split of a dataset on a hub. ValueError if there are none."""
    hub = parse_hub_path(path)
    if hub.split and config.split and hub.split != config.split:
        raise ValueError(
            f"corpus.path: {path}: the path names the split {hub.split!r}, and corpus.split "
            f"{config.split!r}; expected one of them, or the same"
        )
    try:
        revision, repository, tables = _tables(hub)
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"corpus.path: {path}: {_explained(error)}") from error
    chosen = _choose(path, hub, tables)
    splits, split = tables[chosen], hub.split or config.split or "train"
    if split not in splits:
        raise ValueError(
            f"corpus.path: {path}: no split {split!r} in the configuration {chosen!r} "
            f"(corpus.split, evaluation.split); found {', '.join(splits)}"
        )
    shown = f"{PREFIX}{hub.name}" + (f"@{revision}" if revision else "")
    files = [
        SourceFile(
            name=f"{shown}/{name}",
            root=PREFIX,
            path=f"datasets/{hub.name}@{repository.commit}/{name}",
            format="parquet",
            bytes=repository.sizes[name] * 4,
            stamp=repository.commit,
        )
        for name in splits[split]
    ]
    others = {
        f"{PREFIX}{hub.name}:{chosen}/{other}": f"of the split {other!r}, not {split!r}; to "
        "evaluate on it, name it in evaluation.files"
        for other in splits
        if other != split
    }
    return Found(files, others)


def dataset_fault(path: str) -> str | None:
    """Say why a path cannot be a dataset that the hub lets us read, or return None.

    Returns None if the hub gives no clear answer. Its Parquet files are not looked for.
    """
    try:
        hub = parse_hub_path(path)
    except ValueError as error:
        return str(error)
    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        if why := silence(api.endpoint):
            return f"corpus.path: {path}: the hub cannot be reached: {why}"
        api.dataset_info(hub.name, revision=hub.revision, timeout=SECONDS)
    except HfHubHTTPError as error:
        if _status_of(error) in REFUSED:
            return f"corpus.path: {path}: {_explained(error)}"
    except (HFValidationError, OfflineModeIsEnabled) as error:
        return f"corpus.path: {path}: {error}"
    except (http_error(), OSError, ValueError):  # no clear answer, or one that is no JSON
        return None
    return None


def hub_filesystem() -> pafs.FileSystem:
    return pafs.PyFileSystem(_Patient(HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))))


class _Patient(pafs.FSSpecHandler):
    """The hub's filesystem. It waits by itself while it reads, but not while it opens a file."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        return patiently(lambda: pa.PythonFile(self.fs.open(path, "rb"), mode="r"))


def _tables(hub: HubPath) -> tuple[str | None, _Repository, Tables]:
    """Return the revision to show, the repository there, and its Parquet files."""
    endpoint = os.environ.get("HF_ENDPOINT")
    own = repository_of(hub.name, hub.revision, endpoint)
    if tables := _of_card(own) or _of_names(own, hub.config):
        return hub.revision, own, tables
    if hub.revision is not None:
        raise OSError(
            f"no Parquet files at the revision {hub.revision}; the hub converts only the main "
            "branch, so leave the revision out, or download the dataset and give its files"
        )
    try:
        converted = repository_of(hub.name, CONVERTED, endpoint)
    except HfHubHTTPError as error:
        raise OSError(
            "no Parquet files, and the hub has not converted it (no branch "
            f"{CONVERTED}); download the dataset ('hf download') and give its files"
        ) from error
    tables = {}
    for name in converted.sizes:
        config, split, *_ = name.split("/")
        if split.startswith("partial-"):
            raise OSError(
                "no Parquet files, and the hub has converted only the beginning; download the "
                "dataset ('hf download') and give its files"
            )
        tables.setdefault(config, {}).setdefault(split, []).append(name)
    return CONVERTED, converted, tables


@cache  # so that a run reads the commit that its fingerprint tells
def repository_of(name: str, revision: str | None, endpoint: str | None) -> _Repository:
    api = HfApi(endpoint=endpoint)
    info = patiently(lambda: api.dataset_info(name, revision=revision, files_metadata=True))
    assert info.sha
    sizes = {
        file.rfilename: file.size or 0
        for file in info.siblings or []
        if file.rfilename.endswith(".parquet")
    }
    card = info.card_data.to_dict() if info.card_data else {}
    configs = card.get("configs") or ()
    return _Repository(info.sha, dict(sorted(sizes.items())), tuple(configs))


def _of_card(repository: _Repository) -> Tables:
    """Return the Parquet files as the dataset card lists them."""
    tables: Tables = {}
    for each in repository.configs:
        for split, patterns in _patterns(each.get("data_files")):
            found = [
                name
                for name in repository.sizes
                if any(matches(name, pattern, fnmatch.fnmatchcase) for pattern in patterns)
            ]
            if found:
                tables.setdefault(str(each.get("config_name", "default")), {})[split] = found
    return tables


def _patterns(files: Any) -> list[tuple[str, list[str]]]:
    """Return the splits of a card's data_files with their patterns."""
    entries = files if isinstance(files, list) else [files]
    found = []
    for entry in entries:
        if isinstance(entry, dict):
            paths = entry.get("path") or []
            found.append((str(entry.get("split", "train")), paths))
        elif isinstance(entry, str):
            found.append(("train", entry))
    lists = [(split, paths if isinstance(paths, list) else [paths]) for split, paths in found]
    return [(split, [path for path in paths if isinstance(path, str)]) for split, paths in lists]


def _of_names(repository: _Repository, config: str | None) -> Tables:
    """Return the Parquet files by the splits that their names tell.

    config: a folder at the top, if there is one of this name.
    """
    names = list(repository.sizes)
    within = [name for name in names if name.startswith(f"{config}/")]
    table = dict[str, list[str]]()
    for name in within or names:
        table.setdefault(split_of(name) or "train", []).append(name)
    return {config if config and within else "default": table} if names else {}


def _choose(path: str, hub: HubPath, tables: Tables) -> str:
    """Return the configuration to read."""
    wanted = hub.config or ("default" if "default" in tables else None)
    if wanted is None and len(tables) == 1:
        return next(iter(tables))
    if wanted not in tables:
        raise ValueError(
            f"corpus.path: {path}: expected one of the dataset's configurations, as in "
            f"hf://{hub.name}:{next(iter(tables))}; found {', '.join(tables)}"
        )
    return wanted


def _explained(error: Exception) -> str:
    status = _status_of(error)
    if status in REFUSED:
        return (
            f"the hub has no such dataset or revision, or it is not public and the token in "
            f"HF_TOKEN gives no access (status {status})"
        )
    return str(error)


def _status_of(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
