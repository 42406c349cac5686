"""The slices of the slow tests (tests/slices.py): none is lost, and which CI runs."""

import subprocess

import pytest
import slices
from slices import SLICES, chosen, is_sliced, path_of, slices_of

ROOT = slices.TESTS.parent


def test_every_slow_test_belongs_to_one_slice(collected):
    of = {path_of(item): slices_of(path_of(item)) for item in collected if is_sliced(item)}
    assert {path: names for path, names in of.items() if len(names) != 1} == {}


def test_every_path_of_a_slice_is_there():
    for name, each in SLICES.items():
        assert all((slices.TESTS / path).exists() for path in each.tests), name
        assert all((ROOT / path).exists() for path in each.area), name


def test_the_longest_prefix_decides():
    assert slices_of("pipeline/test_targets.py") == ["targets"]
    assert slices_of("pipeline/test_new.py") == ["selection"]
    assert slices_of("pipelines/test_new.py") == []


def test_turns_go_round_and_each_slice_has_its_time():
    names = [next(iter(chosen(count, [], 60)[0])) for count in range(2 * len(SLICES))]
    assert names == 2 * list(SLICES)
    assert max(each.minutes for each in SLICES.values()) <= 15


def test_a_change_in_an_area_runs_its_slice_if_there_is_time():
    count = list(SLICES).index("training")
    changed = ["README.md", "jobs/select.py", "jobs.py", "s2l_ray/training/loop.py"]
    run, left_out = chosen(count, changed, 60)
    assert list(run) == ["training", "commands"] and left_out == []
    assert run["commands"].endswith("jobs/select.py")
    enough = SLICES["training"].minutes + SLICES["commands"].minutes
    assert list(chosen(count, changed, enough)[0]) == ["training", "commands"]
    run, left_out = chosen(count, changed, enough - 1)
    assert list(run) == ["training"] and left_out == ["commands"]
    assert list(chosen(count, changed, 0)[0]) == ["training"]  # its turn, in any case
    run, _ = chosen(count, ["tests/jobs/test_jobs.py", "tests/test_slices.py"], 60)
    assert list(run) == ["training", "commands"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Three commits: long ago, an hour ago and now, each with a file of its own."""
    monkeypatch.setattr(slices, "TESTS", tmp_path)

    def git(*arguments, **env):
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
            cwd=tmp_path, env=env, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    git("init", "-q")
    for file, date in (("old", "01T12:00"), ("hour", "03T11:00"), ("now", "03T12:00")):
        (tmp_path / file).touch()
        git("add", file)
        git("commit", "-qm", file, GIT_COMMITTER_DATE=f"2026-01-{date}:00+0000", HOME=str(tmp_path))
    return git


def test_a_push_is_what_was_committed_lately_or_since_its_base(repository):
    assert slices.changed_files() == ["hour", "now"]
    assert slices.changed_files("HEAD~1") == ["now"]
    assert slices.changed_files("HEAD~2") == ["hour", "now"]
