"""The slices of the soak tests (tests/soak.py) and their table."""

import soak
from slices import TESTS, path_of
from soak import SLICES


def test_every_fault_and_soak_test_belongs_to_one_slice(collected):
    listed = [file for each in SLICES.values() for file in each.tests]
    assert len(set(listed)) == len(listed)
    marks = {path_of(item): {mark.name for mark in item.iter_markers()} for item in collected}
    asked = {path for path, names in marks.items() if names & {"faults", "soak"}}
    assert asked <= set(listed)
    assert all((TESTS / file).exists() for file in listed)


def test_a_slice_takes_an_hour_at_most():
    assert max(each.minutes for each in SLICES.values()) <= soak.LIMIT == 60


def test_the_slice_that_was_run_longest_ago_is_next(tmp_path):
    table, names = tmp_path / "runs" / "soak.jsonl", list(SLICES)
    assert soak.oldest(soak.rows_of(table)) == names[0]
    for hour, name in enumerate([*names[1:], names[0], names[1]]):
        soak.add(table, [{"slice": name, "ended": f"2026-01-01T{hour:02}:00+00:00"}])
    assert soak.oldest(soak.rows_of(table)) == names[2]


def test_rows_of_several_runs_are_added_up(tmp_path):
    table = tmp_path / "soak.jsonl"
    death = {"kind": "driver", "stage": "proxy", "tried": 3, "survived": 3, "seconds": 30.0}
    soak.add(table, [death, {"kind": "node", "stage": "corpus", "tried": 1, "survived": 0,
                             "seconds": 0.0}])  # fmt: skip
    soak.add(table, [death | {"seconds": 6.0}])
    soak.add(table, [{"slice": "deaths", "ended": "2026-01-01T10:00+00:00", "commit": "abc",
                      "minutes": 12.5, "failed": "yes"}])  # fmt: skip
    assert list(soak.summary(soak.rows_of(table))) == [
        "| fault | stage | tried | survived | seconds lost, each |",
        "| --- | --- | --- | --- | --- |",
        "| driver | proxy | 6 | 6 | 6 |",
        "| node | corpus | 1 | 0 | 0 |",
        "",
        "| slice | ended | commit | minutes | failed |",
        "| --- | --- | --- | --- | --- |",
        "| deaths | 2026-01-01T10:00+00:00 | abc | 12.5 | yes |",
    ]
