"""Losses that something else computed, joined to a corpus: the stage of losses without a proxy.

A loss has a key: an example_id, the row of a corpus file, or a hash of the tokens. Each join brings
losses and the translation of their keys together by key, in a wave of tasks; a last wave brings the
losses to the parts of the corpus. P points of the trajectories, n examples of a part.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from s2l_ray.config import LossesConfig
from s2l_ray.execution.nodes import num_cpus
from s2l_ray.execution.progress import Progress
from s2l_ray.execution.shuffle import gather, scatter
from s2l_ray.formatting import plural
from s2l_ray.scoring.loss_files import RECORDS, LossFile, LossFiles, find, key_of, read, rows_of
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.schemas import LOSSES
from s2l_ray.store.views import CorpusView, TokensView

logger = logging.getLogger(__name__)

GROUP_EXAMPLES = 1 << 20  # whose losses a task brings to their parts, about

# Losses on their way, and translations of keys: `to` is the new key, null for a loss.
_JOINED = pa.schema([*RECORDS, ("to", pa.int64())])


@dataclass(frozen=True)
class _Map:
    """A file, or a part of a stage, that translates keys. kind: recorded, row or tokens."""

    kind: str
    file: Any
    column: str = ""


def import_losses(
    store: Store,
    corpus: Manifest,
    tokens: Manifest,
    config: LossesConfig,
    *,
    folder: str,
    fingerprint: str,
) -> Manifest:
    """Write a stage of losses (store.views.StepsView) from config.path, and commit it.

    Examples without a loss at every point get none. ValueError if they are more than
    config.max_missing_share, if the files cannot be read, or if there are fewer than two points.
    """
    files = find(config.path, store.config)
    key = key_of(config, files)
    maps = _maps(key, files, corpus, tokens)
    num_parts, trainable = CorpusView(corpus).num_parts, TokensView(tokens).trainable
    num_groups = max(1, min(num_parts, max(num_cpus(), trainable // GROUP_EXAMPLES)))

    points, strangers = Counter[int](), 0
    losses: list[Any] = [*files.losses]  # later the groups of the wave before
    for number, translations in enumerate([*maps, []]):
        last = number == len(maps)
        items = [*losses, *translations]
        groups: list[list[Any]] = [[] for _ in range(num_groups)]
        args = (store, key, corpus.folder, tokens.folder, num_parts if last else 0, num_groups)
        with Progress("read losses", total=len(items), unit="items") as progress:
            for found, told in scatter(_spread, items, num_groups, *args):
                for group, tables in zip(groups, found, strict=True):
                    group += tables
                points.update(told.points)
                strangers += told.strangers
                progress.advance(1)
        losses = [*groups]
    kept = _points(points, config)
    done = _Written()
    with Progress("losses", total=num_groups, unit="groups") as progress:
        for each in gather(
            _write_group, losses, store, folder, tokens, kept, num_parts, num_groups
        ):
            done.add(each)
            progress.advance(1)
    strangers += done.strangers
    summary = (
        f"{done.missing:,} of {plural(trainable, 'example')} have no loss at each of "
        f"{len(kept)} points; losses of no example: {strangers:,} (joined by {key})"
    )
    if done.missing > config.max_missing_share * trainable:
        raise ValueError(
            f"losses.path: {config.path}: {summary}; the first is example_id {done.first}. Check "
            "losses.key, and for tokens the prompt's settings and the tokenizer, or raise "
            f"losses.max_missing_share, which is {config.max_missing_share:.1%}"
        )
    logger.info(f"losses: {summary}")
    return store.commit(folder, fingerprint, done.parts, {"steps": kept})


def _maps(key: str, files: LossFiles, corpus: Manifest, tokens: Manifest) -> list[list[_Map]]:
    """List the translations of the losses' keys to example ids, one after the other."""
    recorded = files.keys[0] == "tokens"
    maps = []
    if recorded and key != "tokens":
        maps.append([_Map("recorded", file, key) for file in files.rows])
    if key == "tokens":
        maps.append([_Map("tokens", part) for part in tokens.parts])
    elif key == "row":
        read_from = CorpusView(corpus).files
        if len(read_from) != 1:
            raise ValueError(
                f"losses.key: row needs a corpus of one file, but {len(read_from)} were read; "
                "join by another key"
            )
        maps.append([_Map("row", part) for part in corpus.parts])
    return maps


def _points(points: Counter[int], config: LossesConfig) -> list[int]:
    """Return the points that trajectories have. The last one is left out if it has fewer losses
    than the one before it: its epoch has not ended."""
    kept = sorted(points)
    if len(kept) > 1 and points[kept[-1]] < (1 - config.max_missing_share) * points[kept[-2]]:
        logger.info(f"point {kept[-1]}: {points[kept[-1]]:,} losses only; it is left out")
        kept.pop()
    if len(kept) < 2:
        raise ValueError(
            f"losses.path: {config.path}: a trajectory needs losses at 2 points or more (epochs, "
            f"or checkpoints), found {len(kept)}"
        )
    return kept


@dataclass
class _Told:
    points: Counter[int]
    strangers: int = 0  # losses whose key has no translation


def _spread(
    item: Any,
    store: Store,
    key: str,
    corpus: str,
    tokens: str,
    num_parts: int,
    num_groups: int,
) -> Generator[list[pa.Table], None, _Told]:
    """Read a file, a translation, or a group of the wave before, and divide it: by part if
    num_parts is given, else by key."""
    told = _Told(Counter())
    for table in _tables(item, store, key, corpus, tokens, told):
        keys = table["key"].to_numpy()
        if num_parts:
            group_of = part_numbers(keys, num_parts) * num_groups // num_parts
        else:
            group_of = keys.view(np.uint64) % np.uint64(num_groups)
        order = np.argsort(group_of, kind="stable")
        edges = np.searchsorted(group_of[order], np.arange(num_groups + 1))
        rows = table.take(pa.array(order)).combine_chunks()
        yield [rows.slice(a, b - a) for a, b in pairwise(edges.tolist())]
    return told


def part_numbers(ids: np.ndarray, num_parts: int) -> np.ndarray:
    """Compute id * num_parts >> 63 for int64 ids >= 0 (others are of no part: 0), as the corpus
    does, without numbers of more than 64 bits."""
    ids = np.where(ids < 0, 0, ids)
    high, low = ids >> 31, ids & (2**31 - 1)
    return (high * num_parts + (low * num_parts >> 31)) >> 32


def _tables(
    item: Any, store: Store, key: str, corpus: str, tokens: str, told: _Told
) -> Iterator[pa.Table]:
    """Yield tables of _JOINED: losses, or the translations of keys."""
    if isinstance(item, LossFile):
        for records in read(item, key):
            known = records.filter(pc.is_finite(records["loss"]))  # NaN stands for no loss
            for count in pc.value_counts(known["point"]).to_pylist():
                told.points[count["values"]] += count["counts"]
            yield known.append_column("to", pa.nulls(known.num_rows, pa.int64()))
    elif isinstance(item, list):
        yield _translated(pa.concat_tables(ray.get(item)), told)
    else:
        found = _translation(item, store, corpus, tokens)
        nulls = (pa.nulls(found.num_rows, field.type) for field in RECORDS if field.name != "key")
        yield pa.table([found["key"], *nulls, found["to"]], schema=_JOINED)


def _translation(item: _Map, store: Store, corpus: str, tokens: str) -> pa.Table:
    """Return columns key and to."""
    if item.kind == "recorded":
        return rows_of(item.file, item.column)
    if item.kind == "row":
        rows = store.read_part(corpus, item.file, ["example_id", "row"])
        return pa.table({"key": pc.subtract(rows["row"], 1), "to": rows["example_id"]})
    from s2l_ray.models.documents import keys_of_rows  # imports torch

    rows = store.read_part(tokens, item.file, ["example_id", "input_ids"]).combine_chunks()
    ids = rows["input_ids"].chunk(0) if rows.num_rows else pa.array([], pa.list_(pa.int32()))
    keys = keys_of_rows(ids.flatten().to_numpy(), ids.offsets.to_numpy())
    return pa.table({"key": keys, "to": rows["example_id"]})


def _translated(group: pa.Table, told: _Told) -> pa.Table:
    """Give the losses of a group their new keys. Several examples may have one key."""
    is_loss = pc.is_null(group["to"])
    losses, maps = group.filter(is_loss).drop(["to"]), group.filter(pc.invert(is_loss))
    joined = losses.join(maps.select(["key", "to"]), "key", join_type="left outer")
    known = joined.filter(pc.is_valid(joined["to"]))
    told.strangers += joined.num_rows - known.num_rows
    columns = [known["to"], *(known[name] for name in RECORDS.names[1:])]
    return pa.table([*columns, pa.nulls(known.num_rows, pa.int64())], schema=_JOINED)


@dataclass
class _Written:
    """parts written; examples without a loss at every point, and the first; losses of none."""

    parts: list[Part] = field(default_factory=list)
    missing: int = 0
    first: int | None = None
    strangers: int = 0

    def add(self, more: _Written) -> None:
        self.parts += more.parts
        self.missing += more.missing
        self.strangers += more.strangers
        self.first = more.first if self.first is None else self.first


def _write_group(
    group: int,
    tables: Sequence[pa.Table],
    store: Store,
    folder: str,
    tokens: Manifest,
    points: list[int],
    num_parts: int,
    num_groups: int,
) -> _Written:
    """Write the parts of a group, one for each point and part of the corpus."""
    losses = pa.concat_tables(tables) if tables else _JOINED.empty_table()
    ids, point, order = (losses[name].to_numpy() for name in ("key", "point", "order"))
    sequence = np.lexsort((order, point, ids))
    ids, point, loss = ids[sequence], point[sequence], losses["loss"].to_numpy()[sequence]
    done = _Written()
    found = 0
    for part in tokens.parts:
        number = int(part.unit.rpartition("-")[2])
        if number * num_groups // num_parts != group:
            continue
        rows = store.read_part(tokens.folder, part, ["example_id", "num_label_tokens"])
        rows = rows.filter(pc.greater(rows["num_label_tokens"], 0))
        known = rows["example_id"].to_numpy()  # sorted
        losses_nP = np.full((len(known), len(points)), np.nan, np.float32)
        place = np.searchsorted(known, ids).clip(0, max(len(known) - 1, 0))
        column = np.searchsorted(points, point).clip(0, len(points) - 1)
        mine = (known[place] == ids) if len(known) else np.zeros(len(ids), bool)
        found += int(mine.sum())
        mine &= np.asarray(points)[column] == point
        losses_nP[place[mine], column[mine]] = loss[mine]  # of two, the later one
        whole = np.isfinite(losses_nP).all(axis=1)
        if not whole.all():
            done.missing += int((~whole).sum())
            done.first = int(known[~whole][0]) if done.first is None else done.first
        rows = rows.filter(pa.array(whole))
        for number, step in enumerate(points):
            columns = [rows["example_id"], losses_nP[whole, number], rows["num_label_tokens"]]
            table = pa.table(columns, schema=LOSSES)
            done.parts.append(store.write_part(table, folder, f"step-{step:06d}/{part.unit}"))
    done.strangers = len(ids) - found
    return done
