"""Runs whose numbers are alarming: what is refused, what is told first, and where."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.reports import Page
from support.runs import Given, contents_of, plan_of, rows, settings, stages_run

from s2l_ray.analysis.alarms import Alarm, of_losses
from s2l_ray.commands import COMMANDS
from s2l_ray.pipeline.alarms import Alarms, take_over, tell, vocabulary_of
from s2l_ray.pipeline.status import Reader, open_run
from s2l_ray.report.status_text import as_text
from s2l_ray.scoring.trajectories import mean_losses
from s2l_ray.store import Manifest, Store

FALLING = np.linspace([3.0, 2.0, 1.0], [2.0, 1.0, 0.5], 40, dtype=np.float32)  # [N, T]


@pytest.fixture
def select(local_ray, tmp_path, capsys):
    """Select from 40 rows by losses [N, T] of another training; return what is printed."""
    rows_file = tmp_path / "rows.jsonl"
    rows_file.write_text("".join(json.dumps(row | {"source": "s"}) + "\n" for row in rows(40)))

    def run(losses_NT, **changes):
        np.save(tmp_path / "losses.npy", losses_NT)
        given = {
            "corpus__path": str(rows_file), "losses": {"path": str(tmp_path / "losses.npy")},
            "corpus__heldout_share": 0, "clusters__n_clusters": 3, "clusters__stability": False,
            "selection__budget": 10, "selection__export": [],
        }  # fmt: skip
        config = settings(tmp_path / "run", **given | changes)
        capsys.readouterr()
        COMMANDS["select"].work(config)
        return capsys.readouterr().out.splitlines()

    return run


def test_a_diverged_training_is_refused_before_clusters_and_nothing_is_lost(select, tmp_path):
    rising = FALLING[:, ::-1]  # means 1.0 or so to 2.5
    with pytest.raises(ValueError) as refused:
        select(rising)
    place = tmp_path / "run"
    first, last = rising[:, 0].mean(), rising[:, -1].mean()
    assert str(refused.value) == (
        f"The training behind losses.path diverged: its mean loss rose from {first:.3f} at the "
        f"first checkpoint to {last:.2f} at the last. Look at that training, and at the order of "
        f"the losses in '{tmp_path}/losses.npy': step, epoch, or column. All stages so far are "
        "kept. To select by these losses nevertheless, set trajectories.allow_diverged=true"
    )
    stages = ("corpus/", "tokens/", "losses/", "trajectories/")
    before = contents_of(place, *stages)
    assert before and not contents_of(place, "clusters/")
    assert "warning: The training behind losses.path diverged: " in told_of(place)

    printed = select(rising, trajectories={"allow_diverged": True})
    assert printed[0].startswith("warning: The training behind losses.path diverged: its mean")
    assert printed[1].startswith("selection: ")
    assert stages_run(place)[0] == ["clusters", "selections/s2l-seed0"]
    assert contents_of(place, *stages) == before
    page = (place / "report/index.html").read_text()
    headline = "The training behind losses.path diverged: its mean loss rose from"
    assert headline in " ".join(Page(page).text) and page.index(headline) < page.index("<h2")
    told = told_of(place).splitlines()
    assert told[3].startswith("warning: The training behind") and told[1].startswith("select: fin")
    [record] = json.loads((place / "run.json").read_text())["alarms"]
    assert record["stage"] == "trajectories" and record["kind"] == "diverged"
    with pytest.raises(ValueError, match="diverged"):  # though everything is there
        select(rising)


def told_of(place):
    return as_text(Reader(open_run(str(place), [])).read())


@pytest.mark.slow
def test_trajectories_that_are_all_the_same_are_refused_before_clusters(select, tmp_path):
    same = np.tile(np.array([[3.0, 2.0, 1.0]], np.float32), (40, 1))
    with pytest.raises(ValueError) as refused:
        select(same, clusters__n_clusters=1)
    assert str(refused.value).startswith(
        "all 40 trajectories are the same (3.00 at the first checkpoint, 1.00 at the last), "
        "so clusters of them say nothing. Look at that training"
    )
    assert not contents_of(tmp_path / "run", "clusters/")
    # One that differs is enough; and random examples need no clusters.
    almost = same.copy()
    almost[-1, -1] = 0.5
    assert select(almost, clusters__n_clusters=2)[-2].startswith("selection: ")
    assert select(same, selection__selector="random")[-2].startswith("selection: ")


@pytest.mark.slow
def test_warnings_come_first_and_go_with_what_caused_them(select, tmp_path):
    flat = np.repeat(np.geomspace(0.01, 3.0, 40, dtype=np.float32)[:, None], 3, axis=1)
    flat[0, -1] = 0.0  # or else the mean is the same
    printed = select(flat, prompt__max_length=10)
    kinds = [each["kind"] for each in Reader(open_run(str(tmp_path / "run"), [])).read().alarms]
    assert kinds[-2:] == ["unlearned", "one_cluster"] and "truncated" in kinds
    assert [line.startswith("warning: ") for line in printed] == ([True] * len(kinds) + [False] * 2)
    page = (tmp_path / "run/report/index.html").read_text()
    assert page.count('role="alert"') == len(kinds)
    # Another selector has no clusters, and other settings have no alarms of earlier ones.
    assert not any("cluster" in line for line in select(flat, selection__selector="random")[:-2])
    assert "cluster" not in "".join(
        line for line in told_of(tmp_path / "run").splitlines() if line.startswith("warning")
    )


def test_clusters_of_a_control_are_no_alarm_of_the_run():
    config = settings("unused", evaluation__baselines=["random", "loss_kmeans"])
    plan, told = plan_of(config), []
    run = SimpleNamespace(alarms=Alarms(), write_record=lambda: None, told=set(), recorded=True)
    own, control = (
        plan.groups(config.selection.model_copy(update={"selector": each}))
        for each in ("s2l", "loss_kmeans")
    )
    for stage, sizes in ((own, [97, 1, 1, 1]), (control, [25, 25, 25, 25])):
        stage.check(run, Manifest(stage.folder, stage.fingerprint, [], {"sizes": sizes}))
        told.append([each.kind for each in run.alarms.all()])
    assert told == [["one_cluster"], ["one_cluster"]]


def test_what_unseen_examples_say_is_no_divergence_unless_it_is_worse_than_guessing():
    config, steps = settings("unused"), [1, 2, 3]
    rising = np.array([2.0, 2.2, 2.4])
    [alarm] = of_losses(config, steps, rising, rising, 320, unseen=True)
    assert alarm.kind == "overfitted" and "rose from 2.00 at the first" in alarm.headline
    assert [each.kind for each in of_losses(config, steps, rising, rising, 320)] == ["diverged"]
    worse = np.array([2.0, 4.0, 6.0])  # log 320 = 5.77
    assert [a.kind for a in of_losses(config, steps, worse, worse, 320, unseen=True)] == [
        "diverged"
    ]


def test_a_part_of_a_run_leaves_the_alarms_of_the_rest():
    alarms = Alarms([{"stage": "clusters", "kind": "k", "headline": "h", "advice": "a"}])
    alarms.found["tokens"] = []
    assert [each["stage"] for each in alarms.records()] == ["clusters"]
    alarms.found["clusters"] = []
    assert alarms.records() == [] == alarms.lines()


def test_alarms_of_another_seed_say_so_and_the_same_ones_are_told_once(store, said):
    run = Given.of(settings(store.uri), store=store)
    few, rose = Alarm("labels", "Few labels", "Look."), Alarm("diverged", "It rose", "Lower it.")
    tell(run, "tokens", [few])
    for seed in (1, 2):
        view = run.view(settings(store.uri, seed=seed))
        assert view.alarms.all() == []
        tell(view, "tokens", [few])
        tell(view, "trajectories", [rose] if seed == 2 else [])
        take_over(run, view)
    assert run.alarms.lines() == [
        "warning: Few labels. Look.", "warning: seed 2: It rose. Lower it.",
    ]  # fmt: skip
    assert said().splitlines() == run.alarms.lines()
    stages = [each["stage"] for each in run.alarms.records()]
    assert stages == ["tokens", "seed 2: trajectories"]


def test_the_mean_is_over_all_examples_in_trajectories_of_earlier_versions_too(finished):
    store = Store(finished[0])
    current = store.read_json("run.json")["current"]
    trajectories = store.manifest(current["trajectories"])
    tables = [store.read_part(trajectories.folder, part) for part in trajectories.parts]
    losses = np.array([row for table in tables for row in table["losses"].to_pylist()])
    assert len(losses) == trajectories.rows > 200 and len(trajectories.parts) == 3
    earlier = replace(trajectories, parts=[replace(p, stats={}) for p in trajectories.parts])
    for each in (trajectories, earlier):
        assert mean_losses(store, each).tolist() == pytest.approx(losses.mean(axis=0).tolist())


def test_the_vocabulary_is_that_of_the_proxy_s_last_checkpoint(finished, copy):
    store = Store(copy)
    proxy = store.manifest(store.read_json("run.json")["current"]["proxy"])
    [config] = Path(copy, proxy.folder).glob("checkpoint-*7/config.json")
    known = json.loads(config.read_text())["vocab_size"]
    assert vocabulary_of(store, proxy) == known > 256
    assert vocabulary_of(store, None) is None
    config.unlink()
    assert vocabulary_of(store, proxy) is None


@pytest.mark.slow
def test_a_silly_learning_rate_is_told_first_and_refused(local_ray, tmp_path, capsys, said):
    given = tmp_path / "rows.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    silly = {"corpus__path": str(given), "proxy__learning_rate": 30.0}
    with pytest.raises(ValueError) as refused:
        COMMANDS["select"].work(settings(tmp_path / "run", **silly))
    told = str(refused.value)
    assert told.startswith("The proxy diverged: its mean loss is ") and "(step 7)" in told
    # 273: the bytes, a few merges, the end of the text.
    assert "above 5.61, that of guessing among 273 tokens. Lower proxy.learning_rate" in told
    assert told.endswith("set trajectories.allow_diverged=true")
    assert not contents_of(tmp_path / "run", "clusters/")
    said()
    allowed = settings(tmp_path / "run", **silly, trajectories={"allow_diverged": True})
    capsys.readouterr()
    COMMANDS["select"].work(allowed)
    assert capsys.readouterr().out.startswith("warning: The proxy diverged: its mean loss is ")
    assert "warning: The proxy diverged" in said()
    assert "proxy" in stages_run(tmp_path / "run")[1]  # and not made again
