"""From the content of a row to an example. Pure functions, no I/O."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple, TypeGuard

from s2l_ray.config import CorpusConfig
from s2l_ray.corpus.columns import MEDIA, Columns, Given, columns_of_row
from s2l_ray.corpus.rows import DECODER, BadRow, Example, Turn, kind_of
from s2l_ray.corpus.tools import tools_text
from s2l_ray.corpus.turns import ROLES, Rules, is_empty, present, turns_of

# Where an image, video or audio clip belongs, in LLaVA's and the families' own notations. An image
# tag that is closed later is markup.
IMAGE = "<image>", "</image>"
PLACEHOLDER = re.compile(
    r"<\|image\|>|<\|image_pad\|>|<start_of_image>|^\s*<(?:video|audio)>|<(?:video|audio)>\s*$"
)


LONGEST_LABEL = 1000  # characters; the driver and reports have each name


class RowSettings(NamedTuple):
    """How the rows of a corpus are read, from its settings."""

    given: Given = frozenset()  # corpus.columns
    source: str = "default"  # of rows that name none
    rules: Rules = Rules()

    @property
    def topic(self) -> str | None:
        return dict(self.given).get("topic")


def row_settings_of(config: CorpusConfig) -> RowSettings:
    roles = ROLES | {name.strip().lower(): role for name, role in config.roles.items()}
    rules = Rules(roles, frozenset(config.ignore_keys))
    unnamed = {"source": None} if "source" in config.ignore_keys else {}
    given = frozenset((unnamed | config.columns).items())
    return RowSettings(given, config.source or "default", rules)


def topic_of(content: dict[str, Any], settings: RowSettings) -> str | None:
    """Return a row's topic; None if it has none, or corpus.columns.topic is not given."""
    return _label(content, settings.topic, "topic") or None


def parse(
    content: Any, settings: RowSettings, *, typed: bool = False, like: Columns | None = None
) -> tuple[str, Example]:
    """Return the source and the example of a row. BadRow says why it is none.

    typed: the row comes from Arrow; see tools.tools_text. like: as in columns_of_row.
    """
    if not isinstance(content, dict):
        raise BadRow("not an object", f"got {kind_of(content)}")
    rules = settings.rules._replace(typed=True) if typed else settings.rules
    columns = columns_of_row(content, settings.given, rules.ignored, like)
    if columns.unused or columns.mark:
        _refuse_unused(content, columns)
    turns = _chat(content, columns, rules) if columns.messages else _pair(content, columns, rules)
    if columns.systems:
        turns = _with_system(turns, content, columns)
    answered = trained = False
    for turn in turns:
        if turn["role"] == "assistant":
            answered = True
            trained = trained or turn.get("train") is not False
        elif "<" in turn["text"]:
            _refuse_placeholder(turn)
    if not trained:
        raise BadRow(f"no {'trained ' * answered}assistant turn", f"{len(turns)} messages")
    if turns[0]["role"] == "assistant":
        raise BadRow("the first turn is the assistant's")
    tools = _tools(content, columns, rules) if columns.tools else None
    source = _label(content, columns.source, "source") or settings.source
    return source, Example(turns, tools)


def _refuse_placeholder(turn: Turn) -> None:
    opened, closed = map(turn["text"].rfind, IMAGE)
    match = PLACEHOLDER.search(turn["text"])
    found = match[0].strip() if match else IMAGE[0] if opened > closed else None
    if found:
        detail = f"{found} in a turn of role {turn['role']}"
        raise BadRow("placeholder of an image, video or audio: media are not supported", detail)


def _label(row: dict[str, Any], column: str | None, field: str) -> str | None:
    found = row.get(column) if column else None
    wrong = f"wrong type of {column!r}"
    if isinstance(found, float) and not math.isfinite(found):
        raise BadRow(wrong, f"expected a string, got {found}")
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        found = str(found)
    if found is not None and not isinstance(found, str):
        raise BadRow(wrong, f"expected a string, got {kind_of(found)}")
    if found is not None and len(found) > LONGEST_LABEL:
        other = "corpus.columns.source: null ignores it"
        raise BadRow(
            f"too long a name of a {field} in {column!r}",
            f"{len(found):,} characters; the limit is {LONGEST_LABEL:,}; if the column holds "
            f"something else, {other if field == 'source' else 'leave out corpus.columns.topic'}",
        )
    return found


def _pair(row: dict[str, Any], columns: Columns, rules: Rules) -> list[Turn]:
    """Return the turns of a prompt and its response: two texts, or two lists of messages (TRL)."""
    assert columns.instruction and columns.output
    turns = _history(row, columns.history) if columns.history else []
    prompt = row.get(columns.instruction)
    if _is_chat(prompt):
        before = turns_of(prompt, columns.instruction, rules)
        for turn in before:
            if turn["role"] == "assistant":
                turn["train"] = False  # TRL trains on the completion alone
        turns += before
    else:
        turns.append({"role": "user", "text": _text(row, columns.instruction)})
    inputs = [_text(row, name) for name in columns.inputs if not is_empty(row.get(name))]
    if inputs:
        if turns[-1:] and turns[-1]["role"] != "user":
            last = f"got a prompt that ends with the role {turns[-1]['role']}"
            raise BadRow(f"{columns.inputs[0]!r} beside a chat", last)
        turns.append({"role": "input", "text": "\n\n".join(inputs)})
    response = row.get(columns.output)
    if _is_chat(response):
        answer = turns_of(response, columns.output, rules)
    else:
        answer = [{"role": "assistant", "text": _text(row, columns.output)}]
    return turns + (_reasoned(answer, row, columns.reasoning) if columns.reasoning else answer)


def _reasoned(answer: list[Turn], row: dict[str, Any], names: tuple[str, ...]) -> list[Turn]:
    """Put the text of a column before the response, as its reasoning."""
    texts = {_text(row, name) for name in names if not is_empty(row.get(name))}
    if not texts:
        return answer
    if len(answer) > 1:
        raise BadRow(f"{names[0]!r} beside a chat", f"got a response of {len(answer)} messages")
    own = answer[0].get("reasoning")
    if len(texts) > 1 or own not in (None, *texts):
        raise BadRow(f"{' and '.join(map(repr, names))} differ")
    [text] = texts
    return [{**answer[0], "reasoning": text}]


def _is_chat(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _history(row: dict[str, Any], column: str) -> list[Turn]:
    """Return the turns of [[prompt, response], …]."""
    history = row.get(column)
    if isinstance(history, str):
        history = _list(history, column)
    if is_empty(history):
        return []
    turns: list[Turn] = []
    for number, pair in enumerate(history if isinstance(history, list) else [None], 1):
        texts = pair if isinstance(pair, list) and len(pair) == 2 else [None]
        if not all(isinstance(text, str) for text in texts):
            detail = f"expected a list of [prompt, response], got {kind_of(history)}"
            if isinstance(history, list):
                detail = f"expected two strings as pair {number}"
            raise BadRow(f"wrong type of {column!r}", detail)
        if not all(str(text).strip() for text in texts):
            raise BadRow(f"empty text in {column!r}", f"pair {number}")
        turns += [{"role": role, "text": text}
                  for role, text in zip(("user", "assistant"), texts, strict=True)]  # fmt: skip
    return turns


def _chat(row: dict[str, Any], columns: Columns, rules: Rules) -> list[Turn]:
    assert columns.messages
    messages = present(row, columns.messages)
    if isinstance(messages, str):
        messages = _list(messages, columns.messages)
    if isinstance(messages, dict):
        messages = _by_row(messages)
    if not isinstance(messages, list):
        detail = f"expected a list, got {kind_of(messages)}"
        raise BadRow(f"wrong type of {columns.messages!r}", detail)
    return turns_of(messages, columns.messages, rules)


def _by_row(lists: dict[str, Any]) -> Any:
    """Turn lists of the same length by key, as `datasets` may store messages, into objects."""
    if not lists or not all(isinstance(each, list) for each in lists.values()):
        return lists
    if len({len(each) for each in lists.values()}) > 1:
        return lists
    rows = zip(*lists.values(), strict=True)
    return [dict(zip(lists, row, strict=True)) for row in rows]


def _list(text: str, column: str) -> Any:
    """Return the list whose JSON text a column holds; None if it is blank."""
    if not text.strip():
        return None
    try:
        found = DECODER.decode(text.strip())
    except ValueError as error:
        detail = f"expected a list or its JSON text, got a string ({error})"
        raise BadRow(f"wrong type of {column!r}", detail) from None
    if not isinstance(found, list):
        detail = f"expected a list, got the JSON text of {kind_of(found)}"
        raise BadRow(f"wrong type of {column!r}", detail)
    return found


def _with_system(turns: list[Turn], row: dict[str, Any], columns: Columns) -> list[Turn]:
    """Put the text of a system column before the turns, unless they begin with the same."""
    texts = {_text(row, name): name for name in columns.systems if not is_empty(row.get(name))}
    if not texts:
        return turns
    if len(texts) > 1:
        raise BadRow(f"{' and '.join(map(repr, columns.systems))} differ")
    [(text, name)] = texts.items()
    if turns and turns[0]["role"] == "system":
        if turns[0]["text"] == text:
            return turns
        if turns[0]["text"].strip():
            raise BadRow(f"{name!r} differs from the chat's own system turn")
        turns = turns[1:]
    return [{"role": "system", "text": text}, *turns]


def _tools(row: dict[str, Any], columns: Columns, rules: Rules) -> str | None:
    found = [(name, tools_text(row.get(name), name, typed=rules.typed)) for name in columns.tools]
    texts = {text for _, text in found if text is not None}
    if len(texts) > 1:
        raise BadRow(f"{' and '.join(map(repr, columns.tools))} differ")
    return next(iter(texts), None)


def _refuse_unused(row: dict[str, Any], columns: Columns) -> None:
    for name in columns.unused:
        value = row.get(name)
        if is_empty(value) or value is False:
            continue
        why = "media are not supported" if name in MEDIA else "its content is not read"
        raise BadRow(f"column {name!r}: {why}", f"corpus.ignore_keys: [{name}] leaves it out")
    if columns.mark and row.get(columns.mark) is False:
        raise BadRow("marked as a bad answer", f"{columns.mark!r} is false")


def _text(row: dict[str, Any], field: str) -> str:
    value = present(row, field)
    if not isinstance(value, str):
        raise BadRow(f"wrong type of {field!r}", f"expected a string, got {kind_of(value)}")
    if not value.strip():
        raise BadRow(f"empty field {field!r}")
    return value
