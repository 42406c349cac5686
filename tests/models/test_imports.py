"""What computes needs neither Ray nor boto3, so that it runs on a bare GPU machine."""

import subprocess
import sys

COMPUTES = """
import importlib, pkgutil, sys
for name in ("ray", "boto3", "botocore"):
    sys.modules[name] = None  # an import raises ModuleNotFoundError
import s2l_ray.models, s2l_ray.training.engines
for package in (s2l_ray.models, s2l_ray.training.engines):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
import s2l_ray.clustering.chunks, s2l_ray.scoring.scorer, s2l_ray.training.batches
import s2l_ray.training.step
from s2l_ray.store import Store
print(Store(sys.argv[1]).exists("tokens"), "torch" in sys.modules)
"""


def test_what_computes_imports_without_ray_and_boto3(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", COMPUTES, str(tmp_path)], text=True, capture_output=True
    )
    assert found.stdout == "False True\n", found.stderr
