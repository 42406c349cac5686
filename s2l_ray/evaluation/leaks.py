"""What held-out files share with the corpus: a target may have been trained on it, so it is left
out of the evaluation, counted and said.

The same example: the same turns, as duplicates of a corpus are told, whatever the source. The same
question: the text of any user's turn, or of any input, in the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from s2l_ray.config import fingerprint
from s2l_ray.corpus.identity import content_of, hash63
from s2l_ray.execution.parts import StageParts, Work, fold_parts, make_parts, units_of
from s2l_ray.store import Manifest, Part, Store

Places = dict[int, tuple[str, int]]  # hash of a content -> file and row, the first that has it


def without_corpus(
    store: Store, examples: Manifest, sets: Mapping[str, Manifest], kind: str
) -> dict[str, Manifest]:
    """Each set, by its name, without the rows that the corpus `examples` has too; itself if none.

    The info of one that lost rows: in_corpus, how many, and note, the same in words. kind: files or
    answers, as in the config. ValueError if nothing is left of a set.
    """
    stages = {}
    for name, given in sets.items():
        mark = fingerprint(given.fingerprint, examples.fingerprint)
        folder = f"{given.folder}/apart/{mark}"
        stages[name] = StageParts(folder, mark, units_of(given), {})
    checked = {name: store.manifest(stage.folder) for name, stage in stages.items()}
    missing = [name for name, found in checked.items() if found is None]
    if missing:
        held = {name: _places(store, sets[name], kind, f"read {name}") for name in missing}
        wanted = frozenset[int]().union(*held.values())
        there = _places(store, examples, kind, "search the corpus", wanted)
    for name in missing:
        given, stage = sets[name], stages[name]
        shared = held[name].keys() & there.keys()
        parts, info = list[Part](), dict[str, Any](in_corpus=0)
        if shared:
            args = store, given.folder, kind, shared
            made = make_parts(store, [stage], _leave_out, args, label=f"leave out of {name}",
                              suffix="parquet")  # fmt: skip
            parts = [part for part in made[stage.folder] if part.rows]
            first = min(shared, key=lambda content: held[name][content])
            places = ["{}:{}".format(*where[first]) for where in (held[name], there)]
            gone = given.rows - sum(part.rows for part in parts)
            info = {"in_corpus": gone, "note": _words(kind, name, gone, given.rows, places)}
            if not parts:
                raise ValueError(f"{info['note']}; nothing is left to evaluate on")
        checked[name] = store.commit(stage.folder, stage.fingerprint, parts, info)
    return {
        name: found if found is not None and found.info["in_corpus"] else sets[name]
        for name, found in checked.items()
    }


def notes(sets: Mapping[str, Manifest]) -> list[str]:
    """What was left out of the sets, a sentence for each that lost rows."""
    return [found.info["note"] for found in sets.values() if "note" in found.info]


def _words(kind: str, name: str, gone: int, rows: int, places: list[str]) -> str:
    what = "examples" if kind == "files" else "questions"
    return (
        f"evaluation.{kind}: {name}: {gone:,} of {rows:,} {what} are left out, since the corpus "
        f"has them too: {places[0]}, for one, in {places[1]}"
    )


def _places(
    store: Store, manifest: Manifest, kind: str, label: str, wanted: frozenset[int] | None = None
) -> Places:
    """Of all contents in a manifest's parts, or of the wanted ones; a Ray task a part."""
    found: Places = {}
    args = store, manifest.folder, kind, wanted
    for places in fold_parts(_part_places, manifest.parts, *args, label=label):
        for content, place in places.items():
            found[content] = min(found.get(content, place), place)
    return found


def _part_places(
    part: Part, store: Store, folder: str, kind: str, wanted: frozenset[int] | None
) -> Places:
    found: Places = {}
    table = store.read_part(folder, part, ["turns", "file", "row"])
    for batch in table.to_batches(max_chunksize=1000):  # as Python objects texts are larger
        for row in batch.to_pylist():
            place = row["file"], row["row"]
            for content in _contents(row["turns"], kind):
                if wanted is None or content in wanted:
                    found[content] = min(found.get(content, place), place)
    return found


def _contents(turns: list[dict[str, str]], kind: str) -> list[int]:
    """Hashes of what makes the row of a set and one of the corpus the same."""
    if kind == "files":
        return [hash63(content_of([(turn["role"], turn["text"]) for turn in turns]))]
    asked = ("user", "input")  # rows with the task in the instruction ask in the input
    return [hash63(turn["text"].encode()) for turn in turns if turn["role"] in asked]


def _leave_out(store: Store, folder: str, kind: str, shared: set[int]) -> Work:
    def work(unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = store.read_part(folder, unit["part"])
        kept = [shared.isdisjoint(_contents(turns, kind)) for turns in table["turns"].to_pylist()]
        return table.filter(pa.array(kept, pa.bool_())), {}

    return work
