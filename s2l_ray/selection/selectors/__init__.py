"""The selectors, one per file; the file's name is the selector's name."""

from __future__ import annotations

import importlib
import inspect
import sys
from functools import cache
from types import ModuleType

from ray import cloudpickle

from s2l_ray.config import BUILT_IN_SELECTORS, fingerprint
from s2l_ray.selection.kinds import Selector


@cache
def selector_named(name: str) -> Selector:
    """Return a selector by its built-in name, or by module:Class.

    ValueError names what cannot be imported, or is not a selector.
    """
    if name in BUILT_IN_SELECTORS:
        module = importlib.import_module(f"{__name__}.{name}")
        [built_in] = [
            each
            for each in vars(module).values()
            if inspect.isclass(each)
            and issubclass(each, Selector)
            and each.__module__ == module.__name__
        ]
        return built_in()
    module_name, _, class_name = name.partition(":")
    module = _imported(name, module_name)
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Selector)):
        raise ValueError(
            f"selection.selector: {name!r}: found {found!r}, expected a class derived from one of "
            f"Draw, Rank, Cluster and Cover in s2l_ray.selection.kinds"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"selection.selector: {name!r} lacks {missing}")
    # Workers get the module's code with the selector: nothing has to be installed there.
    cloudpickle.register_pickle_by_value(module)
    return found()


def source_of(name: str) -> list[str]:
    """Return what identifies a selector beside its name: a hash of its module's source, or nothing
    for a built-in one."""
    if name in BUILT_IN_SELECTORS:
        return []
    module = sys.modules[type(selector_named(name)).__module__]
    return [fingerprint(inspect.getsource(module))]


def _imported(name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"selection.selector: {name!r} cannot be imported: {error}; the module must be on the "
            f"Python path of the driver (PYTHONPATH, or installed)"
        ) from error
