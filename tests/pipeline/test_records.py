"""Records of comparisons whose file is damaged."""

import json

import pytest

from s2l_ray.pipeline import records

FOUND = [
    {"method": method, "budget": "40", "match": "examples", "selection_seed": seed, "loss": 1.5}
    for method in ("random", "s2l")
    for seed in (0, 1)
]


@pytest.fixture
def file(store):
    records.keep(store, records.COMPARISON, FOUND, "settings")
    return store.objects.root / "report/comparison.json"


def kept(store):
    found = records.known(store, records.COMPARISON, "settings")
    return [(each["method"], each["selection_seed"]) for each in found]


def test_a_record_that_is_damaged_is_named_and_left_out(store, file, said):
    assert len(kept(store)) == 4
    text = file.read_text()
    file.write_text(text.replace('"loss": 1.5', '"loss": 1.4', 1))
    assert kept(store) == [("random", 1), ("s2l", 0), ("s2l", 1)]
    assert f"{file}: a record is damaged, and measured again when wanted" in said()
    records.keep(store, records.COMPARISON, FOUND[:1], "settings")
    assert len(kept(store)) == 4 and "damaged" not in said().split("measured again")[-1]
    file.write_text(text.replace('"s2l"', '"S2l"'))
    assert kept(store) == [("random", 0), ("random", 1)]
    assert "2 records are damaged" in said()


@pytest.mark.parametrize("bad", [b"", b"{", b"{}", b"\xff", b"[[]]", b"[null, 3]"])
def test_a_file_that_is_damaged_as_a_whole_is_kept_aside_and_written_again(store, file, said, bad):
    file.write_bytes(bad)
    assert kept(store) == [] and f"{file}: " in said()
    records.keep(store, records.COMPARISON, FOUND[2:], "settings")
    assert kept(store) == [("s2l", 0), ("s2l", 1)]
    aside = [path for path in file.parent.iterdir() if path != file]
    assert [path.read_bytes() for path in aside] == ([] if bad[:1] == b"[" else [bad])


def test_records_of_a_version_without_checksums_are_read(store, file):
    old = [
        {k: v for k, v in each.items() if k != "checksum"} for each in json.loads(file.read_text())
    ]
    file.write_text(json.dumps(old))
    assert len(kept(store)) == 4
    records.keep(store, records.COMPARISON, FOUND[:2], "settings")
    assert [set(each) - set(FOUND[0]) for each in json.loads(file.read_text())] == [
        {"settings"}, {"settings"}, {"settings", "checksum"}, {"settings", "checksum"},
    ]  # fmt: skip
