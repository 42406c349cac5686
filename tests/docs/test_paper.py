"""Every command of docs/paper.md can be run: its configuration loads with its overrides."""

import re
import shlex
from pathlib import Path

import pytest

from s2l_ray.commands import COMMANDS
from s2l_ray.config import load
from s2l_ray.ending import lack_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/paper.md").read_text()


def commands():
    """(command, configuration, overrides) of all commands on the page."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            name = words[1] if words[0] == "s2l-ray" else Path(words[1]).stem
            config, *rest = words[2:]
            if "--gpu" in rest:
                at = rest.index("--gpu")
                rest = rest[:at] + rest[at + 2 :]
            found.append(pytest.param(name, config, rest, id=" ".join([name, config, *rest])[:90]))
    return found


@pytest.mark.parametrize(("name", "config", "overrides"), commands())
def test_the_command_s_configuration_loads(name, config, overrides):
    loaded = load(ROOT / config, overrides)
    assert lack_of(COMMANDS[name], loaded) is None
    assert all("=" in override for override in overrides)


def test_every_row_of_the_table_has_a_section_with_a_command():
    rows = re.findall(r"^\| \[.*?\]\(#([\w-]+)\)", PAGE, re.MULTILINE)
    assert len(rows) == 16 and len(commands()) >= len(rows)
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == len(rows)
    assert all("```sh\npython jobs/" in each or "```sh\ns2l-ray " in each for each in sections)


def test_the_curves_compare_the_methods_that_the_table_names():
    named = set(re.findall(r"^\| [\w ]+ \| `(\w+)`", PAGE, re.MULTILINE))
    curves = load(ROOT / "configs/mathinstruct-pythia-410m.yaml").compare
    assert named == set(curves.selectors) and len(named) == 7
