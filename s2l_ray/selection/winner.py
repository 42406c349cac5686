"""The subset of a race: the winner's, with the winner in the reasons."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.config import RACE
from s2l_ray.execution.parts import StageParts, Work, make_parts, units_of
from s2l_ray.store import Manifest, Store


def take(
    store: Store, subset: Manifest, race: dict[str, Any], *, folder: str, fingerprint: str
) -> Manifest:
    """Write the winner's subset as the race's: the same rows in the same order, `WINNER: ` before
    each reason. race: as analysis.race.Race.as_info gives it; it goes into selection.json."""
    args = store, subset.folder, race["winner"]
    stage = StageParts(folder, fingerprint, units_of(subset), {})
    parts = make_parts(
        store, [stage], _name_the_winner, args, label=f"take {race['winner']}", suffix="parquet"
    )
    info = subset.info | {"selector": RACE, "race": race}
    text = json.dumps(info, indent=1, ensure_ascii=False)
    told = store.write_beside(text.encode(), folder, "selection.json")
    return store.commit(folder, fingerprint, parts[folder], info, [told])


def _name_the_winner(store: Store, folder: str, winner: str) -> Work:
    def work(unit: dict[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        table = store.read_part(folder, unit["part"])
        place = table.schema.get_field_index("reason")
        reasons = pc.binary_join_element_wise(f"{winner}: ", table["reason"], "")
        return table.set_column(place, table.schema.field(place), reasons), {}

    return work
