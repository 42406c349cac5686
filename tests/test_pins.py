"""The pinned versions: the lock has those of the constraints, which are within the ranges."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
LEFT_OUT = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")


def pins(text):
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.M))


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text())


def requirements(of=PROJECT["dependencies"]):
    return [Requirement(each) for each in of]


# Installed by those who ask for it: it brings chardet 6, of which requests warns at each start.
NOT_PINNED = ("lm-eval",)


def test_the_lock_has_a_hash_of_each_pinned_version_but_torch():
    assert pins(LOCK) == {n: v for n, v in CONSTRAINTS.items() if not LEFT_OUT.match(n)}
    assert set(CONSTRAINTS) - set(pins(LOCK)) == {"torch"}
    assert len(CONSTRAINTS) > 150
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.M)[1:]
    for entry in entries:
        first, *hashes = entry.rstrip().replace(" \\", "").split("\n")
        assert hashes, first
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", each) for each in hashes), first


def test_the_pinned_versions_are_within_the_declared_ranges():
    extras = PROJECT["optional-dependencies"].values()
    for each in [*requirements(), *(r for group in extras for r in requirements(group))]:
        if each.name not in ("s2l-ray", *NOT_PINNED):
            name = each.name.lower().replace("_", "-")
            assert each.specifier.contains(CONSTRAINTS[name]), each


def test_what_a_run_needs_has_an_upper_bound_and_ray_and_deepspeed_a_near_one():
    bounds = {}
    for each in requirements():
        [bounds[each.name]] = [s.version for s in each.specifier if s.operator == "<"]
    for name in ("ray", "deepspeed"):
        major, minor = map(int, CONSTRAINTS[name].split(".")[:2])
        assert bounds[name] == f"{major}.{minor + 1}"


def test_what_is_installed_is_checked_against_the_hashes():
    makefile = (ROOT / "Makefile").read_text()
    assert "install --quiet --no-deps --require-hashes -r requirements.lock\n" in makefile
    setup = "\n".join(yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"])
    docker = (ROOT / "cluster/Dockerfile").read_text()
    for text in (setup, docker):
        assert "-r pyproject.toml --extra answers -c constraints.txt -c requirements.lock" in text
    versions = {re.search(r"uv==([\d.]+)", text)[1] for text in (makefile, setup, docker)}
    assert len(versions) == 1
