"""Code of the user's own that a setting names as module:name.

The driver imports it, also from the current folder. Ray's tasks and actors get the module by value,
so that other nodes need no copy of it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from s2l_ray.store.checksums import checksum_of_file


def import_extension(setting: str, name: str) -> tuple[Any, str]:
    """Return what `name` stands for, or None if its module lacks it, and its module's checksum.

    ValueError names the setting and says why the module cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module: ModuleType = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{setting}: {name!r} cannot be imported: {type(error).__name__}: {error}; the module "
            "must be in the current folder, on PYTHONPATH or installed"
        ) from error
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        raise ValueError(
            f"{setting}: {name!r}: expected a module with Python source, got {file or 'no file'}"
        )
    from ray import cloudpickle  # not at the top: the preflight of a run needs no Ray

    cloudpickle.register_pickle_by_value(module)
    return getattr(module, attribute, None), checksum_of_file(Path(file))
