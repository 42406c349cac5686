"""What `status` reads of runs under way, ended and dead; on disk and in a real S3.

The run of the first tests is its record alone: a real lease, real manifests and parts, no Ray.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from support.faults import Command, settings, write_corpus
from support.head import command

from s2l_ray import cli
from s2l_ray.execution import events
from s2l_ray.execution.events import Item
from s2l_ray.execution.progress import Progress
from s2l_ray.pipeline.state import RunState
from s2l_ray.pipeline.status import Reader, open_run
from s2l_ray.report import status_text
from s2l_ray.report.status_text import as_text
from s2l_ray.store import Store, lease
from s2l_ray.store.lease import Lease

AGENDA = [
    Item("corpus", ("corpus/c1",)),
    Item("tokens", ("tokens/t1",)),
    Item("proxy", ("proxy/p1",)),
    Item("losses", ("losses/l1",)),
    Item("targets/s2l-seed0"),
    Item("evaluations", pattern="evaluations/(?!tokens/).+", count=4),
]
TABLE = pa.table({"example_id": [3, 5, 8]})


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def uri(request, tmp_path):
    return request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "run")


@pytest.fixture
def owner(uri, monkeypatch):
    """A run of this process: its store and its state. Its lease is given back after the test."""
    monkeypatch.setattr(lease, "PAUSE", 0.05)
    store = Store(uri)
    taken = Lease(store, seconds=60, job="raysubmit_7")
    state = RunState(taken, "pipeline")
    taken.take()
    events.listeners.append(state)
    yield store, state
    events.listeners.remove(state)
    if not taken.over.is_set():
        taken.release()


def make(store, folder, parts=2, reused=False):
    """Make a stage as a run does, up to its commit."""
    with events.making([folder]):
        made = [store.write_part(TABLE, folder, f"part-{n:05d}") for n in range(parts)]
        manifest = store.commit(folder, "f", made, {})
    events.tell(lambda each: each.stage_ended(manifest, 1.0, reused))


def read(store, enough=lambda status: status):
    """The status, as soon as it is like this: the lease is written by a thread."""
    until = time.monotonic() + 10
    while True:
        status = Reader(open_run(store.uri, [])).read()
        if time.monotonic() > until or (status.stages and enough(status)):
            return status
        time.sleep(0.05)


def states(status):
    return {each.name: each.state for each in status.stages}


def test_a_run_under_way_says_what_is_done_running_and_to_do(owner, monkeypatch):
    store, state = owner
    state.expected("f", AGENDA)
    make(store, "corpus/c1", reused=True)
    make(store, "tokens/t1", parts=3)
    make(store, "evaluations/a/b/e1")
    with events.making(["proxy/p1"]), Progress("proxy", total=400, unit="steps") as progress:
        told = progress.record() | {"done": 100, "per_second": 2.0, "seconds_left": 150.0}
        monkeypatch.setattr(progress, "record", lambda: told | {"note": progress.note})
        state.told = -100.0  # it is time again for a record of progress
        progress.set(100, "loss 2.1")
        store.write_json({}, "proxy/p1/resume/step-000080-lease-1/manifest.json")
        status = read(store, lambda status: status.stages[2].progress)
        text = as_text(status)
    assert status.state == "running" and status.command == "pipeline"
    assert status.owner == {"host": lease.socket.gethostname(), "job": "raysubmit_7",
                            "pid": os.getpid()}  # fmt: skip
    assert states(status) == {
        "corpus": "done", "tokens": "done", "proxy": "running", "losses": "to do",
        "targets/s2l-seed0": "to do", "evaluations": "to do",
    }  # fmt: skip
    tokens, proxy, evaluations = status.stages[1], status.stages[2], status.stages[5]
    size = sum(store.objects.sizes("tokens/t1").values())
    size -= len(store.read_bytes("tokens/t1/manifest.json"))
    assert (tokens.rows, tokens.parts, tokens.bytes) == (9, 3, size)
    assert (tokens.seconds, status.stages[0].seconds) == (1.0, None)  # the corpus was found
    assert (evaluations.done, evaluations.count) == (1, 4)
    assert proxy.resume == 80 and proxy.since is not None
    [moving] = proxy.progress
    assert (moving["done"], moving["total"], moving["note"]) == (100, 400, "loss 2.1")
    assert "proxy: 100 of 400 steps, 2.0/s, 2 min 30 s left, loss 2.1" in text and "1 of 4" in text
    assert text.index("\ndone\n") < text.index("\nrunning\n") < text.index("\nto do\n")


def test_what_begins_is_told_at_once(owner):
    store, state = owner
    state.expected("f", AGENDA)
    with (
        events.making(["corpus/c1"]),
        Progress("proxy", total=40, unit="steps", note="starting 2 workers"),
    ):
        status = read(store, lambda status: status.stages[0].progress)
    assert status.stages[0].progress[0]["note"] == "starting 2 workers"
    assert "proxy: 0 of 40 steps, starting 2 workers" in as_text(status)


def test_stages_made_at_once_have_their_own_progress(owner):
    store, state = owner
    state.expected("f", [Item("targets", pattern="targets/[^/]+", count=2)])

    def train(name, total):
        with (
            events.making([f"targets/{name}/f"]),
            Progress(name, total=total, unit="steps") as progress,
        ):
            here.wait()
            state.told = -100.0
            progress.set(1)
            here.wait()
            over.wait()

    here, over = threading.Barrier(2), threading.Event()
    threads = [threading.Thread(target=train, args=(f"t{n}", n)) for n in (7, 8)]
    for each in threads:
        each.start()
    status = read(store, lambda status: len(status.stages) == 3
                  and all(each.progress for each in status.stages[1:]))  # fmt: skip
    over.set()
    for each in threads:
        each.join()
    assert (status.stages[0].name, status.stages[0].count) == ("targets", 2)
    assert {s.name: [p["stage"] for p in s.progress] for s in status.stages[1:]} == {
        "targets/t7": ["t7"], "targets/t8": ["t8"],
    }  # fmt: skip


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_many_stages_that_the_agenda_does_not_name_are_counted(owner):
    store, state = owner
    state.expected("f", [Item("targets", pattern="targets/[^/]+", count=9)])
    for number in range(5):
        make(store, f"targets/t{number}/tokens/f")
        make(store, f"targets/t{number}/f")
    make(store, "selections/s2l-seed0/f")
    with events.making(["targets/t9/tokens/f"]):
        status = read(store, lambda status: status.stages[-1].state == "running")
    assert [(each.name, each.state, each.done, each.count) for each in status.stages] == [
        ("targets", "to do", 5, 9), ("selections/s2l-seed0", "done", 1, 1),
        ("targets/*/tokens", "done", 5, 5), ("targets/t9/tokens", "running", 0, 1),
    ]  # fmt: skip
    text = as_text(status)
    assert "  targets/*/tokens" in text and "5 of 5" in text and "5 of 9" in text


def test_a_dead_run_says_when_it_was_last_alive_and_what_it_left(owner, monkeypatch):
    store, state = owner
    state.expected("f", AGENDA)
    make(store, "corpus/c1")
    with events.making(["tokens/t1"]), Progress("tokenize", total=5, unit="parts") as progress:
        store.write_part(TABLE, "tokens/t1", "part-00000")
        state.told = -100.0
        progress.set(1)
        read(store, lambda status: status.stages[1].progress)
        # As a dead owner of another machine leaves it: nobody renews it, nobody gives it back.
        state.lease.over.set()
        state.lease.news.set()
        state.lease.thread.join()
        state.lease.record |= {"kernel": "another", "seconds": 0.2}
        store.objects.write(state.lease.name, state.lease._text())
    time.sleep(1.5)  # S3 tells whole seconds
    status = read(store)
    assert status.state == "died" and status.error is None
    assert states(status)["corpus"] == "done" and states(status)["tokens"] == "stopped"
    tokens = status.stages[1]
    assert (tokens.parts, tokens.progress[0]["done"]) == (1, 1) and tokens.bytes > 0
    text = as_text(status)
    assert "pipeline: died; last sign of life" in text and "run the same command" in text
    assert "1 of 5 parts" in text and "left" not in text


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_a_sign_of_life_in_the_future_is_told(owner):
    store, state = owner
    assert not [note for note in read(store).notes if "future" in note]
    state.lease.over.set()
    state.lease.news.set()
    state.lease.thread.join()
    later = time.time() + 86430
    os.utime(store.address(state.lease.name), (later, later))
    [note] = [note for note in read(store).notes if "future" in note]
    assert note.startswith("the owner's last sign of life is 24 h 00 min in the future")


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_a_killed_run_of_this_machine_is_dead_at_once(owner):
    store, state = owner
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    state.lease.record["pid"] = process.pid
    state.expected("f", AGENDA)
    assert read(store, lambda status: status.state == "died").state == "died"


@pytest.mark.parametrize("error, state, said", [
    (None, "finished", None),
    (KeyboardInterrupt(), "interrupted", None),
    (ValueError("clusters.n_clusters: 100, but there are only 40 examples"), "failed",
     "clusters.n_clusters: 100, but there are only 40 examples"),
    (KeyError("x"), "failed", "KeyError: 'x'"),
])  # fmt: skip
def test_how_a_run_ended(owner, error, state, said):
    store, run = owner
    run.expected("f", AGENDA)
    make(store, "corpus/c1")
    run.ended(error)
    run.lease.release()
    status = read(store)
    assert (status.state, status.error) == (state, said)
    # What a finished run did without is not to do.
    assert ("to do" in states(status).values()) == (error is not None)
    assert "running" not in states(status).values()
    assert said is None or f"error: {said}\n" in as_text(status)


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_stages_of_earlier_commands_are_told_apart(owner):
    store, state = owner
    make(store, "clusters/k1")
    state.done.clear()
    store.write_json({"current": {"clusters": "clusters/k1"}, "times": []}, "run.json")
    state.expected("f", AGENDA[:1])
    status = read(store, lambda status: status.stages)
    assert [each.name for each in status.others] == ["clusters"]
    assert "from earlier commands\n  clusters  6 rows  2 parts" in as_text(status)


def test_one_record_per_few_seconds_however_many_parts(owner, monkeypatch):
    store, state = owner
    state.expected("f", AGENDA)
    written = []
    monkeypatch.setattr(type(store.objects), "write", lambda self, *args: written.append(args))
    with events.making(["tokens/t1"]), Progress("tokenize", total=5000, unit="parts") as progress:
        for _ in range(5000):
            progress.advance(1)
        time.sleep(0.5)
    assert len(written) <= 3


# ---- what is no run


@pytest.fixture
def refused(capsys):
    """What the command says of what it refuses: one line."""

    def call(place, *overrides):
        with pytest.raises(SystemExit) as ended:
            cli.main(["status", str(place), *overrides])
        out, said = capsys.readouterr()
        assert ended.value.code == 1 and out == "" and said.count("\n") == 1, out + said
        return said.removeprefix("error: ").removesuffix("\n")

    return call


def test_what_is_no_run_directory_is_one_sentence(refused, tmp_path):
    place = tmp_path / "run"
    assert refused(place) == (
        f"{place}: there is no such folder; expected a run directory, or a run's CONFIG.yaml"
    )
    place.mkdir()
    assert refused(place) == f"{place}: there is nothing: no run has begun there, or just now"
    (place / "notes.txt").write_text("")
    assert refused(place) == (
        f"{place}: not a run directory: expected run.json or lease/ in it, found notes.txt"
    )
    assert refused(place / "notes.txt").startswith(f"{place}/notes.txt: not a folder; expected")
    (place / "lease").mkdir()
    (place / "lease" / "00000001.json").write_text("{}")
    told = refused(place)
    assert told.startswith(f"{place}/lease/00000001.json: damaged: expected a lease")
    assert told.endswith("if no run is alive, remove it")
    (place / "lease" / "00000001.json").rename(place / "lease" / "copy.json")
    (place / "run.json").write_text('{"current": {}')
    assert refused(place).startswith(f"{place}/run.json: damaged: not JSON")
    (place / "run.json").write_text("{}")
    assert "run.json: damaged: expected `current`" in refused(place)
    assert refused(place, "seed=7").startswith("seed=7: a run directory takes no overrides")
    assert (
        refused("gs://bucket/run") == "gs://bucket/run: expected a local path or s3://bucket/prefix"
    )


@pytest.mark.slow
def test_an_s3_run_that_cannot_be_read_is_one_sentence(refused, s3_uri, monkeypatch):
    assert refused(s3_uri) == f"{s3_uri}: there is nothing: no run has begun there, or just now"
    assert "there is no bucket 'no-such-bucket'" in refused("s3://no-such-bucket/run")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "the credentials are refused (SignatureDoesNotMatch)" in refused(s3_uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in refused(s3_uri)


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_a_record_in_another_format_is_not_misread(owner):
    store, state = owner
    state.record |= {"format": 2, "version": "9.1.0"}
    state.expected("f", AGENDA)
    make(store, "corpus/c1")
    store.write_json({"current": {"corpus": "corpus/c1"}, "times": []}, "run.json")
    status = read(store, lambda status: "9.1.0" in status.notes[0])
    assert status.notes == ["what is to do is unknown: version 9.1.0 of s2l_ray made this run"]
    assert status.state == "running" and states(status) == {"corpus": "done"}


def test_a_run_of_version_0_1_0_is_told_as_far_as_it_goes(tmp_path):
    run = shutil.copytree(Path(__file__).parents[1] / "run_0_1_0", tmp_path / "run")
    status = Reader(open_run(str(run), [])).read()
    assert status.state == "ended" and status.command is None
    assert states(status) == dict.fromkeys(
        ["corpus", "tokens", "proxy", "losses", "trajectories", "clusters",
         "selections/s2l-seed0"], "done")  # fmt: skip
    assert status.stages[0].rows == 48
    assert "what was to do is unknown: a version before 0.2 made this run" in as_text(status)
    newer = run / status.stages[0].folder / "manifest.json"
    newer.write_text(newer.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match=f"{newer}: format 99 is newer than 1"):
        Reader(open_run(str(run), [])).read()


# ---- the command


@pytest.mark.parametrize("uri", ["local"], indirect=True)
def test_watch_looks_again_until_the_run_ends(owner, monkeypatch, capsys):
    store, state = owner
    monkeypatch.setattr(status_text, "EVERY", 0.1)
    state.expected("f", AGENDA[:1])

    def end():
        time.sleep(0.4)
        make(store, "corpus/c1")
        state.ended(None)
        state.lease.release()

    ending = threading.Thread(target=end)
    ending.start()
    cli.main(["status", store.uri, "--watch", "--json"])
    ending.join()
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(seen) > 2 and {each["state"] for each in seen[:-1]} == {"running"}
    assert seen[-1]["state"] == "finished" and seen[-1]["stages"][0]["rows"] == 6


def test_the_command_starts_neither_ray_nor_torch(tmp_path):
    run = shutil.copytree(Path(__file__).parents[1] / "run_0_1_0", tmp_path / "run")
    done = command("status", run, python=("-X", "importtime"))
    assert (
        done.returncode == 0
        and "\n  corpus                48 rows   2 parts  5.1 kB" in done.stdout
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}
    assert "s2l_ray" in imported and not imported & {"ray", "torch", "transformers"}


# ---- a real run


def until(run, enough):
    """Read the status while the command runs, until it is enough or the command has ended."""
    seen = []
    while run.process.poll() is None:
        assert time.monotonic() - run.began < 300, run.told()
        with suppress(ValueError):  # its first second: there is nothing yet
            seen.append(Reader(open_run(run.store.uri, [])).read())
            if enough(seen[-1]):
                return seen
        time.sleep(1)
    return seen


@pytest.mark.slow
def test_pipeline_killed_in_training_and_run_again(uri, request, tmp_path, tmp_ray):
    env = {"RAY_TMPDIR": str(tmp_ray)}
    if "://" in uri:
        env |= request.getfixturevalue("ceph").environment
    write_corpus(tmp_path / "corpus.jsonl")
    config = settings(uri, tmp_path / "corpus.jsonl")
    config["corpus"]["heldout_share"] = 0.1
    config["target"] = config["proxy"] | {"max_steps": 20, "num_checkpoints": None}
    config["evaluation"] = {"seeds": [0]}
    run = Command(tmp_path, config, env, job="pipeline")

    run.start()
    seen = until(run, lambda s: any(each.resume and each.progress for each in s.stages))
    run.kill_driver()
    assert {status.state for status in seen} == {"running"}
    assert seen[-1].owner["pid"] == run.process.pid
    assert states(seen[-1]) | {"corpus": "done", "tokens": "done"} == states(seen[-1])
    proxy = next(each for each in seen[-1].stages if each.name == "proxy")
    assert proxy.state == "running" and proxy.progress[0]["total"] == 120
    dead = Reader(open_run(uri, [])).read()
    assert dead.state == "died"
    # The whole rest: targets and evaluations of the command that ran, for both selectors.
    rest = [name for name, state in states(dead).items() if state == "to do"]
    assert rest == [
        "losses", "trajectories", "clusters", "selections/s2l-seed0", "selections/random-seed0",
        "targets/s2l-seed0", "targets/random-seed0",
        "evaluations/s2l-seed0/heldout", "evaluations/random-seed0/heldout",
    ]  # fmt: skip
    assert states(dead)["proxy"] == "stopped"
    if "://" in uri:  # to the end on one of them: a minute and a half
        return

    run.start()
    seen = until(run, lambda _: False)
    assert run.process.returncode == 0, run.told()
    assert seen[-1].command == "pipeline"
    finished = Reader(open_run(uri, [])).read()
    assert finished.state == "finished"
    assert set(states(finished).values()) == {"done"}
    assert states(finished).keys() >= {*states(dead)}  # all that was to do
    by_name = {each.name: each for each in finished.stages}
    assert by_name["tokens"].rows == by_name["corpus"].rows > 300
    assert by_name["tokens"].parts == 6
    assert by_name["proxy"].seconds > 0 and by_name["tokens"].seconds is None
