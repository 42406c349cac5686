"""A selector of one's own, given as module:Class."""

import sys

import pytest
from support.runs import fingerprints_of, plan_of, settings

from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.stage import walk
from s2l_ray.selection.selectors import own_selector, selector_named

SHORTEST = """
from s2l_ray.selection.kinds import Rank

class Shortest(Rank):
    rule = "fewest response tokens"

    def score(self, known):
        return known.num_label_tokens_N.astype(float)

class Unfinished(Rank):
    rule = "no score"

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that only the driver can import, its name new in each test."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SHORTEST)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_its_stages_are_named_after_it_and_its_source_identifies_them(module, tmp_path):
    config = settings("run", selection__selector=f"{module}:Shortest")
    stages = [stage.name for stage in walk([plan_of(config).selection(config.selection)])]
    assert stages[-2:] == [f"rankings/{module}.Shortest", f"selections/{module}.Shortest-seed0"]
    before = fingerprints_of(config)
    (tmp_path / f"{module}.py").write_text(SHORTEST.replace("3", "4"))
    sys.modules.pop(module)
    own_selector.cache_clear()
    after = fingerprints_of(config)
    assert [name for name in before if before[name] != after[name]] == stages[-2:]


def test_what_is_no_selector_is_refused(module):
    with pytest.raises(
        ConfigError, match=r"selection\.selector: expected one of .*, got 'shortest'"
    ):
        settings("run", selection__selector="shortest")
    for name, wanted in (
        ("nowhere_at_all:Shortest", "cannot be imported: ModuleNotFoundError: No module named"),
        (f"{module}:Longest", "expected a class derived from one of Draw, Rank, Cluster and Cover"),
        (f"{module}:number", "expected a class .* got 3"),
        (f"{module}:Unfinished", "lacks score"),
    ):
        with pytest.raises(ValueError, match=rf"selection\.selector: .*{wanted}"):
            selector_named(name)
