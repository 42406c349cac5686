"""The documentation against the package: its configurations are valid, its settings exist."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from s2l_ray.config import RunConfig, Section, validate

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    if path.name != "CHANGELOG.md"  # it names settings that are gone
]
BASE = {
    "run_dir": "runs/my",
    "corpus": {"path": "corpus.jsonl", "heldout_share": 0.02},
    "proxy": {"model": {"name": "EleutherAI/pythia-70m-deduped"}, "num_checkpoints": 12},
    "target": {"model": {"name": "EleutherAI/pythia-410m-deduped"}},
}


def configurations():
    for page in PAGES:
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
        for number, block in enumerate(blocks):
            yield pytest.param(block, id=f"{page.name}-{number}")


def merged(base, changes):
    found = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found


@pytest.mark.parametrize("block", list(configurations()))
def test_a_configuration_of_the_documentation_is_valid(block):
    given = yaml.safe_load(block)
    if given.keys() == {"model"}:  # a model alone: of the proxy, say
        base = BASE | {"proxy": {"num_checkpoints": 12}}
        given = {"proxy": given}
    else:
        base = BASE
    validate(merged(base, given))


def settings_of(section, above=()):
    for name, field in section.model_fields.items():
        yield ".".join([*above, name])
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Section):
                yield from settings_of(part, [*above, name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_that_the_documentation_names_exists(page):
    known = set(settings_of(RunConfig))
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    sections = "|".join(name for name in RunConfig.model_fields)
    named = re.findall(rf"`((?:{sections})(?:\.\w+)+)`", text)
    files = {name for name in named if name.endswith((".json", ".yaml", ".py"))}  # report.json, say
    assert set(named) - files - known == set()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
