"""The wheel, built from the repository and installed where there is no repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from support.head import REPOSITORY, environment
from support.runs import rows, settings

from s2l_ray import __version__

pytestmark = pytest.mark.slow

# What a checkout may hold beside the sources; an old build/ would end up in the wheel.
NOT_SOURCES = (".*", "runs", "data", "build", "dist", "site", "tests", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without a network, by the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    shutil.copytree(REPOSITORY, sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    pip("wheel", sources, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel and, from this one, its dependencies alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    # pip may see the packages beside itself, so the editable one would count as installed.
    pip("--python", python, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    # A .pth is not read inside the folder that a .pth names, so the editable package is not met.
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(packages)))
    return folder


@pytest.fixture
def run(installed, tmp_path, tmp_ray):
    """Run a program of that environment in an empty folder."""
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}

    def run(program, *arguments):
        return subprocess.run(
            [installed / "bin" / program, *map(str, arguments)], cwd=tmp_path, text=True,
            env=env | {"RAY_TMPDIR": str(tmp_ray)}, capture_output=True, timeout=170,
        )  # fmt: skip

    return run


def pip(*arguments):
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True
    )


def test_the_wheel_has_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for path in (REPOSITORY / "s2l_ray").rglob("*") if path.is_file()]
    ours = {str(p.relative_to(REPOSITORY)) for p in files if "__pycache__" not in p.parts}
    assert {"s2l_ray/py.typed", "s2l_ray/report/page.css"} <= ours
    assert packed == ours


def test_the_command_works_where_there_is_no_repository(run, installed, tmp_path):
    where = run("python", "-c", "import s2l_ray; print(s2l_ray.__file__)")
    assert Path(where.stdout).is_relative_to(installed), where.stderr
    assert run("s2l-ray", "--version").stdout == f"s2l-ray {__version__}\n"
    assert "demo-corpus" in run("s2l-ray", "--help").stdout
    assert json.loads(run("s2l-ray", "config", "schema").stdout)["$defs"]
    demo = run("s2l-ray", "demo-corpus", "demo.jsonl")
    assert (demo.returncode, demo.stdout) == (0, "demo.jsonl\n"), demo.stderr

    with open(tmp_path / "corpus.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(150))
    config = settings("run", corpus__path="corpus.jsonl", selection__budget=20)
    data = config.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(data))
    shown = run("s2l-ray", "config", "show", "my.yaml", "seed=7")
    assert shown.returncode == 0 and "# override" in shown.stdout, shown.stderr

    done = run("s2l-ray", "select", "my.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path / 'run/report/index.html'}"
    assert "<style>" in (tmp_path / "run/report/index.html").read_text()
    assert os.listdir(tmp_path / "run/selections") == ["s2l-seed0"]
