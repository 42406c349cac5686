"""What a cluster of copies costs: how much of a subset's budget goes to near-duplicates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from s2l_ray.corpus.copies import Copies
from s2l_ray.execution.parts import fold_parts
from s2l_ray.formatting import percent, plural
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.views import NearDuplicatesView


class Spent(NamedTuple):
    """Of the examples of a subset, those in a group of near-duplicates, and of these the copies:
    all but one of each group."""

    examples: int
    in_groups: int
    copies: int


def spent(store: Store, near: Manifest, subset: Manifest) -> Spent:
    """Count a subset's copies. The driver holds the groups of those that are in one: 8 bytes each,
    at most as many as near_duplicates.MOST_PAIRS allows."""
    copies = Copies.of(near, most=1)
    found = fold_parts(_groups, subset.parts, store, subset.folder, copies)
    groups = np.concatenate([np.empty(0, np.int64), *found])
    return Spent(subset.rows, len(groups), len(groups) - len(np.unique(groups)))


def _groups(part: Part, store: Store, folder: str, copies: Copies) -> np.ndarray:
    ids = store.read_part(folder, part, ["example_id"])["example_id"].to_numpy()
    return copies.groups(store, ids)


def groups_told(near: NearDuplicatesView, examples: int, most: int | None) -> str:
    """Say how many groups a corpus has, how large, and what a cap leaves out.

    examples: of the corpus, with a label token.
    """
    if not near.groups:
        return f"There are no near-duplicates among {plural(examples, 'example')}."
    held, left_out = near.manifest.rows, near.left_out(most or near.largest)
    text = (
        f"{percent(held, examples)} of {plural(examples, 'example')} are in "
        f"{plural(near.groups, 'group')} of near-duplicates, the largest of {near.largest:,}"
    )
    if most is None:
        return f"{text}; all can be chosen."
    return f"{text}; {most:,} of each can be chosen, {left_out:,} are left out."


def spent_told(selector: str, of: Spent) -> str:
    """Say what part of a selector's budget goes to copies."""
    return (
        f"{selector} spends {percent(of.copies, of.examples)} of its budget on copies: "
        f"{of.in_groups:,} of {plural(of.examples, 'example')} are in groups of near-duplicates, "
        f"{of.copies:,} of them beside another of their group."
    )
