"""`s2l-ray gc`: what it finds that nothing refers to, what it keeps, and what it removes."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from support.runs import settings

from s2l_ray import cli
from s2l_ray.config import ModelConfig
from s2l_ray.models.origin import origin_of
from s2l_ray.pipeline import garbage, records
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.record import RECORD, RunRecord, read_record
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import Stage, alone
from s2l_ray.store import Store
from s2l_ray.store.lease import Lease
from s2l_ray.store.owner import lease_name

TABLE = pa.table({"example_id": [1, 2]})


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr("s2l_ray.execution.machine.hardware", dict)


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_uri"))
    return Store(tmp_path / "run")


def run_of(store, command="select"):
    """A new process's run on the store."""
    fresh = Store(store.uri)
    return Run(settings(store.uri), fresh, None, record=RunRecord(fresh, command), command=command)


def make(store, folder):
    part = store.write_part(TABLE, folder, "part-00000")
    return store.commit(folder, folder.rpartition("/")[2], [part], {})


def stage(name, setting):
    def made(run, *, folder, fingerprint):
        make(run.store, f"{folder}/rejected")
        return make(run.store, folder)

    return Stage(name, alone(made), settings=(setting,))


def finish(run, *stages):
    folders = [run.get(each).folder for each in stages]
    run.record.end(finished=True)
    return folders


def folders(store):
    return {name.rpartition("/")[0] for name in store.objects.sizes("") if "/manifest" in name}


def test_what_the_last_run_of_a_command_did_not_use_goes(store):
    tokens = stage("tokens", 1)
    [first, old] = finish(run_of(store), tokens, stage("clusters", 5))
    [_, new] = finish(run_of(store), tokens, stage("clusters", 6))
    assert old != new
    before = store.objects.sizes("")
    found = garbage.find_garbage(store)
    assert (found.stages, found.kept) == ([old], 2)
    assert found.bytes[old] == sum(size for name, size in before.items() if name.startswith(old))
    assert store.objects.sizes("") == before  # it only looks
    garbage.collect(store)
    assert folders(store) == {first, f"{first}/rejected", new, f"{new}/rejected"}
    assert garbage.find_garbage(store).files == {}


def test_what_another_command_used_or_was_making_stays(store):
    run = run_of(store, "compare")
    run.get(stage("tokens", 1))
    run.plan = Plan(run.config, stage("tokens", 1))
    for seed in range(3):  # the proxies of a comparison have one name
        run.view(run.config).get(stage("proxy", seed))
    assert "proxy" not in read_record(store)["current"]
    run.record.end(finished=True)

    def dies(*_, **__):
        raise KeyboardInterrupt

    stopped = run_of(store, "diagnose")
    finish(stopped, stage("tokens", 1))
    begun = Stage("losses", alone(dies), settings=("begun",))
    stopped.store.write_part(TABLE, begun.folder, "part-00000")
    with pytest.raises(KeyboardInterrupt):
        stopped.get(begun)
    stopped.record.end(finished=False)
    assert garbage.find_garbage(store).files == {}
    # A command that is stopped may still need what its last run used.
    again = run_of(store, "compare")
    again.get(stage("tokens", 1))
    again.record.end(finished=False)
    assert garbage.find_garbage(store).files == {}
    finish(run_of(store, "compare"), stage("tokens", 1), stage("proxy", 2))
    gone = {stage("proxy", seed).folder for seed in (0, 1)}
    assert set(garbage.find_garbage(store).stages) == gone


def test_the_targets_in_records_of_comparisons_stay(store):
    run = run_of(store)
    finish(run, stage("tokens", 1))
    target, other = (f"targets/random-{n}/0123456789abcdef" for n in (1, 2))
    make(store, target)
    make(store, other)
    records.keep(store, records.COMPARISON, [{"method": "random", "target": target}], "s")
    assert garbage.find_garbage(store).stages == [other]


def test_the_tokenizer_and_the_hub_models_of_a_stage_that_stays_stay(store):
    model = {"name": "team/model", "revision": None}
    origin, other = (origin_of(ModelConfig(name=name)) for name in ("team/model", "team/other"))
    tokenizer = "tokenizers/0123456789abcdef"
    for folder in (origin, other, tokenizer, "tokenizers/fedcba9876543210"):
        make(store, folder)

    def trained(run, *, folder, fingerprint):
        info = {"model": model | {"commit": "c"}, "tokenizer": tokenizer}
        return run.store.commit(folder, fingerprint, [], info)

    finish(run_of(store), Stage("proxy", alone(trained)))
    assert garbage.find_garbage(store).stages == [other, "tokenizers/fedcba9876543210"]


def test_files_that_no_manifest_lists_go_with_their_stage_or_alone(store):
    [tokens] = finish(run_of(store), stage("tokens", 1))
    kept = {*store.objects.sizes("")}
    for name in ("manifest-damaged-0123456789abcdef.json", "resume/step-000003/x", "part-9.arrow"):
        store.write_bytes(b"old", tokens, name)
    store.write_bytes(b"a user's own", "notes.txt")
    found = garbage.find_garbage(store)
    assert len(found.files.pop("")) == 3 and found.files == {}
    garbage.collect(store)
    assert {each for each in store.objects.sizes("") if "lease" not in each} == kept | {"notes.txt"}


def test_files_of_a_folder_whose_manifest_is_damaged_stay(store):
    [corpus] = finish(run_of(store), stage("corpus", 1))
    kept = {*store.objects.sizes("")}
    store.write_bytes(b"{", corpus, "rejected", "manifest.json")
    assert garbage.find_garbage(store).files == {}
    garbage.collect(store)
    assert {each for each in store.objects.sizes("") if "lease" not in each} == kept


def test_a_run_that_is_under_way_is_not_touched(store):
    finish(run_of(store), stage("tokens", 1))
    lease = Lease(Store(store.uri), seconds=1).take()
    store.config = store.config.model_copy(update={"lease_seconds": 3})
    lease.tell({"format": 1, "command": "select"})
    try:
        with pytest.raises(ValueError, match="in use by another run"):
            garbage.collect(store)
    finally:
        lease.release()
    garbage.collect(store)
    told = store.read_json("lease", lease_name(2))
    assert told["run"] == {"format": 1, "command": "select"}  # for `status`


def test_a_run_directory_of_an_earlier_version_loses_nothing(store):
    make(store, "tokens/0123456789abcdef")
    make(store, "clusters/0123456789abcdef")
    current = {"tokens": "tokens/0123456789abcdef"}
    store.write_json({"current": current, "times": []}, RECORD)
    with pytest.raises(ValueError, match=r"run\.json does not say what the commands use"):
        garbage.find_garbage(store)
    finish(run_of(store), stage("tokens", 1))
    assert garbage.find_garbage(store).files == {}


def test_after_run_json_was_damaged_nothing_goes_that_was_there(store):
    finish(run_of(store), stage("tokens", 1), stage("clusters", 5))
    [_, newer] = finish(run_of(store), stage("tokens", 1), stage("clusters", 6))
    store.write_bytes(b"{", RECORD)
    with pytest.raises(ValueError, match="damaged"):
        garbage.find_garbage(store)
    finish(run_of(store), stage("tokens", 1))
    assert garbage.find_garbage(store).files == {}
    assert read_record(store)["current"]["clusters"] == newer


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_the_command(store, capsys):
    [old] = finish(run_of(store), stage("clusters", 5))
    finish(run_of(store), stage("clusters", 6))
    Path(store.address(stage("clusters", 6).folder, "extra")).write_text("x")
    for option, word in (["--dry-run"], "would remove"), ([], "removed"):
        cli.main(["gc", store.uri, *option])
        out = capsys.readouterr().out
        assert out.startswith(f"{old}: ") and "/extra: listed by no stage" in out
        assert f"{word} 1 stage and 1 other file, " in out and "; 1 stage kept" in out
    assert not store.exists(old)
    with pytest.raises(SystemExit):
        cli.main(["gc", f"{store.uri}-nowhere"])
    assert "there is no such folder" in capsys.readouterr().err


def test_run_json_has_a_checksum_of_the_rest(store):
    finish(run_of(store), stage("tokens", 1))
    record = read_record(store)
    assert record["used"] == {"select": [stage("tokens", 1).folder]}
    assert datetime.fromisoformat(record["updated"]) <= datetime.now(UTC)
    store.write_json(record | {"gpu_hours": 7}, RECORD)
    with pytest.raises(ValueError, match=r"run\.json: damaged"):
        read_record(store)
    text = json.dumps({"current": record["current"]})  # of version 0.1
    store.write_bytes(text.encode(), RECORD)
    assert read_record(store)["current"] == record["current"]
