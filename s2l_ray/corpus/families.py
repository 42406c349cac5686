"""The chat templates that the package trl ships: of model families, for inference and training.

A training variant marks what the assistant generates ({% generation %}) and prints each turn the
same wherever it stands. Only trl's files are read: importing trl takes five seconds.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

TRAINING = "_training"
MOST = 2**20 + 1  # characters that are read of a file: more than a template may have


def training_variant(template: str) -> tuple[str, str] | None:
    """Return the family that a chat template is of and the family's template for training, or None
    for a template that trl does not know. Compares whole templates, as trl does."""
    return _variants().get(template.rstrip("\n"))


def template_text(given: str) -> str:
    """Return the chat template in a file, or of a family by the name of trl's file."""
    if Path(given).is_file():
        try:
            with open(given, encoding="utf-8") as file:
                return file.read(MOST)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"prompt.chat_template: {given}: cannot be read: {error}") from None
    families = {path.stem: path for path in _files() if not path.stem.endswith(TRAINING)}
    if given not in families:
        raise ValueError(
            f"prompt.chat_template: expected a file or the name of a family, found {given!r}; the "
            f"families are {', '.join(sorted(families))}"
        )
    return families[given].read_text(encoding="utf-8")


@lru_cache
def _files() -> list[Path]:
    spec = find_spec("trl")
    places = (spec.submodule_search_locations if spec else None) or []
    files = [file for place in places for file in Path(place, "chat_templates").glob("*.jinja")]
    if not files:
        raise ValueError("the package trl, which ships chat templates, is missing: pip install trl")
    return files


@lru_cache
def _variants() -> dict[str, tuple[str, str]]:
    texts = {file.stem: file.read_text(encoding="utf-8") for file in _files()}
    return {
        text.rstrip("\n"): (name, texts[name + TRAINING])
        for name, text in texts.items()
        if name + TRAINING in texts
    }
