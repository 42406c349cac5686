"""Leaks: rows of evaluation files that are in the corpus too.

A target may have been trained on them, so they are left out, counted and reported.

- An example leaks if one of the corpus has the same turns and tools (as in its search for
  duplicates), from any source, whichever turns have labels.
- A question leaks if it is the text of a user's turn, or of an input, in the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from s2l_ray.config import fingerprint
from s2l_ray.corpus.identity import content_of, hash63
from s2l_ray.corpus.rows import Example
from s2l_ray.execution.parts import StageParts, Work, fold_parts, make_parts, units_of
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import EXAMPLES, completed
from s2l_ray.store.views import LeaksView

Places = dict[int, tuple[str, int]]  # hash of a content -> file and row of its first occurrence


def without_corpus(
    store: Store,
    examples: Manifest,
    sets: Mapping[str, Manifest],
    kind: str,
    shots: Sequence[dict[str, Any]] = (),
) -> dict[str, Manifest]:
    """Return each set without the rows that the corpus `examples`, or shots, has too, or itself if
    none.

    A set that lost rows is a stage of its own (store.views.LeaksView). kind: "files", "texts" or
    "answers", as in the config. shots: rows of evaluation.few_shot. ValueError if nothing is
    left of a set.
    """
    shown, stages = _places_of_rows(shots, kind), {}
    for name, given in sets.items():
        identity = fingerprint(given.fingerprint, examples.fingerprint, *sorted(shown))
        folder = f"{given.folder}/apart/{identity}"
        stages[name] = StageParts(folder, identity, units_of(given), {})
    checked = {name: store.manifest(stage.folder) for name, stage in stages.items()}
    missing = [name for name, found in checked.items() if found is None]
    if missing:
        by_set = {name: _places(store, sets[name], kind, f"read {name}") for name in missing}
        contents = frozenset[int]().union(*by_set.values())
        in_corpus = _places(store, examples, kind, "search the corpus", contents)
        elsewhere = shown | in_corpus
    for name in missing:
        given, stage = sets[name], stages[name]
        shared = by_set[name].keys() & elsewhere.keys()
        parts, info = list[Part](), dict[str, Any](in_corpus=0)
        if shared:
            args = store, given.folder, kind, shared
            made = make_parts(store, [stage], _leave_out, args, label=f"filter {name}",
                              suffix="parquet")  # fmt: skip
            parts = made[stage.folder]
            first = min(shared, key=lambda content: by_set[name][content])
            places = ["{}:{}".format(*found[first]) for found in (by_set[name], elsewhere)]
            gone = given.rows - sum(part.rows for part in parts)
            where = "the corpus or evaluation.few_shot" if shots else "the corpus"
            note = _note(kind, name, gone, given.rows, where, places)
            info = {"in_corpus": gone, "note": note}
            if gone == given.rows:
                raise ValueError(f"{note}; nothing is left to evaluate on")
        checked[name] = store.commit(stage.folder, stage.fingerprint, parts, info)
    return {
        name: found if found is not None and LeaksView(found).in_corpus else sets[name]
        for name, found in checked.items()
    }


def apart(
    store: Store,
    given: Manifest,
    others: Mapping[str, Manifest],
    field: str,
    *,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Write `given`, examples of a field, without the rows that others have too.

    others: by what they are called in a message. info: LeaksView. ValueError if nothing is left.
    """
    mine = _places(store, given, "files", f"read {field}")
    contents, elsewhere, told = frozenset(mine), dict[int, tuple[str, int]](), list[str]()
    for what, other in others.items():
        found = _places(store, other, "files", f"search {what}", contents)
        if found:
            first = min(found, key=lambda content: mine[content])
            told.append(f"{len(found):,} of {what}, such as {mine[first][0]}:{mine[first][1]}")
        elsewhere |= found
    args = store, given.folder, "files", set(elsewhere)
    stage = StageParts(folder, fingerprint, units_of(given), {})
    made = make_parts(store, [stage], _leave_out, args, label=f"filter {field}", suffix="parquet")
    gone = given.rows - sum(part.rows for part in made[folder])
    info: dict[str, Any] = {"in_corpus": gone}
    if gone:
        text = f"{field}: left out {gone:,} of {given.rows:,} examples: {' and '.join(told)}"
        info["note"] = text
    if gone == given.rows:
        raise ValueError(f"{info['note']}; nothing is left: give examples that the corpus lacks")
    return store.commit(folder, fingerprint, made[folder], info)


def shared_with(store: Store, given: Manifest, other: Manifest) -> tuple[int, str]:
    """Return how many contents two sets of examples share, and the place of the first in `given`
    ("" if there is none)."""
    mine = _places(store, given, "files", "read the purpose")
    found = _places(store, other, "files", "search evaluation files", frozenset(mine))
    first = min((mine[content] for content in found), default=None)
    return len(found), "" if first is None else f"{first[0]}:{first[1]}"


def notes(sets: Mapping[str, Manifest]) -> list[str]:
    """Say what was left out: a sentence for each set that lost rows."""
    found = (LeaksView(each).note for each in sets.values())
    return [note for note in found if note is not None]


def _note(kind: str, name: str, gone: int, rows: int, where: str, places: list[str]) -> str:
    what = "questions" if kind == "answers" else "examples"
    return (
        f"evaluation.{kind}: {name}: left out {gone:,} of {rows:,} {what}, because {where} has "
        f"them too; the first is {places[0]}, which is also {places[1]}"
    )


def _places(
    store: Store, manifest: Manifest, kind: str, label: str, among: frozenset[int] | None = None
) -> Places:
    """Find the first place of each content in a stage. among: only of these."""
    found: Places = {}
    args = store, manifest.folder, kind, among
    for places in fold_parts(_part_places, manifest.parts, *args, label=label):
        for content, place in places.items():
            found[content] = min(found.get(content, place), place)
    return found


def _part_places(
    part: Part, store: Store, folder: str, kind: str, among: frozenset[int] | None
) -> Places:
    found: Places = {}
    table = completed(store.read_part(folder, part), EXAMPLES)
    for batch in table.to_batches(max_chunksize=1000):  # texts take more memory as Python objects
        for content, place in _places_of_rows(batch.to_pylist(), kind).items():
            if among is None or content in among:
                found[content] = min(found.get(content, place), place)
    return found


def _places_of_rows(rows: Sequence[dict[str, Any]], kind: str) -> Places:
    found: Places = {}
    for row in rows:
        place = row["file"], row["row"]
        for content in _contents(Example(row["turns"], row["tools"]), kind):
            found[content] = min(found.get(content, place), place)
    return found


def _contents(example: Example, kind: str) -> list[int]:
    """Hash what a row of a set and one of the corpus must share to be a leak."""
    if kind != "answers":
        turns: list[Any] = [{**turn, "train": None} for turn in example.turns]
        return [hash63(content_of(Example(turns, example.tools)))]
    asked = ("user", "input")  # if the instruction is the task, the input is the question
    return [hash63(turn["text"].encode()) for turn in example.turns if turn["role"] in asked]


def _leave_out(store: Store, folder: str, kind: str, shared: set[int]) -> Work:
    def work(unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = completed(store.read_part(folder, unit["part"]), EXAMPLES)
        kept = [
            shared.isdisjoint(_contents(Example(row["turns"], row["tools"]), kind))
            for row in table.select(["turns", "tools"]).to_pylist()
        ]
        return table.filter(pa.array(kept, pa.bool_())), {}

    return work
