"""Rows that are plain pairs or chats, made into examples by columns.

It takes a third of the time of shapes.py, which gets all other rows, one by one: those that may be
bad, and those with anything beyond roles and texts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.corpus.columns import MEANINGFUL, Columns, whole_columns
from s2l_ray.corpus.shapes import LONGEST_LABEL, RowSettings
from s2l_ray.corpus.trees import KEYS
from s2l_ray.corpus.turns import CALL, Rules

MARKUP = "<(image>|\\|image|start_of_image>|video>|audio>)"  # in what shapes.py refuses
MAY_BE_BLANK = ("system", "tool")


class Turns(NamedTuple):
    """Turns of examples. offsets: where those of each example begin, and where the last end."""

    offsets: np.ndarray
    roles: np.ndarray  # of str
    texts: pa.StringArray

    def only(self, good: np.ndarray) -> Turns:
        """Return the turns of the examples for which `good` is true."""
        lengths = np.diff(self.offsets)
        kept = np.repeat(good, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths[good])])
        return Turns(offsets, self.roles[kept], self.texts.filter(pa.array(kept)))


class Examples(NamedTuple):
    """Examples that have roles and texts only. rows: their places in the table."""

    rows: np.ndarray
    sources: pa.StringArray
    topics: pa.StringArray  # null: none
    turns: Turns


def regular_examples(table: pa.RecordBatch, settings: RowSettings) -> list[Examples]:
    """Return the examples of rows that certainly are what shapes.parse makes of them."""
    names = table.schema.names
    if KEYS.issubset(names):
        return []
    meaningful = MEANINGFUL | {column for _, column in settings.given}
    known = [name for name in names if name in meaningful and name not in settings.rules.ignored]
    if len(known) > 60:
        return []
    # A bit per column that a row fills: rows with the same bits have the same shape.
    shapes = np.zeros(table.num_rows, np.int64)
    for bit, name in enumerate(known):
        shapes |= _filled(table[name]).astype(np.int64) << bit
    found = []
    for shape in np.unique(shapes).tolist():
        filled = frozenset(name for bit, name in enumerate(known) if shape >> bit & 1)
        columns = whole_columns(filled, settings.given)
        if columns is None or not _is_simple(columns):
            continue
        rows = np.flatnonzero(shapes == shape)
        some = table if len(rows) == table.num_rows else table.take(pa.array(rows))
        sources, topics = _texts(some, columns.source), _texts(some, settings.topic)
        made = _chats(some, columns, settings.rules) if columns.messages else _pairs(some, columns)
        if sources is None or topics is None or made is None:
            continue
        turns, good = made
        good &= _are_sound(turns) & ~(_too_long(sources) | _too_long(topics))
        if not good.all():
            rows, turns, kept = rows[good], turns.only(good), pa.array(good)
            sources, topics = sources.filter(kept), topics.filter(kept)
        if len(rows):
            unnamed = pc.equal(sources.fill_null(""), "")
            sources = pc.if_else(unnamed, settings.source, sources)
            topics = pc.if_else(pc.equal(topics, ""), None, topics)
            found.append(Examples(rows, sources, topics, turns))
    return found


def _too_long(labels: pa.StringArray) -> np.ndarray:
    long = pc.fill_null(pc.greater(pc.utf8_length(labels), LONGEST_LABEL), False)
    return long.to_numpy(zero_copy_only=False)


def _filled(column: pa.Array) -> np.ndarray:
    """Return where columns_of_row takes the column for filled."""
    valid = pc.is_valid(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        valid = pc.and_(valid, pc.fill_null(pc.greater(pc.list_value_length(column), 0), False))
    return valid.to_numpy(zero_copy_only=False)


def _is_simple(columns: Columns) -> bool:
    """Return whether rows with these columns have nothing beyond turns of role and text."""
    more = columns.history, columns.reasoning, columns.tools, columns.mark, columns.unused
    return not any(more) and len(columns.inputs) < 2 and len(columns.systems) < 2


def _texts(table: pa.RecordBatch, name: str | None) -> pa.StringArray | None:
    """Return a column of text, of nulls if it is absent; None if it is none."""
    if name not in table.schema.names:
        return pa.nulls(table.num_rows, pa.string())
    return _as_text(table[name])


def _as_text(column: pa.Array) -> pa.StringArray | None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    return column.cast(pa.string()) if is_text else None


def _blank(texts: pa.StringArray) -> np.ndarray:
    """Return where texts are null, or are empty after str.strip."""
    stripped = pc.utf8_ltrim_whitespace(texts)
    return pc.fill_null(pc.equal(stripped, ""), True).to_numpy(zero_copy_only=False)


Made = tuple[Turns, np.ndarray]  # and which examples are good, as far as it has been checked


def _pairs(table: pa.RecordBatch, columns: Columns) -> Made | None:
    roles = [
        *["system" for _ in columns.systems],
        "user",
        *["input" for _ in columns.inputs],
        "assistant",
    ]
    names = *columns.systems, columns.instruction, *columns.inputs, columns.output
    found = [_texts(table, name) for name in names]
    texts = [each for each in found if each is not None]
    if len(texts) < len(found):
        return None
    blank = np.stack([_blank(each) for each in texts], axis=1)
    optional = np.isin(roles, ("system", "input"))
    there = ~blank | ~optional
    # Text c of row n is at place c * num_rows + n of all.
    places = np.arange(table.num_rows)[:, None] + np.arange(len(texts)) * table.num_rows
    turns = Turns(
        np.concatenate([[0], np.cumsum(there.sum(axis=1))]),
        np.broadcast_to(np.array(roles, object), there.shape)[there],
        pa.concat_arrays(texts).take(pa.array(places[there])),
    )
    return turns, np.all(~blank | optional, axis=1)


def _chats(table: pa.RecordBatch, columns: Columns, rules: Rules) -> Made | None:
    chats = table[columns.messages]
    systems = [_texts(table, name) for name in columns.systems]
    is_list = pa.types.is_list(chats.type) or pa.types.is_large_list(chats.type)
    if not is_list or not pa.types.is_struct(chats.type.value_type) or None in systems:
        return None
    good = np.ones(table.num_rows, bool)
    for texts in systems:
        good &= _blank(texts)  # otherwise the chat's own system turn may differ
    messages = chats.flatten()
    fields = dict(zip([field.name for field in messages.type], messages.flatten(), strict=True))
    fields = {name: fields[name] for name in fields if name not in rules.ignored}
    roles, texts = _taken(fields, "role", "from"), _taken(fields, "content", "value")
    if roles is None or texts is None:
        return None
    plain = pc.and_(roles.is_valid(), texts.is_valid())
    for other in fields.values():
        plain = pc.and_(plain, other.is_null())
    codes = roles.fill_null("").dictionary_encode()
    known = [rules.roles.get(name.strip().lower(), CALL) for name in codes.dictionary.to_pylist()]
    names = np.array(known, object)[codes.indices.to_numpy()]
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(chats).to_numpy())])
    good &= np.logical_and.reduceat(
        plain.to_numpy(zero_copy_only=False) & (names != CALL), offsets[:-1]
    )
    return Turns(offsets, names, texts.fill_null("")), good


def _taken(fields: dict[str, pa.Array], *names: str) -> pa.StringArray | None:
    """Remove the first of these fields that is there; return it if it is text."""
    name = next((name for name in names if name in fields), None)
    return None if name is None else _as_text(fields.pop(name))


def _are_sound(turns: Turns) -> np.ndarray:
    """Return which examples shapes.parse finds no fault with."""
    roles, begins = turns.roles, turns.offsets[:-1]
    answers = roles == "assistant"
    may_be_blank = np.isin(roles, MAY_BE_BLANK)
    marked = pc.match_substring_regex(turns.texts, MARKUP).to_numpy(zero_copy_only=False)
    fine = (~_blank(turns.texts) | may_be_blank) & (answers | ~marked)
    return (
        np.logical_and.reduceat(fine, begins)
        & np.logical_or.reduceat(answers, begins)
        & ~answers[begins]
    )
