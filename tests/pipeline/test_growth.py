"""Corpora that grow: generations of files."""

import json

import numpy as np
import pytest
from support.runs import files_of, ids_of, rows, rows_of, settings, stages_run

import s2l_ray
from s2l_ray import cli
from s2l_ray.clustering.clusters import read_centers
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline import growth
from s2l_ray.pipeline.plan import Plan, corpus_stage
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.stage import walk
from s2l_ray.store import Store
from s2l_ray.store.views import ClustersView, CorpusView


def write(folder, name, items):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in items))
    return path


@pytest.fixture
def shards(tmp_path):
    """A folder of files, and a function that adds one."""
    folder = tmp_path / "shards"
    return lambda name, items: write(folder, name, items)


def grown(tmp_path, **changes):
    changes = {"corpus__path": str(tmp_path / "shards"), "corpus__grow": True} | changes
    return settings(tmp_path / "run", **changes)


def names(stage):
    return [each.folder.rpartition("/")[0] for each in walk([stage])]


def files_read(config):
    """The names of the files of each generation, as a run with these settings sees them."""
    files = {f.name: f for f in growth.resolve(config.corpus)}
    chain = growth._chain(Store(config.run_dir), config, files)
    return [[name.rpartition("/")[2] for name in each] for each in chain]


@pytest.mark.slow
def test_a_new_file_is_a_generation_of_its_own(local_ray, tmp_path, shards):
    items = rows(400)
    shards("a", items[:240])
    config = grown(tmp_path)
    before = s2l_ray.select(None, config)
    made, _ = stages_run(config.run_dir)
    assert made[:3] == ["corpus", "tokens", "proxy"]
    plain = settings(config.run_dir, corpus__path=config.corpus.path)
    assert corpus_stage(plain).folder == corpus_stage(config).folder  # may grow from now on

    kept = files_of(config.run_dir)
    shards("b", [*items[240:], *items[:10], items[240]])  # ten of the first file, one of its own
    after = s2l_ray.select(None, config)
    made, found = stages_run(config.run_dir)
    assert "proxy" in found and not [name for name in made if name.endswith("proxy")]
    assert [name for name in made if name.startswith("generation-1/")] == [
        "generation-1/corpus", "generation-1/tokens", "generation-1/losses",
        "generation-1/trajectories",
    ]  # fmt: skip
    now = files_of(config.run_dir)
    lost = {name for name in kept if now.get(name) != kept[name]}
    assert all(name.startswith(("report/", "exports/")) for name in lost)

    store = Store(config.run_dir)
    plan = Plan(config, corpus_stage(config))
    corpus, clusters = (
        store.manifest(s.folder) for s in (plan.corpus, plan.groups(config.selection))
    )
    view = CorpusView(corpus)
    assert (view.rows_read, view.duplicates) == (411, 11)
    assert view.examples + view.heldout == 400 == sum(view.by_source.values()) + view.heldout
    dropped = store.manifest(f"{plan.corpus.inputs[1].folder}/duplicates")
    told = sorted(
        (row["row"], row["kept_file"][-7:], row["kept_row"]) for row in rows_of(store, dropped)
    )
    assert told == [(160 + n, "a.jsonl", n) for n in range(1, 11)] + [(171, "b.jsonl", 1)]
    assert len(set(ids_of(store, corpus))) == corpus.rows == view.examples
    assert sum(ClustersView(clusters).sizes) == clusters.rows == corpus.rows
    assert np.array_equal(
        read_centers(store, clusters), read_centers(store, store.manifest(clusters.parts[0].folder))
    )
    # Each label is the nearest center.
    centers = read_centers(store, clusters)
    made_of = [store.manifest(each.trajectories.folder) for each in plan.generations]
    by_id = {r["example_id"]: r["losses"] for each in made_of for r in rows_of(store, each)}
    for row in rows_of(store, clusters):
        far = ((np.array(by_id[row["example_id"]]) - centers) ** 2).sum(axis=1)
        assert far[row["cluster_id"]] == pytest.approx(far.min(), rel=1e-4)
    assert after.ids().tolist() != before.ids().tolist() and len(after.ids()) == 40
    new = {
        row["example_id"] for row in rows_of(store, store.manifest(plan.corpus.inputs[1].folder))
    }
    chosen = set(after.ids().tolist())
    assert chosen & new and chosen - new and after.dataset().count() == 40

    again = s2l_ray.select(None, config)
    made, _ = stages_run(config.run_dir)
    assert made == [] and again.ids().tolist() == after.ids().tolist()


def test_what_may_not_change(local_ray, tmp_path, shards):
    items = rows(120)
    first = shards("a", items[:60])
    shards("b", items[60:])
    config = grown(tmp_path)
    store = Store(config.run_dir)
    with Run.start(config) as run:
        run.get(corpus_stage(config))
    whole = first.read_text()
    assert files_read(config) == [["a.jsonl", "b.jsonl"]]
    shards("c", rows(30, seed=6))
    first.write_text(whole + json.dumps(items[0]) + "\n")
    with pytest.raises(
        ValueError, match=r"gone or changed since they were read: .*a\.jsonl\..* `s2l-ray refit`"
    ):
        corpus_stage(config)
    first.unlink()
    with pytest.raises(ValueError, match=r"a\.jsonl"):
        corpus_stage(config)
    assert growth.begin_again(store, config.corpus) == 2
    assert files_read(config) == [["b.jsonl", "c.jsonl"]]
    shards("d", rows(30, seed=7))
    [_, later] = corpus_stage(config).generations
    assert names(later) == ["corpus", "generations/001/corpus"]
    first.write_text(whole)  # it is new to the corpus that begins again
    assert len(corpus_stage(config).generations) == 2
    (tmp_path / "run/refit.json").write_text("{}")
    with pytest.raises(ValueError, match=r"refit\.json: damaged; `s2l-ray refit` writes it again"):
        corpus_stage(config)


def test_generations_are_known_after_a_stop_and_after_damage(local_ray, tmp_path, shards):
    items = rows(150)
    config = grown(tmp_path)
    for number, name in enumerate("abc"):
        shards(name, items[50 * number : 50 * number + 50])
        stage = corpus_stage(config)
        with Run.start(config) as run:
            run.get(stage.generations[-1] if stage.generations else stage)  # stops before the whole
    assert files_read(config) == [["a.jsonl"], ["b.jsonl"], ["c.jsonl"]]
    with Run.start(config) as run:
        whole = run.get(corpus_stage(config))
    ids = sorted(ids_of(run.store, whole))
    for folder in (
        f"{config.run_dir}/{whole.folder}",
        f"{config.run_dir}/{stage.inputs[0].folder}",
    ):
        path = f"{folder}/manifest.json"
        with open(path) as file:
            text = file.read()
        with open(path, "w") as file:
            file.write(text[:-20])
    with Run.start(config) as run:
        assert sorted(ids_of(run.store, run.get(corpus_stage(config)))) == ids


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corpus__duplicates": "number"}, "corpus.grow: found true with corpus.duplicates"),
        ({"proxy__keep_checkpoints": 1}, "corpus.grow: found true with proxy.keep_checkpoints: 1"),
        ({"losses__path": "x"}, "corpus.grow: found true with losses.path"),
        (
            {"corpus__heldout_share": 0.0, "corpus__heldout_per_source": 5},
            "corpus.grow: found true with corpus.heldout_per_source: 5; .* corpus.heldout_share",
        ),
    ],
)
def test_settings_that_exclude_growth(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        grown(tmp_path, **changes)


def test_a_dataset_does_not_grow(local_ray, tmp_path):
    with pytest.raises(ValueError, match=r"corpus\.grow: found true with a dataset"):
        s2l_ray.select(s2l_ray_rows(), grown(tmp_path))


def s2l_ray_rows():
    import ray

    return ray.data.from_items(rows(30), override_num_blocks=1)


@pytest.mark.slow
def test_checkpoints_that_were_dropped_are_not_trained_again_and_a_refit_goes_on(
    local_ray, tmp_path, shards, monkeypatch
):
    items = rows(200, seed=4)
    shards("a", items[:140])
    once = settings(
        tmp_path / "run", corpus__path=str(tmp_path / "shards"), proxy__keep_checkpoints=1
    )
    s2l_ray.select(None, once)
    shards("b", items[140:])
    config = grown(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint-\d+ was removed .* with `s2l-ray refit`"):
        s2l_ray.select(None, config)
    made, _ = stages_run(config.run_dir)
    assert "generation-1/tokens" in made and "proxy" not in made

    path = tmp_path / "grown.json"  # YAML is a superset
    path.write_text(config.model_dump_json())
    monkeypatch.setattr("sys.argv", ["s2l-ray"])
    cli.main(["refit", str(path), "--quiet"])
    made, _ = stages_run(config.run_dir)
    assert made[:3] == ["corpus", "tokens", "proxy"]
    assert files_read(config) == [["a.jsonl", "b.jsonl"]]


@pytest.mark.slow
def test_a_shifted_shard_raises_the_alarm(local_ray, tmp_path, shards):
    shards("a", rows(240))
    config = grown(tmp_path)
    s2l_ray.select(None, config)
    shards("b", rows(60, seed=9))
    s2l_ray.select(None, config)
    kinds = [each["kind"] for each in json.loads((tmp_path / "run/run.json").read_text())["alarms"]]
    assert "drift" not in kinds
    odd = [
        {"instruction": f"{n} ÄÖÜ", "output": "§$%&" * (3 + n % 4), "source": "odd"}
        for n in range(40)
    ]
    shards("c", [*odd, *rows(20, seed=10)])
    s2l_ray.select(None, config)
    alarms = json.loads((tmp_path / "run/run.json").read_text())["alarms"]
    [drift] = [each for each in alarms if each["kind"] == "drift"]
    assert "of generation 2 lie" in drift["headline"] and "of odd" in drift["headline"]
    assert "s2l-ray refit" in drift["advice"]


@pytest.mark.slow
def test_ten_shards_give_the_rows_of_one_pass_with_the_same_proxy(local_ray, tmp_path, shards):
    items = rows(400, seed=3)
    shards("s00", items[:130])
    config = grown(tmp_path)
    s2l_ray.select(None, config)
    for number in range(1, 10):
        shards(f"s{number:02d}", items[130 + 30 * (number - 1) : 130 + 30 * number])
        s2l_ray.select(None, config)
    plan, store = Plan(config, corpus_stage(config)), Store(config.run_dir)
    assert len(plan.generations) == 10
    proxy = store.manifest(plan.proxy.folder)
    checkpoints = [
        str(tmp_path / "run" / plan.proxy.folder / f"checkpoint-{step:06d}")
        for step in proxy.info["checkpoints"]
    ]
    once = settings(
        tmp_path / "once",
        corpus__path=config.corpus.path,
        proxy__checkpoints=checkpoints,
        proxy__model={"name": checkpoints[0]},
        proxy__num_checkpoints=None,
    )
    s2l_ray.select(None, once)
    other, there = Plan(once, corpus_stage(once)), Store(once.run_dir)

    def by_id(plan, store, stage, column):
        of = [getattr(each, stage).folder for each in plan.generations or [plan]]
        found = [row for folder in of for row in rows_of(store, store.manifest(folder))]
        return {row["example_id"]: row[column] for row in found}

    for stage, column in (("corpus", "turns"), ("tokens", "input_ids"), ("trajectories", "source")):
        assert by_id(plan, store, stage, column) == by_id(other, there, stage, column)
    mine, theirs = (
        by_id(*each, "trajectories", "losses") for each in ((plan, store), (other, there))
    )
    for example, losses in mine.items():
        assert losses == pytest.approx(theirs[example], abs=1e-4)
    held, hold = (
        sorted(ids_of(s, s.manifest(f"{p.corpus.folder}/heldout")))
        for p, s in ((plan, store), (other, there))
    )
    assert held == hold
