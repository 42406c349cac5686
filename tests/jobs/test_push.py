"""`s2l-ray push` against a hub on loopback, through the hub's own client."""

import json
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import constants
from support.exports import ROWS, write_subset
from support.head import environment
from support.hub import TOKEN
from support.runs import settings
from support.writable_hub import WritableHub

from s2l_ray import cli
from s2l_ray.config import load
from s2l_ray.pipeline.records import settings_of_baselines
from s2l_ray.store import Store

INFO = {
    "selector": "s2l", "budget": 5, "seed": 0, "examples": 5, "candidates": 40, "tokens": 1234,
    "by_source": {"s": 5}, "by_cluster": [3, 2],
}  # fmt: skip
KINDS = ("pair", "masked", "tools", "reasoning", "input")


@pytest.fixture
def run(tmp_path):
    """A configuration file, and its run directory with a selection of five examples."""
    config = settings(tmp_path / "run", selection__budget=5, selection__export=[])
    store, folder = Store(tmp_path / "run"), "selections/s2l-seed0/f"
    made = write_subset(store, [ROWS[kind] for kind in KINDS], folder="selections/draft/f")
    parts = [
        store.write_part(store.read_part(made.folder, part), folder, part.unit, suffix="parquet")
        for part in made.parts
    ]
    store.commit(folder, "f", parts, INFO)
    given = config.model_dump(mode="json")
    store.write_json({"config": given, "current": {"selections/s2l-seed0": folder}}, "run.json")
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture
def push(run, monkeypatch, capsys, tmp_path):
    """Runs the command in this process: its status, what it printed and its complaint."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def run_it(hub, *more, target="hf://owner/math", token=TOKEN):
        endpoint = hub if isinstance(hub, str) else hub.endpoint
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        status = 0
        try:
            cli.main(["push", target, str(run), *more])
        except SystemExit as end:
            status = end.code
        told = capsys.readouterr()
        return status, told.out, told.err

    return run_it


def test_the_card_tells_the_verdict_of_a_comparison(run, push):
    """Two pairs of targets, of which each selected one is 0.5 better."""
    store, config = Store(run.parent / "run"), load(run)
    records = [
        {"method": method, "budget": "5", "match": "examples", "selection_seed": seed,
         "training_seed": seed, "examples": 5, "steps": 1, "tokens": 9, "by_source": {"s": loss},
         "loss": loss + seed, "examples_by_source": {"s": 9},
         "settings": settings_of_baselines(config, "f")}
        for method, loss in (("s2l", 2.0), ("random", 2.5)) for seed in (0, 1)
    ]  # fmt: skip
    store.write_json(records, "report", "baselines.json")
    alarm = {"stage": "trajectories", "kind": "diverged", "headline": "The proxy diverged",
             "advice": "Lower it."}  # fmt: skip
    store.write_json(store.read_json("run.json") | {"alarms": [alarm]}, "run.json")
    with WritableHub() as hub:
        assert push(hub)[0] == 0
        card = hub.main("owner/math")["README.md"].decode()
    assert "held-out loss of s2l is 0.5" in " ".join(card.split()) and "2 pairs" in card
    assert "Not measured" not in card
    assert "\n\n**Warning:** The proxy diverged.\n\n| how |" in card and "Lower it" not in card


READ = """
import json, datasets
found = datasets.load_dataset("owner/math", split="train")
print(json.dumps([found.column_names, [row for row in found]]))
"""


@pytest.mark.slow
def test_a_subset_is_pushed_privately_and_read_back(run, push):
    with WritableHub() as hub:
        status, out, err = push(hub)
        assert (status, out) == (0, f"dataset: {hub.endpoint}/datasets/owner/math\n"), err
        assert hub.private == {"owner/math": True}
        files = hub.main("owner/math")
        assert sorted(files) == [
            "README.md", *(f"data/part-{n:05d}.parquet" for n in range(3)), "selection.json",
        ]  # fmt: skip
        assert json.loads(files["selection.json"]) == INFO
        card = files["README.md"].decode()
        for told in ("# math", "5 of 40 examples (12.5%), 1,234 tokens", "| budget | 5 |",
                     "evenly over k-means clusters", "| seed of the clusters | 42 |", "| s | 5 |",
                     "a gpt_neox from scratch", "selection.selector=s2l selection.budget=5",
                     "Not measured: the run has no comparison"):  # fmt: skip
            assert told in card
        # Nothing of this machine, and no token in what is written or said.
        everything = b"".join([*files.values(), *hub.sent]) + out.encode()
        assert str(run.parent).encode() not in everything and b"f.jsonl" not in everything
        assert TOKEN not in everything.decode("latin1") + err
        read = subprocess.run(
            [sys.executable, "-c", READ], text=True, capture_output=True, timeout=100, check=True,
            env=environment() | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN,
                                 "HF_HOME": str(run.parent / "reader"), "HF_HUB_DISABLE_XET": "1"},
        )  # fmt: skip
        columns, rows = json.loads(read.stdout)
        assert columns == ["messages", "tools", "example_id", "source", "rank", "reason"]
        assert [row["rank"] for row in rows] == list(range(5))
        assert [row["example_id"] for row in rows] == [str(2**62 + 1 + n) for n in range(5)]
        assert [row["messages"] for row in rows[:4]] == [
            ROWS[kind]["messages"] for kind in KINDS[:4]
        ]
        assert rows[2]["tools"] == ROWS["tools"]["tools"] and rows[0]["tools"] is None


def test_a_push_replaces_an_earlier_one_and_nothing_else(push):
    old = {"selection.json": b"{}", "data/part-00007.parquet": b"old", "notes.md": b"mine"}
    others = {"README.md": b"another's", "data/train.parquet": b"rows"}
    given = {"owner/math": {"main": old}, "owner/other": {"main": others},
             "owner/open": {"main": dict(old)}}  # fmt: skip
    with WritableHub(given, private={"owner/math", "owner/other"}) as hub:
        assert push(hub)[0] == 0
        assert {"notes.md", "README.md", "data/part-00000.parquet"} <= old.keys()
        assert "data/part-00007.parquet" not in old and hub.private["owner/math"]
        refused = {
            "hf://owner/other": ((), "exists, and no push of a selection made it (2 files)"),
            "hf://owner/open": ((), "exists and is public: give --public if all may read"),
            "hf://owner/math": (("--public",), "exists and is private: leave out --public"),
        }
        before = len(hub.sent)
        for target, (more, why) in refused.items():
            status, _, err = push(hub, *more, target=target)
            assert status == 1 and f"error: {target} {why}" in err
        assert len(hub.sent) == before and others.keys() == {"README.md", "data/train.parquet"}
        assert push(hub, "--public", target="hf://owner/new")[0] == 0
        assert hub.private["owner/new"] is False


def test_refusals_are_one_sentence_and_push_nothing(push, monkeypatch):
    with WritableHub() as hub:
        refused = [
            ({"token": None}, "there is no token; set HF_TOKEN, or run `hf auth login`"),
            ({"token": "hf_wrong"}, "the hub does not accept the token; set another HF_TOKEN"),
            ({"target": "hf://another/math"}, "the token may not write to another; give it"),
            ({"target": "hf://nobody/math"}, "the hub knows no nobody that the token may write"),
        ]
        for given, why in refused:
            status, out, err = push(hub, **given)
            assert (status, out) == (1, "")
            assert err.startswith(f"error: {given.get('target', 'hf://owner/math')}: {why}")
            assert err.count("\n") == 1
        assert hub.repositories == {} and not hub.uploads
    with WritableHub() as hub:  # to which no connection is open
        gone = hub.endpoint
    _, _, err = push(gone)
    assert err.startswith(f"error: hf://owner/math: {gone} cannot be reached")
    assert err.count("\n") == 1
    assert push(gone, target="owner/math")[2] == "error: 'owner/math': expected hf://owner/name\n"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, so nothing was pushed; unset it" in push(gone)[2]


def test_a_setting_that_changes_no_example_may_differ(run, push):
    """Or be missing, as in the run.json of an earlier version."""
    store = Store(run.parent / "run")
    record = store.read_json("run.json")
    del record["config"]["trajectories"]["allow_diverged"]
    store.write_json(record, "run.json")
    with WritableHub() as hub:
        for override in ("trajectories.allow_diverged=true", "selection.export=[alpaca]"):
            assert push(hub, override)[0] == 0


def test_only_the_selection_of_these_settings_is_pushed(push):
    cases = {
        "selection.seed=1": "has no selection s2l-seed1; run `s2l-ray select` first",
        "selection.budget=6": "selection: other settings than those that",
        "proxy.epochs=2": "proxy: other settings than those that",
    }
    for override, why in cases.items():
        status, _, err = push("http://127.0.0.1:9", override)
        assert status == 1 and why in err
