"""A whole diagnosis against runs with the variants' settings, scikit-learn and sets."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from sklearn.metrics import adjusted_rand_score
from support.head import command
from support.runs import MARK, Given, architecture, files_of, rows, settings, stages_run

from s2l_ray.config import TrainingConfig
from s2l_ray.pipeline import diagnosis
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.selection.quotas import even
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.training.checkpoints import checkpoint_steps

WIDE = {"architecture": architecture("gpt_neox") | {"hidden_size": 48}, "tokenizer_vocab": 320}


def table_of(store, manifest, columns):
    parts = [store.read_part(manifest.folder, part, columns) for part in manifest.parts]
    return pa.concat_tables(parts).to_pandas().set_index("example_id")


@pytest.mark.parametrize("steps", [3, 4, 7, 12])
def test_fewer_checkpoints_are_those_a_proxy_with_so_many_keeps(steps):
    for count in range(2, steps):
        training = TrainingConfig(model={"name": "m"}, num_checkpoints=count)
        kept = diagnosis.evenly_spaced(list(range(1, steps + 1)), count)
        assert kept == checkpoint_steps(training, steps)


def test_numbers_of_clusters_are_those_that_the_corpus_has_examples_for(store):
    tokens = Manifest("t", "t", [Part("p", "f", 220, 1, "c", {"trainable": 216})])

    def numbers(own, wanted=None):
        config = settings("run", clusters__n_clusters=own, diagnose__n_clusters=wanted)
        return diagnosis._numbers_of_clusters(Given.of(config, {"tokens": tokens}, store))

    assert numbers(5) == [2, 10]
    assert numbers(150) == [75] and numbers(1) == [2]
    assert numbers(5, [5, 216]) == [216] and numbers(5, []) == []
    with pytest.raises(ValueError, match=r"diagnose\.n_clusters: 217, but there are only 216 exam"):
        numbers(5, [3, 217])


class Stopped(Exception):
    pass


def test_topics_are_looked_at_before_anything_is_made(store, monkeypatch):
    """Too many of them end a diagnosis before its variants, not after them."""
    tokens = Manifest("t", "t", [Part("p", "f", 220, 1, "c", {"trainable": 216})])
    corpus = Manifest("c", "c", [], {"by_source": {"b": 1, "a": 2}})

    def fail(store, examples, column):
        assert (examples, column) == (corpus, "topic")
        raise Stopped

    monkeypatch.setattr(diagnosis, "prepare", lambda *_: None)
    monkeypatch.setattr(diagnosis, "check_reachable", lambda *_: None)
    monkeypatch.setattr(diagnosis, "topics_of", fail)

    class Run(Given):
        def view(self, config):
            return Run.of(config, self.done, self.store)

    config = settings("run", corpus__columns={"topic": "kind"})
    run = Run.of(config, {"tokens": tokens, "corpus": corpus}, store)  # no trajectories
    with pytest.raises(Stopped):
        diagnosis.diagnose(run)
    by_source = Run.of(settings("run"), {"corpus": corpus}, store)
    assert diagnosis._topics(by_source) == ("source", ["a", "b"])


@pytest.mark.slow
def test_diagnosis_of_a_run(local_ray, tmp_path, tmp_ray):
    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "run"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    diagnose = {"seeds": [42, 1], "checkpoints": [2, 3], "proxies": {"wide": WIDE},
                "gradients": True}  # fmt: skip
    config = settings(folder, corpus__path=str(corpus), diagnose=diagnose)
    with pipeline.Run.start(config) as run:
        record = run.finish(diagnosis.diagnose)
    found = {(row["changed"], row["to"]): row["subsets"] for row in record["stability"]}
    assert list(found) == [
        ("draw", "1"), ("k-means seed", "43"), ("n_clusters", "2"), ("n_clusters", "10"),
        ("checkpoints", "2 of 3"), ("proxy seed", "1"), ("proxy", "wide"),
    ]  # fmt: skip
    same, seeded = found["draw", "1"], found["k-means seed", "43"]
    assert same["s2l"]["adjusted_rand"] == same["loss_strata"]["adjusted_rand"] == 1
    # The draw alone changes no probability, so it explains all of the difference.
    assert same["s2l"]["correlation"] == pytest.approx(1)
    assert same["s2l"]["draw_noise"] == same["loss_strata"]["draw_noise"] == pytest.approx(1)
    assert seeded["s2l"]["correlation"] < 0.9999
    assert seeded["loss_strata"] == same["loss_strata"]  # no k-means in it
    thinned = found["checkpoints", "2 of 3"]["loss_strata"]["adjusted_rand"]
    assert 0.2 < thinned < 1
    for subsets in found.values():
        assert subsets["s2l"]["examples"] == subsets["loss_strata"]["examples"] == 40

    steps = {row["step"] for row in record["gradients"]}
    assert len(steps) == 1
    of = [(row["measure"], row["of"], row.get("weighted")) for row in record["gradients"]]
    assert of == [
        ("pairs", "clusters", None), ("pairs", "random groups", None),
        ("mean gradient", "s2l", False), ("mean gradient", "random", False),
        ("mean gradient", "embedding_clusters", False),
        ("mean gradient", "s2l", True), ("mean gradient", "embedding_clusters", True),
    ]  # fmt: skip
    for row in record["gradients"][2:]:
        assert (row["examples"], row["draws"]) == (40, diagnosis.DRAWS)
        assert row["distance_error"] > 0

    # A run of one's own with the settings of a variant finds all of it made, and is that variant.
    store = Store(folder)

    def selected(**changes):
        config = settings(folder, corpus__path=str(corpus), selection__export=[], **changes)
        selection = pipeline.select(None, config)
        assert stages_run(folder)[0] == []
        current = json.loads((folder / "run.json").read_text())["current"]
        labels = table_of(store, store.manifest(current["clusters"]), None)["cluster_id"]
        return labels, set(table_of(store, selection.manifest, ["example_id"]).index)

    labels, chosen = selected()
    other = {"clusters__stability": False, "selection__seed": 1}
    for variant, changes in (
        (("n_clusters", "10"), {"clusters__n_clusters": 10}),
        (("proxy", "wide"), {"proxy__model": WIDE}),
    ):
        its_labels, its_chosen = selected(**other, **changes)
        wanted = found[variant]["s2l"]
        assert wanted["adjusted_rand"] == pytest.approx(
            adjusted_rand_score(labels, its_labels.loc[labels.index])
        )
        assert wanted["jaccard"] == len(chosen & its_chosen) / len(chosen | its_chosen)
        assert wanted["jaccard"] < 1
        its_labels = its_labels.loc[labels.index]
        mine, its = (even(np.bincount(x), 40)[x] / np.bincount(x)[x] for x in (labels, its_labels))
        assert wanted["correlation"] == pytest.approx(np.corrcoef(mine, its)[0, 1])
        apart = 1 - (mine * its).sum() / 40
        by_draw = 1 - ((mine**2).sum() + (its**2).sum()) / 80
        assert wanted["draw_noise"] == pytest.approx(by_draw / apart)
    law, sizes = record["laws"]["laws"]["s2l"], np.bincount(labels)
    chance = even(sizes, 40)[labels] / sizes[labels]
    assert law["effective"] == pytest.approx(len(labels) ** 2 / (1 / chance).sum())
    assert sum(law["subset"]["loss"]) == pytest.approx(1)

    purity = record["purity"]
    assert purity["topics"] == ["chat", "sums", "words"]
    examples = store.manifest(next((folder / "corpus").iterdir()).relative_to(folder).as_posix())
    topics = table_of(store, examples, ["example_id", "source"])["source"]
    most = 0
    for cluster in range(5):
        members = labels.index[labels == cluster]
        most += Counter(topics[example] for example in members).most_common(1)[0][1]
    assert purity["trajectories"]["mean"] == pytest.approx(most / len(labels))
    for name in ("trajectories", "features"):
        assert sum(purity[name]["sizes_K"]) == len(labels)
    assert len(purity["random"]["shares_K"]) == 1000
    largest = Counter(topics[labels.index]).most_common(1)[0][1]
    assert purity["largest"] == pytest.approx(largest / len(labels))

    # The command goes on from all of that, makes nothing, and says the same.
    before = {path: file for path, file in files_of(folder).items() if "report/" not in path}
    written = config.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    done = command("diagnose", tmp_path / "config.yaml", RAY_TMPDIR=str(tmp_ray))
    assert done.returncode == 0, done.stderr
    after = {path: file for path, file in files_of(folder).items() if "report/" not in path}
    assert after == before
    assert json.loads((folder / "report/diagnostics.json").read_text()) == record
    page = Path(done.stdout.strip().splitlines()[-1].removeprefix("report: "))
    assert page == folder / "report/diagnostics.html"
    text = page.read_text()
    assert "n_clusters" in text and MARK not in text
    jaccard = found["proxy", "wide"]["s2l"]["jaccard"]
    assert f"{jaccard:.3f}" in text and f"{jaccard:.3f}" in done.stdout
