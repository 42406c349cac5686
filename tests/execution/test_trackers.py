"""What trackers are told, read back from what they wrote: TensorBoard's event files, MLflow's file
store, W&B's offline files."""

import json
import logging
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from support.runs import MARK, corpus, settings
from support.trackers import scalars, texts, wandb_history, wandb_records

from s2l_ray.execution.events import Item, Point
from s2l_ray.execution.trackers import tensorboard_tracker, tracking
from s2l_ray.execution.trackers.tracking import Tracking, faults
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import select
from s2l_ray.report import gather
from s2l_ray.store import Manifest, Store
from s2l_ray.store.s3 import S3Objects
from s2l_ray.store.views import TrainingView

CURVE = [Point(1, 2.5, 0.01, 1000.0), Point(2, 2.25, 0.02, None), Point(3, 2.0, 0.01, 1200.0)]
SUBSET = {
    "selector": "s2l", "budget": 0.11, "seed": 0, "examples": 7, "candidates": 60, "tokens": 512,
    "by_source": {"math|easy": 4, "chat": 3}, "by_cluster": [2, 5], "groups_above_quota": 0.5,
    "chosen": "abcd",
}  # fmt: skip
ITEMS = [Item("proxy", ("proxy/p1",)), Item("proxy (seed 1)", ("proxy/p2",)),
         Item("selections/s2l-seed0", ("selections/s2l-seed0/f1",))]  # fmt: skip


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))


def track(kind, store, points, error=None, seconds=12.5):
    """A run's events, from the plan to its end."""
    run = Tracking(kind, store, "my run")
    run.expected("f00d", ITEMS)
    run.stage_ended(Manifest("corpus/c1", "c1", []), 3.0, reused=True)
    run.trained("proxy/p1", points)
    run.trained("proxy/p2", [Point(1, 9.0)])
    run.stage_ended(Manifest("proxy/p1", "p1", []), seconds, reused=False)
    for name in ("targets/s2l-seed0/tokens", "targets/s2l-seed0"):
        run.stage_ended(Manifest(f"{name}/t1", "t1", []), 1.0, reused=False)
    run.stage_ended(Manifest("selections/s2l-seed0/f1", "f1", [], SUBSET), 1.0, reused=False)
    run.stage_ended(Manifest("selections/s2l-seed0/f2", "f2", [], SUBSET), 1.0, reused=True)
    run.reported("index.html", "<html>the page</html>")
    run.ended(error)
    assert not run.thread.is_alive()


def test_tensorboard_has_curves_times_and_selections(store, caplog):
    track("tensorboard", store, CURVE)
    folder = Path(store.address("trackers/tensorboard/run-f00d"))
    assert scalars(folder / "proxy") == {
        "loss": [(1, 2.5), (2, 2.25), (3, 2.0)],
        "learning_rate": [(n, pytest.approx(x)) for n, x in ((1, 0.01), (2, 0.02), (3, 0.01))],
        "tokens_per_second": [(1, 1000.0), (3, 1200.0)],
    }  # fmt: skip
    assert scalars(folder / "proxy (seed 1)") == {"loss": [(1, 9.0)]}
    top = scalars(folder)
    assert top["seconds/proxy"] == [(0, 12.5)] and "seconds/corpus" not in top
    told = texts(folder)
    assert "| selector | s2l |" in told["selections/s2l-seed0"]
    assert "| math\\|easy | 4 |" in told["selections/s2l-seed0/by_source"]
    assert "| 1 | 5 |" in told["selections/s2l-seed0/by_cluster"]
    assert told["report/index.html"] == store.address("report/index.html")
    assert not caplog.records


def test_tensorboard_of_a_resumed_run_has_each_step_once(store):
    track("tensorboard", store, CURVE, error=RuntimeError())
    # It goes on from a resume point at step 1, and a worker dies at step 3.
    again = [Point(2, 2.25), Point(3, 2.0), Point(2, 2.25), Point(3, 2.0), Point(4, 1.5)]
    track("tensorboard", store, again)
    folder = Path(store.address("trackers/tensorboard/run-f00d"))
    assert scalars(folder / "proxy")["loss"] == [(1, 2.5), (2, 2.25), (3, 2.0), (4, 1.5)]
    assert [path.name for path in folder.parent.iterdir()] == ["run-f00d"]


def test_tensorboard_of_a_run_on_s3_is_copied_there(s3_uri, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_tracker, "PUBLISH", 0.0)
    store, copied = Store(s3_uri), []
    put_file = S3Objects.put_file
    monkeypatch.setattr(S3Objects, "put_file", lambda self, file, name, guard: (
        copied.append((name, file.stat().st_size)), put_file(self, file, name, guard)))  # fmt: skip
    track("tensorboard", store, CURVE)
    assert len(copied) == len({*copied})  # a file is copied again if it has grown
    below = f"trackers/tensorboard/{s3_uri.rpartition('/')[2]}-f00d/proxy"
    [file] = store.names(below)
    (tmp_path / file).write_bytes(store.read_bytes(below, file))
    assert scalars(tmp_path)["loss"] == [(1, 2.5), (2, 2.25), (3, 2.0)]


def test_mlflow_has_curves_times_selections_and_the_page(store, tmp_path):
    from mlflow import MlflowClient

    track("mlflow", store, CURVE, error=RuntimeError())
    track("mlflow", store, [Point(2, 2.25), Point(3, 2.0), Point(4, 1.5)], seconds=7.0)
    client = MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("s2l-ray").experiment_id])
    assert run.info.run_name == "run-f00d" and run.info.status == "FINISHED"
    assert run.data.tags["s2l_ray.run_dir"] == store.uri

    def history(key):
        found = client.get_metric_history(run.info.run_id, key)
        return [(each.step, each.value) for each in found]

    assert history("proxy/loss") == [(1, 2.5), (2, 2.25), (3, 2.0), (4, 1.5)]
    assert history("proxy/learning_rate") == [(1, 0.01), (2, 0.02), (3, 0.01)]
    assert history("proxy/tokens_per_second") == [(1, 1000.0), (3, 1200.0)]
    assert history("proxy seed 1/loss") == [(1, 9.0)]
    assert history("seconds/proxy") == [(0, 12.5), (0, 7.0)]
    assert history("seconds/targets.s2l-seed0.tokens") == [(0, 1.0), (0, 1.0)]
    assert history("seconds/targets.s2l-seed0") == [(0, 1.0), (0, 1.0)]
    assert run.data.metrics["selections/s2l-seed0/examples"] == 7
    place = client.download_artifacts(run.info.run_id, "", str(tmp_path))
    summary = json.loads(Path(place, "selections/s2l-seed0.json").read_text())
    assert summary["selector"] == "s2l" and summary["by_source"] == {"math|easy": 4, "chat": 3}
    assert Path(place, "selections/s2l-seed0 f2.json").is_file()  # of another budget
    assert Path(place, "report/index.html").read_text() == "<html>the page</html>"


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), "KILLED"), (KeyError(), "FAILED")])
def test_mlflow_knows_how_a_run_ended(store, error, status):
    from mlflow import MlflowClient

    track("mlflow", store, [], error=error)
    [run] = MlflowClient().search_runs(
        [MlflowClient().get_experiment_by_name("s2l-ray").experiment_id]
    )
    assert run.info.status == status


def test_wandb_offline_has_curves_times_selections_and_the_page(store):
    track("wandb", store, CURVE, error=RuntimeError())
    track("wandb", store, [Point(4, 1.5)])
    files = sorted(Path(store.address("trackers/wandb")).glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one id
    rows = wandb_history(files[0])
    assert [row for row in rows if "proxy/step" in row] == [
        {"proxy/step": 1, "proxy/loss": 2.5, "proxy/learning_rate": 0.01,
         "proxy/tokens_per_second": 1000},
        {"proxy/step": 2, "proxy/loss": 2.25, "proxy/learning_rate": 0.02},
        {"proxy/step": 3, "proxy/loss": 2, "proxy/learning_rate": 0.01,
         "proxy/tokens_per_second": 1200},
    ]  # fmt: skip
    [table] = [row for row in rows if "selections/s2l-seed0/by_source/path" in row]
    media = files[0].parent / "files" / table["selections/s2l-seed0/by_source/path"]
    assert json.loads(media.read_text())["data"] == [["math|easy", 4], ["chat", 3]]
    assert [row for row in wandb_history(files[1]) if "proxy/step" in row] == [
        {"proxy/step": 4, "proxy/loss": 1.5}
    ]
    told = [*wandb_records(files[0])]
    kinds = {record.WhichOneof("record_type"): record for record in told}
    assert kinds["run"].run.display_name == "run-f00d"
    assert kinds["exit"].exit.exit_code == 1
    assert not kinds.keys() & {"environment", "output", "output_raw", "stats"}
    pages = [r.artifact for r in told if r.artifact.type == "report"]
    assert [entry.path for entry in pages[0].manifest.contents] == ["index.html"]
    summary = [r for r in told if r.WhichOneof("record_type") == "summary"]
    assert any(
        (item.key, item.value_json) == ("seconds/proxy", "12.5")
        for record in summary for item in record.summary.update
    )  # fmt: skip


def test_a_tracker_that_fails_is_one_warning(store, monkeypatch, caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        track("mlflow", store, CURVE)
    [told] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told.startswith("trackers: mlflow failed, the run goes on without it: MlflowException")
    assert "Connection refused" in told and "\n" not in told


class Slow:
    """A tracker whose server does not answer."""

    ids = {}
    answers = threading.Event()

    def __init__(self, start):
        self.answers.wait()


def test_a_tracker_that_hangs_holds_the_run_up_for_a_moment_only(store, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "tracker_class", lambda kind: Slow)
    monkeypatch.setattr(tracking, "CLOSING", 0.2)
    monkeypatch.setattr(tracking, "WAITING", 5)
    run, began = Tracking("mlflow", store, "my run"), time.monotonic()
    run.expected("f00d", ITEMS)
    for _ in range(10):
        run.trained("proxy/p1", CURVE)
    run.ended(None)
    assert time.monotonic() - began < 2
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "trackers: mlflow failed, the run goes on without it: 5 events wait for it",
        "trackers: mlflow has not taken everything after 0 s; the run ends without it",
    ]
    Slow.answers.set()
    run.thread.join(5)


def test_what_trackers_lack_is_said_before_a_run(monkeypatch, tmp_path):
    assert [*faults(["tensorboard", "mlflow", "wandb"], "runs/my")] == []
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    [said] = faults(["mlflow"], "runs/my")
    assert said.startswith("trackers: mlflow: MLFLOW_TRACKING_URI is not set; expected the address")
    [said] = faults(["wandb"], "s3://bucket/run")
    assert "WANDB_MODE is offline and run_dir is an object store; set WANDB_DIR" in said
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    [said] = faults(["wandb"], "runs/my")
    assert "no API key; set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline" in said


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()  # as W&B leaves one where it runs
    outside = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *outside])
    for name in ("wandb", "mlflow", "tensorboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("wandb", "mlflow", "tensorboard"):
        [said] = faults([name], "runs/my")
        assert said == (
            f"trackers: the package of {name} is not installed; run pip install "
            f'"s2l-ray[{name}]", or leave out {name}'
        )


@pytest.mark.slow
def test_a_run_tells_all_trackers_and_no_text_of_an_example(local_ray, tmp_path):
    from mlflow import MlflowClient

    config = settings(
        tmp_path / "run", trackers=["tensorboard", "mlflow", "wandb"], report__examples=True
    )
    with Run.start(config) as run:
        selection = run.finish(lambda run: select(corpus(), config, run=run))
        gather.write(run, selection)
    assert MARK in Path(run.store.address("report/index.html")).read_text()
    proxy = run.done["proxy"]
    curve = [(step, pytest.approx(loss)) for step, loss in TrainingView(proxy).history]
    [folder] = Path(run.store.address("trackers/tensorboard")).iterdir()
    shown = scalars(folder / "proxy")
    assert shown["loss"] == curve and len(shown["learning_rate"]) == len(curve)
    assert min(speed for _, speed in shown["tokens_per_second"]) > 0
    client = MlflowClient()
    [found] = client.search_runs([client.get_experiment_by_name("s2l-ray").experiment_id])
    history = client.get_metric_history(found.info.run_id, "proxy/loss")
    assert [(each.step, each.value) for each in history] == curve
    made = {each["stage"] for each in run.times if not each["reused"]}
    assert {f"seconds/{name.replace('/', '.')}" for name in made} <= found.data.metrics.keys()
    place = tmp_path / "artifacts"
    place.mkdir()
    client.download_artifacts(found.info.run_id, "", str(place))
    summary = json.loads((place / "selections/s2l-seed0.json").read_text())
    assert summary["examples"] == 40 == sum(summary["by_source"].values())
    page = (place / "report/index.html").read_text()
    assert "<title>" in page and MARK not in page
    [file] = Path(run.store.address("trackers/wandb")).glob("offline-run-*/run-*.wandb")
    rows = wandb_history(file)
    assert [row["proxy/loss"] for row in rows if "proxy/loss" in row] == [y for _, y in curve]
    for path in [*folder.rglob("*"), *place.rglob("*"), *file.parent.rglob("*"),
                 *(tmp_path / "wandb-data").rglob("*")]:  # fmt: skip
        assert not path.is_file() or MARK.encode() not in path.read_bytes(), path
