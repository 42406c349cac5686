"""Rows as Axolotl's `type: chat_template` takes them, and the dataset block of its YAML.

Messages and tools are JSON texts, which Axolotl decodes. As objects, `datasets` would give each
call the arguments that any other call has.
"""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.corpus.messages import conversation_of
from s2l_ray.corpus.rows import Example

BLOCK = """\
# For an Axolotl configuration. Each answer says by `train` whether it is learned.
datasets:
  - path: {path}
    split: train
    type: chat_template
    field_messages: messages
    field_tools: tools
    message_field_training: train
    roles_to_train: [assistant]
    train_on_eos: turn
"""


def chat_template(example: Example) -> dict[str, Any]:
    """Return {"messages", "tools"} as JSON texts; each assistant's message says whether to `train`
    on it."""
    chat = conversation_of(example)
    messages = []
    for place, message in enumerate(chat.messages):
        for call in message.get("tool_calls", ()):
            if not isinstance(call["function"]["arguments"], dict):
                raise ValueError("arguments of a call: axolotl needs a JSON object")
        if message["role"] == "assistant":
            message = message | {"train": place in chat.trained}
        messages.append(message)
    # A null would be dropped from a batch, and its rows with it.
    return {"messages": _text(messages), "tools": _text(chat.tools or [])}


def dataset_block(address: str) -> str:
    """Return YAML that names the data files of an export at this address."""
    return BLOCK.format(path=json.dumps(f"{address}/data", ensure_ascii=False))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
