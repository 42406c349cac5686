"""What became of the rows of each file: how many there were, how many were rejected, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.formatting import plural, printable

LISTED = 100  # files that a manifest lists of each kind
SHOWN = 5  # files that a message names
DECIDED = "rejected by corpus.map"  # begins the category of rows that the user's function rejected

# Of each file: rows, those that are unusable, number and reason of the first such row.
Accounts = dict[str, tuple[int, int, int, str]]


def accounts_of(table: pa.Table, bad: pa.Table) -> Accounts:
    """Count the rows of a table of PARSED by file. bad: its rejected rows, in order."""
    counts = pc.value_counts(table["file"]).to_pylist()
    found: Accounts = {each["values"]: (each["counts"], 0, 0, "") for each in counts}
    columns = (bad[name].to_pylist() for name in ("file", "row", "reason", "category"))
    for file, row, reason, category in zip(*columns, strict=True):
        if not category.startswith(DECIDED):
            rows, unusable, first, why = found[file]
            here = (first, why) if unusable else (row, reason)
            found[file] = (rows, unusable + 1, *here)
    return found


def add(accounts: Accounts, more: Mapping[str, Sequence[Any]]) -> None:
    """Add the accounts of other rows of the same files."""
    for file, (rows, unusable, first, why) in more.items():
        had = accounts.get(file, (0, 0, 0, ""))
        firsts = [(row, reason) for row, reason in (had[2:], (first, why)) if reason]
        accounts[file] = (had[0] + rows, had[1] + unusable, *min(firsts, default=(0, "")))


def info_of(accounts: Accounts, files: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest keeps. files: all that were read."""
    faulty = [(file, *found) for file, found in accounts.items() if found[1]]
    faulty.sort(key=lambda each: (-each[2], each[0]))
    unusable = sorted(each for each in faulty if each[1] == each[2])
    blank = [file for file in files if file not in accounts]
    return {
        "rejected_by_file": [[file, rows, count] for file, rows, count, *_ in faulty[:LISTED]],
        "unusable_files": [
            [file, count, row, why] for file, _, count, row, why in unusable[:LISTED]
        ],
        "files_without_rows": blank[:LISTED],
    }


def added(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a manifest says of several corpora together."""
    found = dict(infos[0])
    counts = ("rows_read", "examples", "heldout", "duplicates", "rejected")
    found |= {name: sum(info[name] for info in infos) for name in counts}
    for name in ("by_source", "heldout_by_source"):
        found[name] = dict(sorted(sum((Counter(info[name]) for info in infos), Counter()).items()))
    for name in ("files", "rejected_by_file", "unusable_files", "files_without_rows"):
        found[name] = [each for info in infos for each in info[name]]
    found["rejected_by_file"].sort(key=lambda each: (-each[2], each[0]))
    reasons: dict[str, list[Any]] = {}
    for name, count, place in (each for info in infos for each in info["rejected_reasons"]):
        had = reasons.setdefault(name, [name, 0, place])
        had[1] += count
    found["rejected_reasons"] = sorted(reasons.values(), key=lambda each: (-each[1], each[0]))
    return found | {"passed_over": infos[-1]["passed_over"]}


def unusable_told(unusable: Sequence[tuple[str, int, int, str]]) -> str:
    """Return which files have no usable row, and why; "" if there is none."""
    if not unusable:
        return ""
    named = [
        f"{file} ({plural(count, 'row')}; {printable(why[:120])})"
        for file, count, _, why in unusable[:SHOWN]
    ]
    more = f" and {len(unusable) - SHOWN:,} more" if len(unusable) > SHOWN else ""
    return f"no row can be used of {plural(len(unusable), 'file')}: {'; '.join(named)}{more}"


def rejected_told(rejected: Sequence[tuple[str, int, int]]) -> str:
    """Return how many rows of each file were rejected; "" if none was."""
    named = [f"{count:,} of {rows:,} in {file}" for file, rows, count in rejected[:SHOWN]]
    more = len(rejected) - SHOWN
    return "; ".join(named) + (f"; and in {plural(more, 'more file')}" if more > 0 else "")


def most_common(reasons: Sequence[tuple[str, int, str]]) -> str:
    """Return the three most common reasons for rejection, each with its count and a place."""
    named = [f"{name} ({count:,}; first at {place})" for name, count, place in reasons[:3]]
    more = len(reasons) - 3
    return "; ".join(named) + (f"; and {plural(more, 'more reason')}" if more > 0 else "")
