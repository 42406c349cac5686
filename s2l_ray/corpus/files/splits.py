"""What the names of files and folders say about their rows: a split, or columns (Hive folders)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from s2l_ray.corpus.files.endings import COMPRESSIONS, ENDINGS

SPLITS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["validation", "valid", "val", "dev"], "validation"),
    **dict.fromkeys(["test", "testing", "eval", "evaluation"], "test"),
}
SHARD = re.compile(r"[-_.]?\d+([-_]of[-_]\d+)?$")
WORD_ENDS = re.compile(r"[^a-z]+")
PARTITION = re.compile(r"(\w[\w.-]*)=(.+)")
NULL = "__HIVE_DEFAULT_PARTITION__"


def split_of(name: str) -> str | None:
    """Return the split that a relative path names: "train", "validation", "test" or None.

    It does so with the first or the last word of a folder's or the file's name. Of several splits
    one other than "train" counts, so that no held-out row is trained on.
    """
    found = [split for piece in name.split("/") if (split := _split_of_piece(piece))]
    return min(found, key=lambda split: split == "train", default=None)


def choose(
    names: Mapping[str, str], wanted: str, *, strict: bool
) -> tuple[list[str], dict[str, str]]:
    """Return the names to read, and why each other is passed over.

    names: relative paths and what to call each in a message. If some name a split, those of the
    wanted split alone are read. Those that name none belong to the training split if no file names
    it, or if no file names another.

    strict: ValueError if only other splits are there; else all of them are read.
    """
    splits = {name: split_of(name) for name in names}
    named = {split for split in splits.values() if split}
    if not named or named == {wanted} == {"train"}:
        return list(names), {}
    kept = [name for name, split in splits.items() if split == wanted]
    if not kept and wanted == "train":
        kept = [name for name, split in splits.items() if split is None]
    if not kept:
        if not strict:
            return list(names), {}
        first = next(iter(names.values()))
        raise ValueError(
            f"no file of the split {wanted!r} (corpus.split, evaluation.split); found "
            f"{', '.join(sorted(named))} (such as {first})"
        )
    passed = {
        name: f"of the split {split!r}, not {wanted!r}; to evaluate on it, name it in "
        "evaluation.files"
        if split
        else f"its name says nothing of the split {wanted!r}, as others do"
        for name, split in splits.items()
        if name not in set(kept)
    }
    return kept, passed


def partitions_of(name: str) -> dict[str, str]:
    """Return the columns that the folders of a path give, such as source=math/."""
    pieces = (PARTITION.fullmatch(piece) for piece in name.split("/")[:-1])
    found = {match[1]: unquote(match[2]) for match in pieces if match}
    return {column: value for column, value in found.items() if value != NULL}


def _split_of_piece(piece: str) -> str | None:
    partition = PARTITION.fullmatch(piece)
    if partition and partition[1] != "split":
        return None
    stem = piece.lower()
    while (ending := stem[stem.rfind(".") :]) in ENDINGS or ending in COMPRESSIONS:
        stem = stem.removesuffix(ending)
    words = [word for word in WORD_ENDS.split(SHARD.sub("", stem)) if word]
    return next((SPLITS[word] for word in (words[:1] + words[-1:]) if word in SPLITS), None)
