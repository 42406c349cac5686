"""Selection toward a purpose: quotas and scores by hand, leaks, and what is said of them."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from support.corpora import example, random_examples, write_corpus
from support.runs import plan_of, rows_of, settings

from s2l_ray.analysis.purpose import purpose_told
from s2l_ray.clustering.clusters import _centers_file, assign_to_centers
from s2l_ray.config import SelectionConfig, WorkersConfig
from s2l_ray.corpus.purpose import purpose_config
from s2l_ray.evaluation.leaks import apart, shared_with
from s2l_ray.pipeline import preflight, timing
from s2l_ray.pipeline.forecast import TO_DO, Forecast
from s2l_ray.pipeline.pricing import Pricing
from s2l_ray.pipeline.rates import Rate
from s2l_ray.pipeline.stage import walk
from s2l_ray.pipeline.toward import path_config
from s2l_ray.pipeline.workload import Counts, Workload
from s2l_ray.selection.kinds import Known
from s2l_ray.selection.quotas import even, toward
from s2l_ray.selection.selectors import selector_named
from s2l_ray.store import Manifest, schemas
from s2l_ray.store.views import LeaksView, SelectionView


def test_quotas_by_hand():
    # 10 of 3 clusters of 20; the purpose has 3 and 1 examples in the first two.
    sizes, counts = np.array([20, 20, 20]), np.array([3, 1, 0])
    # Half of 10 evenly: 2, 2, 1. The other 5 as 3 to 1: 4 and 1 (Webster: 3.75 and 1.25).
    assert toward(sizes, 10, counts, 0.5).tolist() == [6, 3, 1]
    assert toward(sizes, 10, counts, 0.0).tolist() == even(sizes, 10).tolist() == [4, 3, 3]
    assert toward(sizes, 8, counts, 1.0).tolist() == [6, 2, 0]
    # A cluster that has too few gives all; what the purpose's clusters lack comes from the others.
    assert toward(np.array([2, 1, 20]), 10, counts, 1.0).tolist() == [2, 1, 7]
    assert toward(np.array([2, 1, 0]), 10, counts, 0.5).tolist() == [2, 1, 0]


@pytest.mark.parametrize("seed", range(40))
def test_quotas_nest_add_up_and_hold_those_of_s2l_for_the_rest_of_the_budget(seed):
    random = np.random.default_rng(seed)
    groups = int(random.integers(1, 20))
    sizes = random.integers(0, 25, groups)
    counts = random.integers(0, 4, groups) * random.integers(0, 2, groups)
    counts[0] += 1
    share, before = float(random.choice([0, 0.1, 0.3, 0.5, 0.9, 1])), np.zeros(groups)
    for budget in range(1, int(sizes.sum()) + 1):
        found = toward(sizes, budget, counts, share)
        assert found.sum() == budget and (found <= sizes).all() and (found >= before).all()
        assert (found >= even(sizes, int(np.ceil((1 - share) * budget - 0.5)))).all()
        before = found


def test_the_score_along_the_path_by_hand():
    known = Known(
        losses_NT=np.array([[3.0, 1.0], [3.0, 3.0], [4.0, 5.0]], np.float32),
        num_label_tokens_N=np.array([1, 1, 1]),
        before_N=np.array([4.0, 4.0, 4.0], np.float32),
    )
    # Falls by 3/4, by 1/4, and rises by 1/4; the smallest score is taken first.
    assert selector_named("toward_path").score(known).tolist() == [-0.75, -0.25, 0.25]


def test_rows_that_the_corpus_has_are_left_out_counted_and_said(local_ray, store):
    corpus = random_examples(30)
    given = [*corpus[:3], *(example(f"new {n}", "answer") for n in range(4))]
    examples, purpose = write_corpus(store, corpus), write_corpus(store, given, folder="purpose/c")
    found = apart(
        store, purpose, {"the corpus": examples}, "selection.toward",
        folder="purpose/examples/e", fingerprint="e",
    )  # fmt: skip
    assert LeaksView(found).in_corpus == 3
    assert LeaksView(found).note.startswith(
        "selection.toward: left out 3 of 7 examples: 3 of the corpus, such as "
    )
    texts = {row["turns"][0]["text"] for row in rows_of(store, found)}
    assert texts == {f"new {n}" for n in range(4)}
    assert shared_with(store, found, examples) == (0, "")
    count, first = shared_with(store, purpose, examples)
    assert count == 3 and ":" in first

    only = write_corpus(store, corpus[:3], folder="purpose/d")
    with pytest.raises(ValueError, match=r"3 of 3 examples.*nothing is left: give examples"):
        apart(
            store, only, {"the corpus": examples}, "selection.toward",
            folder="purpose/examples/f", fingerprint="f",
        )  # fmt: skip


def test_the_purposes_trajectories_go_to_the_nearest_centers(local_ray, store):
    def part(number, losses):
        ids = [10 * number + i for i in range(len(losses))]
        columns = [ids, ["toward"] * len(ids), losses, [1] * len(ids)]
        table = pa.table(columns, schema=schemas.trajectories(2))
        return store.write_part(table, "purpose/t", f"part-{number:05d}")

    centers = np.array([[0.0, 0.0], [4.0, 4.0], [9.0, 0.0]])
    kept = store.write_beside(_centers_file([(None, centers)]), "clusters/c", "centers.arrow")
    clusters = store.commit("clusters/c", "c", [], {"centers": kept.checksum}, [kept])
    parts = [part(0, [[1.0, 1.0], [3.0, 3.0]]), part(1, []), part(2, [[8.0, 7.0]])]
    found = assign_to_centers(
        store, store.commit("purpose/t", "t", parts, {}), clusters,
        folder="purpose/shares/s", fingerprint="s",
    )  # fmt: skip
    assert found.info["sizes"] == [1, 2, 0]
    assert [row["cluster_id"] for row in rows_of(store, found)] == [0, 1, 1]


def test_what_is_said_of_the_shares():
    info = {
        "examples": 10, "by_cluster": [6, 3, 1],
        "toward": {"share": 0.5, "examples": 4, "by_cluster": [4, 0, 0]},
    }  # fmt: skip
    view = SelectionView(Manifest("selections/t", "t", [], info))
    assert purpose_told(view, [20, 20, 40]) == [
        "At least 90% of the 4 examples of the purpose lie in 1 of 3 clusters, which hold 25.0% of "
        "the corpus.",
        "With selection.toward_share 0.5 they give 6 of the 10 chosen examples; even quotas would "
        "give 4.",
    ]
    del info["toward"]
    assert purpose_told(SelectionView(Manifest("selections/t", "t", [], info)), [1, 1, 1]) == []


def purpose_file(folder, text="what is new"):
    file = folder / "purpose.jsonl"
    file.write_text(json.dumps({"instruction": text, "output": "this"}) + "\n")
    return str(file)


def names(config):
    return [stage.name for stage in walk([plan_of(config).selection(config.selection)])]


def fingerprint(config):
    return plan_of(config).selection(config.selection).fingerprint


def test_the_stages_of_each(tmp_path):
    file = purpose_file(tmp_path)
    shares = settings("unused", selection__selector="toward", selection__toward=file)
    assert names(shares) == [
        "corpus", "tokens", "proxy", "losses", "trajectories", "clusters", "purpose/corpus",
        "purpose/examples", "purpose/tokens", "purpose/losses", "purpose/trajectories",
        "purpose/shares", "selections/toward-seed0",
    ]  # fmt: skip
    path = settings("unused", selection__selector="toward_path", selection__toward=file)
    found = names(path)  # neither the proxy of the corpus nor its losses
    assert sorted(found) == sorted([
        "corpus", "tokens", "purpose/corpus", "purpose/examples", "purpose/tokens", "toward/proxy",
        "toward/losses", "toward/trajectories", "before", "rankings/toward_path",
        "selections/toward_path-seed0",
    ])  # fmt: skip
    training = path_config(path).proxy
    assert training.max_steps == 200 and training.learning_rate == path.proxy.learning_rate


def test_what_changes_a_selection_toward_a_purpose(tmp_path):
    def of(selector, text="what is new", **changes):
        more = {f"selection__{name}": value for name, value in changes.items()}
        file = purpose_file(tmp_path, text)
        return fingerprint(
            settings("unused", selection__selector=selector, selection__toward=file, **more)
        )

    for selector in ("toward", "toward_path"):
        assert of(selector) == of(selector)
        assert of(selector) != of(selector, "what is old")  # of the same length
    assert of("toward") != of("toward", toward_share=0.25)
    assert of("toward") == of("toward", toward_steps=7)
    assert of("toward_path") != of("toward_path", toward_steps=7)
    assert of("toward_path") == of("toward_path", toward_share=0.25)
    # Other selections do not depend on the purpose.
    assert of("s2l") == of("s2l", "what is old") == fingerprint(settings("unused"))


def test_the_purpose_is_read_as_the_corpus_is():
    config = settings(
        "unused", selection__toward="demo", corpus__columns={"output": "answer", "source": "task"},
        corpus__max_row_bytes=99, corpus__share=0.5,
    )  # fmt: skip
    found = purpose_config(config)
    assert found.columns == {"output": "answer", "source": None} and found.max_row_bytes == 99
    assert found.share == 1 and found.heldout_share == 0 and found.source == "toward"
    with pytest.raises(ValueError, match=r"selection\.toward: found null, but the selectors"):
        purpose_config(settings("unused"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"selector": "toward"}, "selection.toward: found null"),
        ({"toward": "demo"}, "no selector of the run uses it"),
        ({"selector": "toward", "toward": "absent.jsonl"}, "selection.toward: corpus.path: "),
    ],
)
def test_what_is_refused_before_ray_starts(tmp_path, monkeypatch, changes, told):
    monkeypatch.chdir(tmp_path)
    config = settings(tmp_path / "run", **{f"selection__{k}": v for k, v in changes.items()})
    with pytest.raises(ValueError, match=told):
        preflight.check(config, corpus=False)


def test_losses_of_another_training_are_refused(tmp_path):
    np.save(tmp_path / "losses.npy", np.ones((3, 2)))
    for selector, told in (("toward", "losses of the purpose's"), ("toward_path", "of its own")):
        config = settings(
            tmp_path / "run", selection__selector=selector, selection__toward="demo",
            losses={"path": str(tmp_path / "losses.npy")},
        )  # fmt: skip
        with pytest.raises(ValueError, match=told):
            preflight.check(config, corpus=False)


def test_checkpoints_are_kept_until_the_purpose_is_scored(store, tmp_path):
    """proxy.keep_checkpoints removes none while losses that need them are missing."""
    config = settings(
        "unused", selection__selector="toward", selection__toward=purpose_file(tmp_path),
        proxy__keep_checkpoints=1,
    )  # fmt: skip
    plan = plan_of(config)
    stages = {each.name: each for each in walk([plan.selection(config.selection)])}
    proxy, run = stages["proxy"], SimpleNamespace(store=store)
    first = f"{proxy.folder}/checkpoint-000001/model.safetensors"
    parts = [
        store.write_beside(b"weights", proxy.folder, f"checkpoint-{step:06d}/model.safetensors")
        for step in (1, 2)
    ]
    info = {"step": 2, "checkpoints": [1, 2], "workers": 1}
    store.commit(proxy.folder, proxy.fingerprint, parts, info)
    for name, kept in (("losses", True), ("purpose/losses", False)):
        store.commit(stages[name].folder, stages[name].fingerprint, [], {"steps": [1, 2]})
        plan.drop_checkpoints(run, None)
        assert (first in store.objects.sizes("")) == kept, name


def test_the_selector_has_its_settings():
    assert SelectionConfig().toward_share == 0.5
    with pytest.raises(ValueError, match="toward_share"):
        SelectionConfig(toward_share=1.5)


def test_a_diagnosis_with_fewer_checkpoints_has_as_few_of_the_purpose(tmp_path):
    file = purpose_file(tmp_path)
    config = settings("unused", selection__selector="toward", selection__toward=file)
    found = [
        {stage.name: stage.fingerprint for stage in walk([plan.selection(config.selection)])}
        for plan in (plan_of(config), plan_of(config).thinned([1, 3]))
    ]
    for name in found[0]:
        same = found[0][name] == found[1][name]
        after = ("trajectories", "clusters", "purpose/trajectories", "purpose/shares")
        assert same == (name not in after and "selections" not in name), name


def test_what_each_costs(tmp_path):
    """1,000 examples of 10 tokens, a purpose of 20 rows, trainings at 100 tokens/s, scoring at
    1,000: what depends on them, by hand."""
    config = settings(
        "unused",
        selection__toward="demo",
        proxy__global_batch_size=5,
        proxy__micro_batch_size=5,
        selection__toward_steps=40,
    )
    counts = Counts(
        examples=1000, tokens=10_000, labels=5000, truncated=0.0, bytes=40_000, seconds=2.0,
        tokenizer_seconds=0.0, some=[],
    )  # fmt: skip
    work = Workload(
        config=config, rows=1000, counted=True, sampled=0, source_bytes=0, heldout=0, num_parts=4,
        corpus_bytes=50_000, read_seconds=1.0, proxy=counts, target=None, purpose=20,
    )  # fmt: skip
    pricing = Pricing(work, {}, {"proxy": Rate(100.0, 1000.0, "")})

    def of(name):
        return pricing.price(Forecast(name, TO_DO, WorkersConfig()))

    assert of("purpose/corpus").examples == of("purpose/examples").examples == 20
    assert of("purpose/tokens").examples == 20
    losses = of("purpose/losses")  # 20 examples at 3 checkpoints
    assert (losses.examples, losses.tokens) == (20, 600)
    assert of("purpose/trajectories").examples == of("purpose/shares").examples == 20
    training = of("toward/proxy")  # 40 steps of 5
    assert (training.examples, training.tokens) == (20, 2000)
    along = of("toward/losses")  # the corpus at 2 checkpoints
    assert (along.examples, along.tokens) == (1000, 20_000)
    assert of("toward/trajectories").stored.bytes == timing.TRAJECTORY * 2000
