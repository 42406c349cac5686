"""Every selector on a finished run, with the stages that it needs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from support.runs import contents_of, corpus, rows_of, settings, stages_run

import s2l_ray
from s2l_ray.config import BUILT_IN_SELECTORS
from s2l_ray.execution import connect
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.copies import copies_told
from s2l_ray.pipeline.stage import walk
from s2l_ray.report import gather
from s2l_ray.store import Store
from s2l_ray.store.listing import list_files


@pytest.mark.slow
def test_the_other_selectors_and_budgets(finished, copy):
    store = Store(copy)
    official = s2l_ray.select(
        corpus(), settings(copy, selection__selector="s2l_official", selection__export=[])
    )
    assert stages_run(copy)[0] == ["clusters_by_source", "selections/s2l_official-seed0"]
    # Equal budgets by source: 40 = 13 + 13 + 14, the largest source last.
    assert sorted(official.info["by_source"].values()) == [13, 13, 14]
    current = json.loads((copy / "run.json").read_text())["current"]
    clusters = store.manifest(current["clusters_by_source"])
    owner = np.array(clusters.info["sources"])
    assert len(owner) == 15 and sorted(set(owner)) == ["chat", "sums", "words"]
    trajectories = store.manifest(current["trajectories"])
    for labels, losses in zip(clusters.parts, trajectories.parts, strict=True):
        cluster = store.read_part(clusters.folder, labels)["cluster_id"].to_numpy()
        source = store.read_part(trajectories.folder, losses)["source"].to_pylist()
        assert owner[cluster].tolist() == source

    paid = s2l_ray.select(corpus(), settings(copy, selection__budget="500 tokens"))
    assert 400 < paid.info["tokens"] <= 500
    drawn = s2l_ray.select(
        corpus(), settings(copy, selection__selector="random", selection__export=[])
    )
    assert stages_run(copy)[0] == ["selections/random-seed0"]
    assert drawn.info["by_cluster"] is None and drawn.info["examples"] == 40
    assert {row["cluster_id"] for row in drawn.dataset().take_all()} == {None}
    # Each has a page.
    for selector in ("s2l_official", "random"):
        config = settings(copy, selection__selector=selector)
        with pipeline.Run.start(config) as run:
            page = gather.write(run, pipeline.select(corpus(), config, run=run))
        assert selector in Path(page).read_text()


@pytest.mark.slow
def test_losses_come_from_the_details_where_the_run_asks_for_those(finished, copy, start):
    """The weights of a checkpoint that is known are not even there; the bytes are the same."""
    before = contents_of(copy, "losses/", "trajectories/")
    config = settings(
        copy,
        selection__selector="el2n",
        selection__export=[],
        evaluation__baselines=["random", "random_tokens", "least_confidence", "grand"],
    )
    run = start(config)
    pipeline.select(corpus(), config, run=run)
    stages = list(walk([run.plan.selection(config.selection)]))
    marks = {stage.name: stage.fingerprint for stage in stages}
    assert list(marks) == ["corpus", "tokens", "proxy", "details/early", "details/final", "losses",
                           "trajectories", "rankings/el2n", "selections/el2n-seed0"]  # fmt: skip
    assert {stage: manifest.fingerprint for stage, manifest in run.done.items()} == marks
    made, found = stages_run(copy)
    assert made == ["details/early", "details/final", "rankings/el2n", "selections/el2n-seed0"]
    assert found == ["corpus", "tokens", "proxy", "losses", "trajectories"]  # as they were
    early = run.done["details/early"]
    assert run.store.read_part(early.folder, early.parts[0]).column_names == [
        "example_id", "loss", "num_label_tokens", "el2n", "grad_norm",
    ]  # fmt: skip

    for name in ("losses", "trajectories"):
        shutil.rmtree(copy / name)
        del run.done[name]
    first, *_, last = sorted((copy / run.done["proxy"].folder).glob("checkpoint-*"))
    shutil.rmtree(first)
    shutil.rmtree(last)
    pipeline.select(corpus(), config, run=run)
    assert contents_of(copy, "losses/", "trajectories/") == before


@pytest.mark.slow
def test_every_selector_selects_and_its_stages_are_those_announced(
    copy, start, tmp_path, monkeypatch
):
    # As on a Ray of the run's own: trainings run in tasks.
    monkeypatch.setattr(connect, "_started", [ray.get_runtime_context().get_node_id()])
    purpose = tmp_path / "purpose.jsonl"
    purpose.write_text("".join(
        json.dumps({"instruction": f"add {n} and 7", "output": f"it is {n + 7}"}) + "\n"
        for n in range(9)
    ))  # fmt: skip
    near = {"max_per_group": 1, "similarity": 0.6, "shingle_words": 1}
    run = start(settings(copy, selection__toward=str(purpose), selection__toward_steps=4,
                         selection__near_duplicates=near))  # fmt: skip
    s2l_ray.select(corpus(), run.config, run=run)
    groups = rows_of(run.store, run.done["near_duplicates/groups"])
    copies = {row["example_id"] for row in groups if row["place"] > 0}
    assert len(copies) > 20
    subsets = {}
    for name in BUILT_IN_SELECTORS:
        race = {"candidates": ["random", "longest"], "seeds": [0, 1]}
        config = settings(
            copy, selection__selector=name, selection__budget=20, selection__race=race
        )
        chosen = pipeline.choose_subset(run, config.selection)
        subsets[name] = chosen.dataset().to_pandas()
        stages = list(walk([run.plan.selection(config.selection)]))
        assert all(run.done[each.name].fingerprint == each.fingerprint for each in stages), name
        assert copies.isdisjoint(subsets[name]["example_id"]), name
        if name != "random_tokens":
            assert len(set(subsets[name]["example_id"])) == chosen.info["examples"] == 20, name
    told = copies_told(run, run.done["selections/s2l-seed0"])
    assert told[0].endswith(f"1 of each can be chosen, {len(copies):,} are left out.")
    assert told[1].startswith("s2l spends 0.0% of its budget on copies: ")
    like = run.done["selections/s2l-seed0"].info  # the last one made: of 20 examples
    assert run.done["selections/random_shares-seed0"].info["by_source"] == like["by_source"]
    assert run.done["selections/random_tokens-seed0"].info["tokens"] <= like["tokens"]
    features = run.done["features"]
    for part, like in zip(features.parts, run.done["trajectories"].parts, strict=True):
        table = run.store.read_part(features.folder, part)
        alike = run.store.read_part(run.done["trajectories"].folder, like)
        assert table["example_id"].equals(alike["example_id"])
        assert table["losses"].type.list_size == 32
    before = run.done["before"]
    losses = pa.concat_tables(run.store.read_part(before.folder, part) for part in before.parts)
    # Of 320 tokens, and nothing learned yet.
    assert abs(losses["loss"].to_numpy().mean() - np.log(320)) < 0.2
    assert list_files(run.store).strays == []
