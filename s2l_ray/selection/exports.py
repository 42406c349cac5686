"""Chosen examples in the shapes that other programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def export_row(turns: Sequence[Mapping[str, str]], source: str, shape: str) -> dict[str, Any]:
    """Return an example as a row for other programs: "alpaca", "prompt_response" or "messages".

    In alpaca an input stays a field of its own; elsewhere it follows the prompt after an empty
    line. ValueError for a chat that is not one prompt and one response, except as messages.
    """
    if shape == "messages":
        messages: list[dict[str, str]] = []
        for turn in turns:
            if turn["role"] == "input":
                messages[-1]["content"] += "\n\n" + turn["text"]
            else:
                messages.append({"role": turn["role"], "content": turn["text"]})
        return {"messages": messages, "source": source}
    if shape not in ("alpaca", "prompt_response"):
        raise ValueError(f"shape: found {shape!r}, expected alpaca, prompt_response or messages")
    roles = [turn["role"] for turn in turns]
    if roles not in (["user", "assistant"], ["user", "input", "assistant"]):
        raise ValueError(f"a chat with turns {', '.join(roles)} does not fit {shape}; use messages")
    texts = [turn["text"] for turn in turns]
    if shape == "alpaca":
        extra = texts[1] if len(texts) == 3 else ""
        return {"instruction": texts[0], "input": extra, "output": texts[-1], "source": source}
    return {"prompt": "\n\n".join(texts[:-1]), "response": texts[-1], "source": source}
