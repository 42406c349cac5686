"""Trees of messages, a row per message, as OpenAssistant publishes them.

A row names its parent, and the rows of a tree follow one another. Every way from a root to a leaf
is a chat. An answer that several of them share has labels in the first alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from s2l_ray.corpus.rows import BadRow, SourceRow
from s2l_ray.corpus.turns import ROLES

Other = TypeVar("Other")

KEYS = frozenset(("message_id", "parent_id", "role", "text"))
LARGEST, LONGEST = 10_000, 1000  # messages of a tree, and of a chat


def is_message(content: Any) -> bool:
    """Return whether a row is one message of a tree."""
    return isinstance(content, dict) and content.keys() >= KEYS


def with_chats(
    rows: Iterable[SourceRow | Other], roles: Mapping[str, str] = ROLES
) -> Iterator[SourceRow | Other]:
    """Put chats in place of messages, and pass everything else on.

    The number of a chat is that of its last message. A message whose parent is missing, or that
    was deleted or marked as bad, is a BadRow, as are all that follow from it. roles: see Rules.
    """
    tree: list[SourceRow] = []
    for row in rows:
        if not isinstance(row, SourceRow) or not is_message(row.content):
            yield row
            continue
        if tree and row.content["parent_id"] is None:
            yield from _chats(tree, roles)
            tree = []
        if len(tree) < LARGEST:
            tree.append(row)
        else:
            detail = f"the limit is {LARGEST:,} messages"
            yield row._replace(content=BadRow("too large a tree of messages", detail))
    yield from _chats(tree, roles)


def _chats(tree: list[SourceRow], roles: Mapping[str, str]) -> Iterator[SourceRow]:
    found: dict[Any, SourceRow] = {}
    parents = set()
    for row in tree:
        fault = _fault(row.content, found)
        if fault is not None:
            yield row._replace(content=fault)
            continue
        found[row.content["message_id"]] = row
        parents.add(row.content["parent_id"])
    labelled = set[Any]()
    for name, row in found.items():
        if name in parents:
            continue
        way = [row]
        while len(way) <= LONGEST and (parent := way[-1].content["parent_id"]) is not None:
            way.append(found[parent])
        if len(way) > LONGEST:
            detail = f"the limit is {LONGEST:,} messages"
            yield row._replace(content=BadRow("too long a chat in a tree of messages", detail))
            continue
        answers = {each.content["message_id"] for each in way if _is_answer(each.content, roles)}
        if answers and answers <= labelled:  # a question at the end, which nothing answers
            continue
        messages = [_message(each.content, labelled) for each in reversed(way)]
        labelled |= answers
        # The other columns too: reading the chat uses what they hold, or refuses it by name.
        columns = {
            key: value
            for each in reversed(way)
            for key, value in each.content.items()
            if key not in KEYS and value is not None
        }
        yield row._replace(content=columns | {"messages": messages})


def _fault(message: dict[str, Any], found: dict[Any, SourceRow]) -> BadRow | None:
    name, parent = message["message_id"], message["parent_id"]
    if not isinstance(name, str | int) or not isinstance(parent, str | int | None):
        return BadRow("wrong type of 'message_id' or 'parent_id'", "expected strings")
    if name in found:
        return BadRow("'message_id' twice in a tree", repr(name)[:40])
    if parent is not None and parent not in found:
        detail = f"{repr(parent)[:40]} is not among the good rows of its tree before it"
        return BadRow("missing parent of a message", detail)
    if message.get("deleted") is True or message.get("review_result") is False:
        return BadRow("marked as a bad answer", "'deleted' is true or 'review_result' is false")
    return None


def _is_answer(message: dict[str, Any], roles: Mapping[str, str]) -> bool:
    return roles.get(str(message["role"]).strip().lower()) == "assistant"


def _message(row: dict[str, Any], labelled: set[Any]) -> dict[str, Any]:
    weight = {"weight": 0} if row["message_id"] in labelled else {}
    return {"role": row["role"], "content": row["text"], **weight}
