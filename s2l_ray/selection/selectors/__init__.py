"""The selectors, one per file; the file's name is the selector's name."""

from __future__ import annotations

import importlib
import inspect
from functools import cache

from s2l_ray.config import BUILT_IN_SELECTORS
from s2l_ray.execution.extensions import import_extension
from s2l_ray.selection.kinds import Selector


def selector_named(name: str) -> Selector:
    """Return a selector by its built-in name, or by module:Class.

    ValueError names what cannot be imported, or is not a selector.
    """
    return _built_in(name) if name in BUILT_IN_SELECTORS else own_selector(name)[0]


def source_of(name: str) -> list[str]:
    """Return what identifies a selector in addition to its name.

    For module:Class that is the checksum of the module's source, for a built-in one nothing.
    """
    return [] if name in BUILT_IN_SELECTORS else [own_selector(name)[1]]


@cache
def own_selector(name: str) -> tuple[Selector, str]:
    """Import module:Class; return the selector and the checksum of what was imported."""
    found, checksum = import_extension("selection.selector", name)
    if not (inspect.isclass(found) and issubclass(found, Selector)):
        raise ValueError(
            f"selection.selector: {name!r}: expected a class derived from one of Draw, Rank, "
            f"Cluster and Cover in s2l_ray.selection.kinds, got {found!r}"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"selection.selector: {name!r} lacks {missing}")
    return found(), checksum


@cache
def _built_in(name: str) -> Selector:
    module = importlib.import_module(f"{__name__}.{name}")
    [selector] = [
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, Selector)
        and each.__module__ == module.__name__
    ]
    return selector()
