"""The public names: imported on first use, and the same for a type checker."""

import ast
import inspect
import subprocess
import sys

import pytest
from support.head import REPOSITORY, environment

import s2l_ray


def test_each_public_name_is_the_object_of_its_module():
    for name in s2l_ray.__all__:
        found = getattr(s2l_ray, name)
        assert found.__name__ == name
        assert getattr(sys.modules[found.__module__], name) is found
    assert set(s2l_ray.__all__) <= set(dir(s2l_ray))


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse(inspect.getsource(s2l_ray))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name: node.module for node in imports for alias in node.names}
    assert names == s2l_ray._HOME
    assert sorted(names) == s2l_ray.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 's2l_ray' has no attribute 'selct'"):
        _ = s2l_ray.selct


def test_loading_a_configuration_imports_nothing_heavy():
    code = """
import sys, s2l_ray
loaded = {"pydantic", "ray", "numpy", "torch"} & set(sys.modules)
assert not loaded, loaded
s2l_ray.load("configs/demo.yaml")
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, env=environment(), text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert not {"numpy", "ray", "torch", "pyarrow"} & set(done.stdout.split())
