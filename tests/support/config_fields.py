"""The fields of a configuration, for tests that look at each."""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from s2l_ray.config import Section, validate

WHOLE = validate(
    {
        "run_dir": "runs/x",
        "corpus": {"path": "a.jsonl"},
        "proxy": {"model": {"name": "m"}, "num_checkpoints": 4},
        "target": {"model": {"name": "m"}},
        "target_prompt": {},
        "evaluation": {"workers": {}},
    }
).model_dump()


def fields(
    section: type[Section], above: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], Any]]:
    """(path, annotation) of every field, sections included."""
    found = []
    for name, info in section.model_fields.items():
        path = (*above, name)
        found.append((path, info.annotation))
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                found += fields(kind, path)
    return found


def kinds(annotation: Any) -> set[Any]:
    """The plain types that a field takes, by its annotation."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(kinds(each) for each in get_args(annotation)))
    return {get_origin(annotation) or annotation}
