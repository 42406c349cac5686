"""A weighted selection on a real run: subset, exports, training, own loop, report, diagnosis."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.runs import corpus, rows_of, settings, stages_run

import s2l_ray
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.diagnosis import base_config
from s2l_ray.pipeline.targets import finetune
from s2l_ray.report import gather
from s2l_ray.selection.dataset import training_dataset
from s2l_ray.store.listing import list_files

LOOP = """
import json
from pathlib import Path

import ray.train


def train(config):
    from transformers import AutoModelForCausalLM

    rows = ray.train.get_dataset_shard("whole").iter_rows()
    found = [[int(row["example_id"]), float(row["weight"])] for row in rows]
    Path({notes!r}).write_text(json.dumps(found))
    ray.train.report({{"step": config["steps"], "loss": 1.0}})
    AutoModelForCausalLM.from_pretrained(config["model"]).save_pretrained(config["output"])
"""


@pytest.mark.slow
def test_a_weighted_selection(finished, copy, start, tmp_path, monkeypatch, caplog):
    export = ["messages", "trl_messages"]
    config = settings(copy, selection__selector="neyman", selection__export=export)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    made, _ = stages_run(copy)  # the clusters are those of s2l
    assert made == [
        "details/early", "selections/neyman-seed0",
        "exports/neyman-seed0/messages", "exports/neyman-seed0/trl_messages",
    ]  # fmt: skip
    store, done = run.store, run.done
    cluster_of = {row["example_id"]: row["cluster_id"] for row in rows_of(store, done["clusters"])}
    norms = {row["example_id"]: row["grad_norm"] for row in rows_of(store, done["details/early"])}
    clusters = sorted(set(cluster_of.values()))
    sizes = np.array([[*cluster_of.values()].count(k) for k in clusters])
    sigma = [
        math.sqrt(np.mean([norms[i] ** 2 for i, of in cluster_of.items() if of == k]))
        for k in clusters
    ]
    chosen = rows_of(store, selection.manifest)
    quotas = np.array([[row["cluster_id"] for row in chosen].count(k) for k in clusters])
    assert len(chosen) == 40 and selection.info["by_cluster"] == quotas.tolist()
    free = (quotas > 1) & (quotas < sizes)
    rates = (quotas / (sizes * sigma))[free]
    assert (np.abs(rates / np.median(rates) - 1) <= 1 / quotas[free]).all()
    weight_of = {row["example_id"]: row["weight"] for row in chosen}
    for row in chosen:
        k = row["cluster_id"]
        assert row["weight"] == pytest.approx(sizes[k] / quotas[k], rel=1e-6)

    # The weights reach every reader of the subset.
    assert {r["example_id"]: r["weight"] for r in selection.dataset().take_all()} == weight_of
    for name in export:
        table = selection.to_hf(name)
        found = dict(zip(table["example_id"], table["weight"], strict=True))
        assert found == {str(i): weight for i, weight in weight_of.items()}
        told = Path(selection.exports[name], "README.md").read_text()
        assert "`weight` is how many examples" in told
        assert ("**TRL does not read" in told) == (name == "trl_messages")
    lines = [
        json.loads(line)
        for file in Path(selection.exports["messages"], "data").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert {int(row["example_id"]): row["weight"] for row in lines} == weight_of
    assert "export trl_messages: TRL does not read the column `weight`" in caplog.text
    assert "export messages" not in caplog.text
    page = Path(gather.write(run, selection)).read_text()
    effective = sum(weight_of.values()) ** 2 / sum(w**2 for w in weight_of.values())
    assert "The subset is weighted" in page
    assert f"an effective sample size of {effective:,.0f}" in page

    # The target trains with them: the same examples without weights give another model.
    target = finetune(run, selection.manifest, "neyman-seed0", seed=0)
    tokens = done["targets/neyman-seed0/tokens"]
    assert {row["example_id"]: row["weight"] for row in rows_of(store, tokens)} == weight_of
    for row in training_dataset(store, selection.manifest, tokens).take_all():
        assert row["weight"] == weight_of[row["example_id"]]
    losses = [loss for _, loss in target.info["history"]]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert list_files(store).strays == []
    run.lease.release()

    # A loop of one's own gets them.
    notes = tmp_path / "weights.json"
    (tmp_path / "weighing_loop.py").write_text(LOOP.format(notes=str(notes)))
    monkeypatch.syspath_prepend(tmp_path)
    config = settings(
        copy, selection__selector="neyman", selection__export=export,
        target__train="weighing_loop:train", target__workers={"num_workers": 1},
    )  # fmt: skip
    run = start(config)
    again = pipeline.select(corpus(), config, run=run)
    assert again.manifest == selection.manifest
    finetune(run, again.manifest, "neyman-seed0", seed=0)
    assert {i: w for i, w in json.loads(notes.read_text())} == weight_of
    assert "its examples have weights, in the column `weight`" in caplog.text
    run.lease.release()

    # A budget below the number of clusters cannot stand for all of them.
    few = settings(copy, selection__selector="neyman", selection__budget=3)
    found = s2l_ray.select(corpus(), few)
    assert sorted(found.info["by_cluster"]) == [0, 0, 1, 1, 1]
    assert "in clusters that no example is chosen from" in caplog.text


def test_a_diagnosis_compares_the_runs_own_selector_if_it_gives_weights(tmp_path):
    own = base_config(settings(tmp_path, selection__selector="neyman"))
    assert own.selection.selector == "s2l" and "neyman" in own.evaluation.baselines
    other = base_config(settings(tmp_path, selection__selector="random_balanced"))
    assert "random_balanced" not in other.evaluation.baselines
