"""The selectors, one per file; the file's name is the selector's name."""

from __future__ import annotations

import copy
import importlib
import inspect
from functools import cache

from s2l_ray.config import BUILT_IN_SELECTORS, alpha_of
from s2l_ray.execution.extensions import import_extension
from s2l_ray.selection.kinds import Cluster, Selector


def selector_named(name: str) -> Selector:
    """Return a selector by its built-in name, by NAME@ALPHA, or by module:Class.

    ValueError names what cannot be imported, is not a selector, or takes no ALPHA.
    """
    return _built_in(name) if is_built_in(name) else own_selector(name)[0]


def is_built_in(name: str) -> bool:
    return alpha_of(name)[0] in BUILT_IN_SELECTORS


def source_of(name: str) -> list[str]:
    """Return what identifies a selector in addition to its name.

    For module:Class that is the checksum of the module's source, for a built-in one nothing.
    """
    return [] if is_built_in(name) else [own_selector(name)[1]]


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
    base, alpha = alpha_of(name)
    if alpha:
        return _tempered(name, _built_in(base), alpha)
    module = importlib.import_module(f"{__name__}.{name}")
    [selector] = [
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, Selector)
        and each.__module__ == module.__name__
    ]
    return selector()


def _tempered(name: str, base: Selector, alpha: float) -> Selector:
    if not isinstance(base, Cluster) or type(base).quotas is not Cluster.quotas:
        raise ValueError(
            f"selection.selector: {name!r}: expected @ALPHA behind a selector that spreads the "
            f"budget evenly over clusters, such as s2l@{alpha:g}"
        )
    selector = copy.copy(base)
    selector.alpha = alpha
    selector.rule += f"; here in proportion to the sizes of the clusters to the power {alpha:g}"
    return selector
