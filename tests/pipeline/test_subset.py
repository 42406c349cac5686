"""Selecting through the library: what is chosen, reused and made again."""

import json
from pathlib import Path

import datasets
import pytest
from support.runs import corpus, files_of, ids_of, rows, settings, stages_run

import s2l_ray
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.report import gather
from s2l_ray.report.next_steps import loading
from s2l_ray.store import Store


@pytest.mark.slow
def test_selection_goes_straight_into_a_trainer_of_ones_own(finished, tmp_path):
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    _, selection = finished
    assert selection.info["examples"] == 40

    def train_loop(config):
        import json
        from pathlib import Path

        import ray.train

        seen = []
        for batch in ray.train.get_dataset_shard("train").iter_batches(batch_size=8):
            seen += batch["example_id"].tolist()
        rank = ray.train.get_context().get_world_rank()
        Path(config["folder"], f"{rank}.json").write_text(json.dumps(seen))

    TorchTrainer(
        train_loop,
        train_loop_config={"folder": str(tmp_path)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="own", storage_path=str(tmp_path / "ray")),
        datasets={"train": selection.dataset()},
    ).fit()
    shards = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(shard) for shard in shards] == [20, 20]
    assert sorted(shards[0] + shards[1]) == sorted(ids_of(selection.store, selection.manifest))


def test_selected_rows_are_the_given_rows(finished):
    _, selection = finished
    given = {(row["instruction"], row["output"], row["source"]) for row in rows()}
    chosen = selection.dataset().take_all()
    assert [row["rank"] for row in chosen] == list(range(40))
    texts = [(*(said["content"] for said in row["messages"]), row["source"]) for row in chosen]
    assert len(set(texts)) == 40 and set(texts) <= given
    assert all(row["tools"] is None and row["reason"].startswith("cluster") for row in chosen)
    ids = [row["example_id"] for row in chosen]
    assert selection.ids().tolist() == ids
    found = selection.to_hf()
    assert found["example_id"] == [str(each) for each in ids]
    assert found["messages"] == [row["messages"] for row in chosen]
    pairs = selection.to_hf("prompt_response")
    assert [(row["prompt"], row["response"], row["source"]) for row in pairs] == texts
    with pytest.raises(ValueError, match=r"^export: found 'trl', expected one of alpaca, "):
        selection.to_hf("trl")


def test_a_selection_is_shown_on_one_line(finished):
    _, selection = finished
    shown = repr(selection)
    assert shown.startswith("Selection(s2l: 40 of ") and shown.endswith(f"; {selection.path})")
    assert "3 sources, " in shown and "\n" not in shown


def test_the_export_is_a_stage_of_its_own(finished):
    _, selection = finished
    folder = Path(selection.exports["alpaca"])
    assert folder.parent == Path(selection.store.uri) / "exports/s2l-seed0/alpaca"
    [file] = (folder / "data").iterdir()
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [int(row["example_id"]) for row in found] == selection.ids().tolist()


def test_another_export_selects_nothing_again(finished, copy):
    config = settings(copy, selection__export=["alpaca", "axolotl"])
    again = s2l_ray.select(corpus(), config)
    assert stages_run(copy)[0] == ["exports/s2l-seed0/axolotl"]
    assert again.manifest == finished[1].manifest and [*again.exports] == ["alpaca", "axolotl"]


@pytest.mark.slow
def test_rows_of_datasets_of_hugging_face_and_of_files_are_the_same_corpus(
    finished, copy, tmp_path
):
    given = datasets.Dataset.from_list(rows()).shuffle(seed=1)
    again = s2l_ray.select(given, settings(copy))
    assert stages_run(copy)[0] == [] and again.manifest == finished[1].manifest
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    found = s2l_ray.select(file, settings(tmp_path / "run", selection__selector="random"))
    other = s2l_ray.select(given, settings(copy, selection__selector="random"))
    assert found.ids().tolist() == other.ids().tolist()


def test_dataset_keeps_the_rank_order_over_many_parts(finished, tmp_path):
    _, selection = finished
    store = Store(tmp_path / "run")
    whole = selection.store.read_part(selection.manifest.folder, selection.manifest.parts[0])
    parts = [
        store.write_part(whole.slice(start, 4), "s", f"subset/part-{start:05d}", suffix="parquet")
        for start in range(0, 40, 4)
    ]
    split = pipeline.Selection(store, store.commit("s", "s", parts, {}))
    assert [row["rank"] for row in split.dataset().take_all()] == list(range(40))


def test_second_run_reuses_every_stage(finished, copy):
    before = files_of(copy)
    again = s2l_ray.select(corpus(rows()[::-1]), settings(copy))  # the order of rows is nothing
    made, found = stages_run(copy)
    assert made == []
    assert found == ["corpus", "tokens", "proxy", "losses", "trajectories", "clusters",
                     "selections/s2l-seed0", "exports/s2l-seed0/alpaca"]  # fmt: skip
    assert files_of(copy) == before
    assert again.manifest == finished[1].manifest


def test_changed_settings_rerun_what_depends_on_them_and_keep_the_rest(finished, copy):
    before = files_of(copy)
    config = settings(copy, selection__budget=30, proxy__workers={"num_workers": 2},
                      proxy__micro_batch_size=16, proxy__max_failures=0,
                      trajectories__workers={"num_workers": 2})  # fmt: skip
    smaller = s2l_ray.select(corpus(), config)
    assert stages_run(copy)[0] == ["selections/s2l-seed0", "exports/s2l-seed0/alpaca"]
    chosen = ids_of(finished[1].store, finished[1].manifest)
    assert ids_of(smaller.store, smaller.manifest) == chosen[:30]  # nested

    s2l_ray.select(corpus(), settings(copy, clusters__n_clusters=4))
    assert stages_run(copy)[0] == [
        "clusters", "selections/s2l-seed0", "exports/s2l-seed0/alpaca",
    ]  # fmt: skip
    after = files_of(copy)
    assert {path: after[path] for path in before} == before
    assert len(list((copy / "clusters").iterdir())) == 2
    assert len(list((copy / "selections" / "s2l-seed0").iterdir())) == 3


def test_report_shows_examples_if_it_may(finished, copy, start):
    config = settings(copy, report__examples=True)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    page = Path(gather.write(run, selection)).read_text()
    texts = [row for row in rows() if row["output"] in page and row["instruction"].strip() in page]
    assert len(texts) >= 10
    data = gather.gather(run, selection)
    told: dict = {}
    exec(loading(data).partition("\n\n")[0], told)  # as the page says
    assert told["subset"].count() == selection.info["examples"]
    shown = data.examples
    assert [len(examples) for examples in shown] == [
        min(4, size) for size in run.done["clusters"].info["sizes"]
    ]
