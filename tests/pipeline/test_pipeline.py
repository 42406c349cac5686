"""Whole runs with tiny models, through the library: reuse, determinism, comparison, refusals.

One finished run is shared; tests that need another go on in a copy of its directory (a run can be
moved: nothing in it knows where it lies).
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from markupsafe import escape
from support.corpora import write_corpus
from support.runs import (
    MARK,
    architecture,
    contents_of,
    corpus,
    files_of,
    rows,
    settings,
    stages_run,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

import s2l_ray
from s2l_ray import evaluation
from s2l_ray.corpus.ingest import digest_of, read_examples
from s2l_ray.corpus.sources import fingerprint_of
from s2l_ray.errors import LeaseLost, TooFew
from s2l_ray.evaluation.answers import extract
from s2l_ray.pipeline import comparison, targets
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.marks import chosen_mark, marks_of, selection_marks
from s2l_ray.pipeline.proxy import make_trajectories
from s2l_ray.report import comparison_page, gather
from s2l_ray.selection import subset
from s2l_ray.selection.choose import examples_for
from s2l_ray.selection.selectors import SELECTORS
from s2l_ray.store import Manifest, Part, Store
from s2l_ray.store.store import lease_name
from s2l_ray.training.checkpoints import checkpoints_of


@pytest.fixture(scope="module")
def finished(local_ray, tmp_path_factory):
    """A run as `select` leaves it: its directory and the selection."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, s2l_ray.select(corpus(), settings(folder))


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


@pytest.fixture
def start():
    """Runs that let go of their directories at the end."""
    runs = []

    def begin(config):
        runs.append(pipeline.Run.start(config))
        return runs[-1]

    yield begin
    for run in runs:
        run.lease.release()


def ids_of(store, manifest):
    tables = [store.read_part(manifest.folder, part, ["example_id"]) for part in manifest.parts]
    return pa.concat_tables(tables)["example_id"].to_pylist()


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
    texts = [(*(turn["text"] for turn in row["turns"]), row["source"]) for row in chosen]
    assert len(set(texts)) == 40 and set(texts) <= given


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
                     "selections/s2l-seed0"]  # fmt: skip
    assert files_of(copy) == before
    assert again.manifest == finished[1].manifest


def test_changed_settings_rerun_what_depends_on_them_and_keep_the_rest(finished, copy):
    before = files_of(copy)
    config = settings(copy, selection__budget=30, proxy__workers={"num_workers": 2},
                      proxy__micro_batch_size=16, proxy__max_failures=0,
                      trajectories__workers={"num_workers": 2})  # fmt: skip
    smaller = s2l_ray.select(corpus(), config)
    assert stages_run(copy)[0] == ["selections/s2l-seed0"]
    chosen = ids_of(finished[1].store, finished[1].manifest)
    assert ids_of(smaller.store, smaller.manifest) == chosen[:30]  # nested

    s2l_ray.select(corpus(), settings(copy, clusters__n_clusters=4))
    assert stages_run(copy)[0] == ["clusters", "selections/s2l-seed0"]
    after = files_of(copy)
    assert {path: after[path] for path in before} == before
    assert len(list((copy / "clusters").iterdir())) == 2
    assert len(list((copy / "selections" / "s2l-seed0").iterdir())) == 3


def test_a_model_in_a_folder_goes_by_its_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    config = settings(tmp_path / "run", proxy__model={"name": str(folder)})
    before = marks_of(config, "origin")
    os.utime(folder / "model.safetensors", (1, 1))  # a copy
    assert marks_of(config, "origin") == before
    (folder / "model.safetensors").write_text("other weights")
    after = marks_of(config, "origin")
    assert [name for name in before if before[name] == after[name]] == ["corpus"]


@pytest.mark.slow
def test_the_other_selectors_and_budgets(finished, copy):
    store = Store(copy)
    official = s2l_ray.select(corpus(), settings(copy, selection__selector="s2l_official"))
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
    drawn = s2l_ray.select(corpus(), settings(copy, selection__selector="random"))
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
def test_compare_pairs_the_arms_and_keeps_heldout_apart(finished, copy, start):
    # A baseline that is the selector itself is one arm, not two.
    config = settings(copy, evaluation__baselines=["random", "s2l"], evaluation__targets_at_once=2)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    arms = targets.compare_baselines(run)
    assert [(arm["selector"], arm["seed"]) for arm in arms] == [
        ("s2l", 0), ("s2l", 1), ("random", 0), ("random", 1),
    ]  # fmt: skip
    assert {arm["examples"] for arm in arms} == {40}
    assert {arm["steps"] for arm in arms} == {4}
    assert {arm["history"][-1][0] for arm in arms} == {4}
    assert len({arm["loss"] for arm in arms}) == 4
    for arm in arms:
        assert set(arm["by_source"]) == {"sums", "words", "chat"}
        assert 0 < arm["loss"] < 2 * np.log(320)
    assert len({arm["label_tokens"] for arm in arms}) == 1

    # The s2l arm of the run's own seed is the run's own subset.
    assert run.done["selections/s2l-seed0"] == selection.manifest == finished[1].manifest
    # The loss by hand, from the losses of the last arm.
    losses = run.done["evaluations/random-seed1/heldout"]
    table = pa.concat_tables([run.store.read_part(losses.folder, part) for part in losses.parts])
    weights = table["num_label_tokens"].to_numpy().astype(float)
    assert arms[-1]["loss"] == pytest.approx(np.average(table["loss"].to_numpy(), weights=weights))

    # Each is held against the baseline's target of its own seed.
    heldout = run.store.manifest(f"{run.done['corpus'].folder}/heldout")
    of_seed = (run.done[f"evaluations/{name}-seed1/heldout"] for name in ("s2l", "random"))
    read = (evaluation.read_losses(run.store, [(heldout, scored)]) for scored in of_seed)
    wanted = evaluation.errors_over_examples(*read)
    assert arms[1]["errors_over_examples"] == wanted and wanted["loss"] > 0
    assert not any("errors_over_examples" in arm for arm in arms[2:])

    # Held-out examples are scored, and in nothing that anything was trained on.
    hidden = set(ids_of(run.store, heldout))
    assert len(hidden) == heldout.rows == 240 - run.done["corpus"].rows > 10
    assert set(table["example_id"].to_pylist()) == hidden
    trained = ["tokens", "trajectories"] + [
        f"{kind}/{name}-seed{seed}{end}"
        for name in ("s2l", "random")
        for seed in (0, 1)
        for kind, end in (("selections", ""), ("targets", "/tokens"))
    ]
    for stage in trained:
        assert hidden.isdisjoint(ids_of(run.store, run.done[stage])), stage

    # Each stage is told of once; a subset of one part is not dealt anew.
    names = [entry["stage"] for entry in run.times]
    assert len(names) == len(set(names)) and not any(name.endswith("/dealt") for name in names)

    page = Path(gather.write(run, selection, arms)).read_text()
    assert "s2l" in page and "random" in page
    for selector in ("s2l", "random"):
        losses = [arm["loss"] for arm in arms if arm["selector"] == selector]
        assert f"{np.mean(losses):.4f}" in page
    assert MARK not in page
    shown = gather.gather(run, selection, arms)
    assert sum(shown.corpus_by_source.values()) + shown.n_held_out == 240
    assert sum(shown.subset_by_source.values()) == sum(shown.cluster_chosen) == 40
    assert sum(shown.cluster_sizes) == sum(shown.length_corpus) == run.done["corpus"].rows
    assert sum(shown.length_subset) == 40
    assert [curve.name for curve in shown.curves] == ["proxy", "s2l", "s2l", "random", "random"]

    # Costs, with the weights of one layer of each model counted by hand.
    cost, proxy, tokens = shown.cost, run.done["proxy"], run.done["tokens"]
    assert [step.stage for step in cost.steps] == [
        "proxy", "losses", "trajectories", "clusters", "selections/s2l-seed0",
    ]  # fmt: skip
    vocab = run.store.read_json(max(checkpoints_of(proxy).items())[1], "config.json")["vocab_size"]
    scored, labels = (
        sum(part.stats[name] for part in tokens.parts)
        for name in ("trainable_tokens", "label_tokens")
    )
    head = 32 * vocab * labels / scored  # used at label tokens alone
    weights = round(32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 64 + 64 + 32 + 3 * 2 * 32 + head)
    assert cost.steps[0].flops == 6 * weights * proxy.info["tokens"]
    assert cost.steps[1].flops == 2 * weights * 3 * scored
    assert cost.parameters == round(4 * 32 * 32 + 3 * 32 * 64 + 3 * 32 + head)
    assert (cost.epochs, cost.corpus_tokens) == (2, scored)
    assert cost.subset_tokens == selection.info["tokens"]
    assert escape(cost.summary) in page

    # And again: nothing is trained twice.
    run.lease.release()
    again = start(config)
    pipeline.select(corpus(), config, run=again)
    assert targets.compare_baselines(again) == arms
    assert all(entry["reused"] for entry in again.times)


@pytest.mark.slow
def test_targets_answer_questions_and_are_scored_on_answers_alone(copy, start, tmp_path):
    exam = tmp_path / "exam.jsonl"
    asked = [  # not those of the corpus, which would be left out
        {"question": f"{MARK}{900 + n} say it again, now", "answer": str(n % 9)} for n in range(12)
    ]
    long = {"question": "x" * 60, "answer": "7"}  # fills the model's positions
    exam.write_text("".join(json.dumps(row) + "\n" for row in [*asked, long]))
    changes = {"answers": {"exam": str(exam)}, "max_new_tokens": 8, "answer_marker": f"{MARK}1"}
    settings_of = {f"evaluation__{name}": value for name, value in changes.items()}
    run = start(settings(copy, **settings_of))
    selection = pipeline.select(corpus(), run.config, run=run)
    target = targets.finetune(run, selection.manifest, "one", seed=0)
    result = targets.evaluate(run, {"one": target})["one"]
    assert result["macro"] == pytest.approx(np.mean(list(result["by_source"].values())))

    # The losses after the marker, one by one, against the whole sequence's logits.
    folder = run.store.address(max(checkpoints_of(target).items())[1])
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(
            run.store.address(run.done["evaluations/tokens/heldout"].info["tokenizer"])
        ),
    )
    total = count = without = 0
    heldout = run.store.manifest(f"{run.done['corpus'].folder}/heldout")
    for row in read_examples(run.store, heldout).take_all():
        prompt, response = (turn["text"] for turn in row["turns"])
        if f"{MARK}1" not in response:
            without += 1
            continue
        head, tail = response.rsplit(f"{MARK}1", 1)
        before = tokenizer(prompt + "\n")["input_ids"] + tokenizer(f"{head}{MARK}1")["input_ids"]
        after = tokenizer(tail)["input_ids"] + [tokenizer.eos_token_id]
        ids = torch.tensor([(before + after)[:48]])
        places = range(len(before), ids.shape[1])
        logits = model(ids).logits[0].log_softmax(-1)
        total -= sum(logits[place - 1, ids[0, place]].item() for place in places)
        count += len(places)
    assert result["answer_left_out"] == without > 0
    assert result["answer_label_tokens"] == count > 0
    assert result["answer_loss"] == pytest.approx(total / count, rel=1e-5)

    # The answers: transformers' own, of each question alone.
    stage = run.done["evaluations/one/exam"]
    answers = pa.concat_tables([run.store.read_part(stage.folder, part) for part in stage.parts])
    generated = dict(
        zip(*(answers[n].to_pylist() for n in ("example_id", "generated")), strict=True)
    )
    folder = next((copy / "evaluations" / "corpora" / "exam").iterdir())
    questions = run.store.manifest(str(folder.relative_to(copy)))
    again = []
    for row in read_examples(run.store, questions).take_all():
        question = row["turns"][0]["text"]
        ids = torch.tensor([tokenizer(f"{question}\n")["input_ids"]])
        text = ""
        if (room := min(8, 48 - ids.shape[1])) > 0:
            new = model.generate(ids, do_sample=False, max_new_tokens=room)
            text = tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True)
        assert generated[row["example_id"]] == text
        again.append({"question": question, "answer": extract(text) or "none"})
    none = sum(row["answer"] == "none" for row in again)
    found = result["exact_match"]["exam"]
    assert found["questions"] == found["of"] == 13 and found["no_answer"] == none >= 1
    assert found["correct"] == sum(answers["correct"].to_pylist())

    # Where what it says is what is wanted, it is right; the rest is reused; and a cap is kept.
    exam.write_text("".join(json.dumps(row) + "\n" for row in again))
    run.lease.release()
    run = start(settings(copy, **settings_of, evaluation__answers_at_most=9))
    pipeline.select(corpus(), run.config, run=run)
    target = targets.finetune(run, selection.manifest, "one", seed=0)
    second = targets.evaluate(run, {"one": target})["one"]
    found = second["exact_match"]["exam"]
    assert found["correct"] + found["no_answer"] == found["questions"] == 9 and found["of"] == 13
    assert found["correct"] > 0
    assert [entry["stage"] for entry in run.times if not entry["reused"]] == [
        "evaluations/one/exam"
    ]
    assert second | {"exact_match": 0} == result | {"exact_match": 0}


@pytest.mark.slow
def test_a_target_is_trained_on_a_subset_of_several_parts(finished, copy, start, monkeypatch):
    monkeypatch.setattr(subset, "SUBSET_ROWS", 15)
    config = settings(
        copy, selection__budget=45, target__global_batch_size=15, target__micro_batch_size=15
    )

    def tune():
        run = start(config)
        chosen = pipeline.select(corpus(), config, run=run).manifest
        target = targets.finetune(run, chosen, "one", seed=0)
        run.lease.release()
        return run, target, [entry["stage"] for entry in run.times if not entry["reused"]]

    run, target, made = tune()
    stages = ["selections/s2l-seed0", "targets/one/dealt", "targets/one/tokens", "targets/one"]
    assert made == stages
    chosen, dealt, tokens = (run.done[stage] for stage in stages[:3])
    assert len(chosen.parts) == len(dealt.parts) == len(tokens.parts) == 3
    assert sorted(ids_of(run.store, tokens)) == sorted(ids_of(run.store, chosen))
    assert ids_of(run.store, tokens) == ids_of(run.store, dealt)
    assert target.info["step"] == 6  # 2 epochs of 45 in batches of 15
    losses = [loss for _, loss in target.info["history"]]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()

    # Stopped while it was dealt: the same again, and what is made of it is found.
    before = files_of(copy)
    (copy / dealt.folder / "manifest.json").unlink()
    (copy / dealt.folder / dealt.parts[1].file).unlink()
    assert tune()[2] == ["targets/one/dealt"]
    assert contents_of(copy, "") == {path: content for path, (content, _) in before.items()}


def test_report_shows_examples_if_it_may(finished, copy, start):
    config = settings(copy, report__examples=True)
    run = start(config)
    selection = pipeline.select(corpus(), config, run=run)
    page = Path(gather.write(run, selection)).read_text()
    texts = [row for row in rows() if row["output"] in page and row["instruction"].strip() in page]
    assert len(texts) >= 10
    shown = gather.gather(run, selection).examples
    assert [len(examples) for examples in shown] == [
        min(4, size) for size in run.done["clusters"].info["sizes"]
    ]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"selection__budget": 1000}, "selection.budget: 1,000 examples, but only 2.. can be"),
        ({"selection__budget": "1M tokens"}, "selection.budget: '1M tokens', but only"),
        ({"clusters__n_clusters": 500}, "clusters.n_clusters: 500, but there are only 2.. exam"),
        (
            {"proxy__num_checkpoints": None, "proxy__checkpoint_every": 500},
            "needs 2 checkpoints or more, and of a training of 7 steps one is kept: lower proxy.ch",
        ),
    ],
)
def test_what_the_corpus_is_too_small_for_is_refused_before_training(
    finished, copy, changes, message
):
    shutil.rmtree(copy / "proxy")
    with pytest.raises(ValueError, match=message):
        s2l_ray.select(corpus(), settings(copy, **changes))
    assert not (copy / "proxy").exists()


def test_nothing_held_out_is_refused_before_any_target(local_ray, tmp_path, start):
    config = settings(tmp_path / "run", corpus__heldout_share=0)
    run = start(config)
    pipeline.prepare(run, corpus())
    with pytest.raises(ValueError, match=r"corpus\.heldout_share .* or evaluation\.files"):
        targets.compare_baselines(run)

    # So is what has nothing left to be scored once it is cut.
    exam = tmp_path / "exam.jsonl"
    for row, marker, why in (
        ({"instruction": "x " * 99, "output": "4"}, None, "no held-out example has a response"),
        ({"instruction": "x", "output": "y " * 99 + "so: 4"}, "so:", "'so:' stands before a label"),
    ):
        exam.write_text(json.dumps(row) + "\n")
        run.lease.release()
        config = settings(
            tmp_path / "run",
            corpus__heldout_share=0,
            evaluation__files={"exam": str(exam)},
            evaluation__answer_marker=marker,
        )
        run = start(config)
        with pytest.raises(ValueError, match=why):
            comparison.compare(run, print, corpus())
    assert not (tmp_path / "run/proxy").exists() and not (tmp_path / "run/targets").exists()


@pytest.mark.slow
@pytest.mark.parametrize("gone", [False, True])
def test_held_out_examples_that_are_damaged_are_made_again(finished, copy, start, gone):
    run = start(settings(copy))
    pipeline.prepare(run, corpus())
    folder = copy / run.done["corpus"].folder / "heldout"
    before = contents_of(folder, "part-", "manifest.json")
    if gone:
        shutil.rmtree(folder)
    else:
        part = next(folder.glob("part-*"))
        part.write_bytes(part.read_bytes()[:-7])

    def held_out(run):
        pipeline.prepare(run, corpus())
        config = run.config
        found = evaluation.heldout_examples(
            run.store, run.done["corpus"], config.evaluation, config.corpus
        )
        return ids_of(run.store, found["heldout"])

    assert len(run.finish(held_out)) == run.done["corpus"].info["heldout"]
    assert contents_of(folder, "part-", "manifest.json") == before


def test_prompts_that_fill_the_length_leave_nothing_to_learn(tmp_path):
    config, stats = settings(tmp_path / "run"), {"trainable": 0, "trainable_tokens": 0}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", 3, 1, "c", stats)])
    with pytest.raises(ValueError, match=r"prompt\.max_length: none of 3 examples"):
        pipeline.check_reachable(config, Store(tmp_path / "run"), tokens)


def test_corpus_of_rejected_rows(local_ray, tmp_path):
    bad = [{"instruction": "", "output": "", "source": "a"}] * 5
    with pytest.raises(ValueError, match=r"5 of 5 rows .* rejected, more than corpus"):
        s2l_ray.select(corpus(bad), settings(tmp_path / "run"))
    with pytest.raises(ValueError, match="no examples in 5 rows"):
        s2l_ray.select(corpus(bad), settings(tmp_path / "run", corpus__max_rejected_share=1))


@pytest.mark.slow
def test_losses_come_from_the_details_where_the_run_asks_for_those(finished, copy, start):
    """The weights of a checkpoint that is known are not even there; the bytes are the same."""
    before = contents_of(copy, "losses/", "trajectories/")
    config = settings(
        copy,
        selection__selector="el2n",
        evaluation__baselines=["random", "random_tokens", "least_confidence", "grand"],
    )
    run = start(config)
    pipeline.select(corpus(), config, run=run)
    marks = marks_of(
        config, fingerprint_of(config.corpus, digest_of(corpus(), config.corpus), seed=config.seed)
    )
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


def test_another_baseline_s_details_leave_a_selection_as_it_is():
    config = settings("run", selection__selector="el2n")
    more = settings("run", selection__selector="el2n", evaluation__baselines=["random", "grand"])
    one, two = marks_of(config, "o"), marks_of(more, "o")
    assert one.pop("details/early") != two.pop("details/early")
    assert one == two


def test_an_export_that_a_chat_has_no_shape_for_is_refused_before_the_proxy(store):
    chat = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    turns = [{"role": role, "text": text} for role, text in chat]
    made = {"corpus": write_corpus(store, [{"source": "s", "turns": turns}], num_parts=1)}
    for export in ([], ["messages"]):
        config = settings("run", selection__export=export)
        pipeline._check_export(pipeline.Run(config, store, None, made))
    config = settings("run", selection__export=["messages", "alpaca"])
    wanted = r"selection\.export: test\.jsonl:1: a chat of turns user, .* is no alpaca row"
    with pytest.raises(ValueError, match=wanted):
        pipeline._check_export(pipeline.Run(config, store, None, made))


def test_what_changes_no_example_makes_no_target_anew():
    """Exports, the agreement of another k-means seed, how many rows may be set aside."""
    made = {"tokens": "t", "proxy": "p", "trajectories": "j"}

    def marks(selector, **changes):
        changes = {"selection__export": []} | changes
        config = settings("run", selection__selector=selector, **changes)
        stages = selection_marks(config, config.selection, made)
        return list(stages.values()), chosen_mark(config, config.selection, made)

    for selector in ("s2l", "s2l_official", "loss_strata", "random_shares"):
        stages, chosen = marks(selector)
        exported, same = marks(selector, selection__export=["alpaca"])
        assert same == chosen == stages[-1] != exported[-1]
    (clusters, selection), chosen = marks("s2l")
    (others, again), same = marks("s2l", clusters__stability=False)
    assert clusters != others and (selection, chosen) == (again, same)
    assert marks("s2l", clusters__n_clusters=4)[1] != chosen
    for selector, same in (("facility_location", True), ("k_center", False)):
        rankings = [marks(selector, selection__seed=seed)[0][-2] for seed in (0, 1)]
        assert (rankings[0] == rankings[1]) is same
    one, other = (
        settings("run", corpus__max_rejected_share=share).corpus for share in (0.01, 0.02)
    )
    assert fingerprint_of(one, {"rows": 1}) == fingerprint_of(other, {"rows": 1})


@pytest.mark.slow
def test_every_selector_selects_and_its_stages_are_those_announced(copy, start):
    run = start(settings(copy))
    s2l_ray.select(corpus(), run.config, run=run)
    origin = fingerprint_of(
        run.config.corpus, digest_of(corpus(), run.config.corpus), seed=run.config.seed
    )
    subsets = {}
    for name in SELECTORS:
        config = settings(copy, selection__selector=name, selection__budget=20)
        chosen = pipeline.choose_subset(run, config.selection)
        subsets[name] = chosen.dataset().to_pandas()
        marks = marks_of(config, origin)
        assert {stage: run.done[stage].fingerprint for stage in marks} == marks, name
        if name != "random_tokens":
            assert len(set(subsets[name]["example_id"])) == chosen.info["examples"] == 20, name
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


@pytest.mark.slow
def test_arms_of_a_pair_of_seeds_are_matched_as_asked(copy, start):
    compare = {
        "selectors": ["longest", "random"],
        "also": ["facility_location"],
        "budgets": [30, "20%"],
        "match": ["examples", "tokens", "compute"],
        "seeds": [42],  # of the finished run: its proxy is found
        "full": ["compute", "epochs"],
    }
    config = settings(copy, compare=compare)
    run = start(config)
    s2l_ray.select(corpus(), config, run=run)
    selectors = config.compare.selectors_with(0)
    view = run.view(comparison.seeded(config, 42, selectors))
    make_trajectories(view)
    assert view.done["proxy"] == run.done["proxy"]
    assert view.done["corpus"] is run.done["corpus"]
    arms, short = comparison._arms(view, selectors, 7)
    assert not short
    assert len({arm.name for arm in arms}) <= comparison.num_targets(config) < len(arms)
    candidates = view.done["trajectories"].rows
    for budget, count in (("30", 30), ("20%", round(0.2 * candidates))):
        of = {(a.match, a.method): a for a in arms if a.budget == budget}
        assert len(of) == 3 * 5
        base = of["examples", "random"]
        assert base == replace(of["tokens", "random"], match="examples")
        assert base.count == count and base.steps == -(-2 * count // 20)
        assert {a.training_seed for a in of.values()} == {7}
        longest = of["examples", "longest"]
        assert longest.count == count and longest.tokens > base.tokens
        assert longest.examples.info["examples"] == count
        # Equal tokens: one more example would be too many.
        tokens = of["tokens", "longest"]
        assert tokens.count < count
        assert base.tokens - 48 < tokens.tokens <= base.tokens
        # Equal compute: as many tokens trained on, to half a step.
        seen = base.steps * base.tokens / base.count
        for arm in (of["compute", "longest"], of["examples", comparison.FULL_COMPUTE]):
            step = arm.tokens / arm.count
            assert abs(arm.steps * step - seen) <= step / 2
        assert of["compute", "longest"].examples == longest.examples
        full = of["examples", comparison.FULL_EPOCHS]
        assert full.count == candidates and full.steps == -(-2 * candidates // 20)


def test_the_full_arm_has_the_tokens_of_what_can_be_trained_on(monkeypatch):
    """By hand: 4 of 10 examples have no label token, and 900 of 1,200 tokens."""
    compare = {"selectors": ["random"], "budgets": [3], "full": ["compute"]}
    config = settings("run", compare=compare, target__epochs=40)
    stats = {"trainable": 6, "trainable_tokens": 300}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", 10, 1, "c", stats)])
    base = Manifest("selections/r", "r", [], {"examples": 3, "tokens": 90})
    monkeypatch.setattr(comparison, "choose_subset", lambda *_: pipeline.Selection(None, base))
    view = pipeline.Run(config, None, None, {"tokens": tokens, "corpus": base})
    (_, full), _ = comparison._arms(view, ["random"], 0)
    assert (full.method, full.count, full.tokens) == (comparison.FULL_COMPUTE, 6, 300)
    # 40 epochs of 3 in batches of 20: 6 steps of 20 x 30 tokens; an example of the corpus has 50.
    assert full.steps == round(6 * 30 / 50)


def test_a_selector_with_too_few_examples_is_left_out_and_told(monkeypatch, said):
    compare = {"selectors": ["prune_then_cluster", "random"], "budgets": ["50%"], "full": []}
    stats = {"trainable": 6, "trainable_tokens": 60}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", 6, 1, "c", stats)])
    base = Manifest("selections/r", "r", [], {"examples": 3, "tokens": 30})

    def choose(_, choice):
        if choice.selector == "random":
            return pipeline.Selection(None, base)
        examples_for(choice.budget, 2, None, tokens)  # two have a loss that falls
        raise AssertionError

    monkeypatch.setattr(comparison, "choose_subset", choose)
    config = settings("run", compare=compare)
    view = pipeline.Run(config, None, None, {"tokens": tokens, "corpus": base})
    [arm], short = comparison._arms(view, config.compare.selectors, 7)
    assert (arm.method, arm.count) == ("random", 3)
    told = "selection.budget: 3 examples, but only 2 can be chosen"
    assert short == [
        {"method": "prune_then_cluster", "budget": "50%", "match": "examples",
         "selection_seed": config.seed, "training_seed": 7, "too_few": told}
    ]  # fmt: skip
    assert f"prune_then_cluster is left out: {told}" in said()


def test_a_baseline_with_too_few_examples_is_left_out_and_told(monkeypatch, said):
    chosen = Manifest("selections/s", "s", [], {"examples": 3, "tokens": 30})
    trained = Manifest("targets/s", "t", [], {"step": 5, "history": []})
    asked = []

    def choose(_, choice):
        asked.append((choice.selector, choice.budget))
        if choice.selector == "prune_then_cluster":
            raise TooFew("3 examples, but only 2 can be chosen")
        return pipeline.Selection(None, chosen)

    monkeypatch.setattr(targets, "choose_subset", choose)
    monkeypatch.setattr(targets, "prepare_evaluation", lambda _: None)
    monkeypatch.setattr(targets, "finetune", lambda *_, **__: trained)
    monkeypatch.setattr(
        targets,
        "evaluate",
        lambda _, made, against: {n: {"loss": 1.0, "left_out": ["x"]} for n in made},
    )
    baselines = ["prune_then_cluster", "random"]
    config = settings("run", evaluation__baselines=baselines, evaluation__seeds=[0, 1])
    arms = targets.compare_baselines(pipeline.Run(config, None, None, {}))
    assert [(arm["selector"], arm["seed"]) for arm in arms] == [
        (selector, seed) for selector in ("s2l", "random") for seed in (0, 1)
    ]
    told = "prune_then_cluster is left out: 3 examples, but only 2 can be chosen"
    assert all(arm["left_out"] == ["x", told] for arm in arms)
    assert f"evaluation.baselines: {told}" in said()

    # As the run spells it, so that what other jobs made is found; as many examples, of tokens.
    for budget, wanted in ((0.5, 0.5), (40, 40), ("30 tokens", 3)):
        config = settings("run", selection__budget=budget, evaluation__seeds=[0, 1])
        asked.clear()
        targets.compare_baselines(pipeline.Run(config, None, None, {}))
        assert asked == [("s2l", budget)] * 2 + [
            ("s2l", wanted),
            ("random", wanted),
            ("random", wanted),
        ]

    config = settings("run", selection__selector="prune_then_cluster")
    with pytest.raises(TooFew, match="only 2 can be chosen"):
        targets.compare_baselines(pipeline.Run(config, None, None, {}))


def test_a_training_that_goes_on_is_told_as_resumed(store):
    store.write_json({}, "proxy/f/resume/step-000005-lease-000001", "state.json")
    run = pipeline.Run(settings("run"), store, None, recorded=False)
    for name, resumed in (("proxy", True), ("tokens", False)):
        run.stage(name, "f", lambda **stage: store.commit(*stage.values(), [], {}))
        assert (run.times[-1]["stage"], run.times[-1]["resumed"]) == (name, resumed)


def test_a_run_that_was_followed_tells_nothing_more(store):
    store.epoch = 1
    store.write_json({"host": "h", "job": "j", "pid": 1, "since": "now"}, "lease", lease_name(2))
    run = pipeline.Run(settings("run"), store, None)
    store.epoch = None
    store.commit("tokens/f", "f", [], {})
    store.epoch = 1
    with pytest.raises(LeaseLost, match="taken over by h"):
        run.stage("tokens", "f", lambda **_: pytest.fail("made"))
    assert not store.exists("run.json")


def test_after_a_target_that_fails_no_other_begins(said):
    """What Ray Train raises for Ctrl-C comes out of a thread, too."""
    for error in (ValueError("a loss is nan"), KeyboardInterrupt()):
        begun = []

        def tune(name, error=error, begun=begun):
            begun.append(name)
            if name == "b":
                raise error
            return name.upper()

        with pytest.raises(type(error)):
            targets.side_by_side(tune, "abcdefgh", 1)
        assert begun == ["a", "b"]
    told = said()
    assert "target b: a loss is nan; no other one begins" in told
    assert "target b: KeyboardInterrupt; no other one begins" in told
    assert targets.side_by_side(str.upper, "abc", 2) == {"a": "A", "b": "B", "c": "C"}


def test_a_target_that_cannot_be_tuned_is_refused_before_the_proxy_trains(
    finished, copy, start, monkeypatch
):
    monkeypatch.setattr(targets, "select", lambda *_, **__: pytest.fail("selected"))
    prepare = pipeline.prepare
    monkeypatch.setattr(targets, "prepare", lambda run: prepare(run, corpus()))
    tokenizer = str(next(Path(copy, "tokenizers").iterdir()))
    plain = {"architecture": architecture("llama"), "tokenizer": tokenizer}
    for changes, why in (
        ({"target__model": {"name": "/no/such/model"}}, "'/no/such/model' cannot be used"),
        ({"target__model": plain, "target_prompt": {"template": "chat"}}, "template is not set"),
    ):
        run = start(settings(copy, **changes))
        with pytest.raises(ValueError, match=why):
            targets.finetune_selected(run)
        run.lease.release()


def test_a_comparison_that_cannot_be_is_refused_before_it_trains(finished, copy, start):
    config = settings(copy, compare={"selectors": ["random"], "budgets": [9999]})
    with pytest.raises(ValueError, match="9,999 examples, but only"):
        comparison.compare(start(config), print, corpus())


@pytest.mark.slow
def test_compare_trains_each_arm_once_and_goes_on(finished, copy, start):
    compare = {
        "selectors": ["s2l", "random"], "budgets": [40], "match": ["examples", "tokens"],
        "seeds": [42, 1], "also": ["loss_strata"], "also_seeds": 1, "full": ["compute"],
    }  # fmt: skip
    config = settings(copy, compare=compare, evaluation__targets_at_once=2)
    run = start(config)
    lengths = []
    records = comparison.compare(run, lambda so_far: lengths.append(len(so_far)), corpus())
    assert lengths == [8, 14]
    assert comparison.known(run) == records
    other = settings(copy, compare=compare, clusters__n_clusters=4)
    assert comparison.known(replace(run, config=other)) == []  # of other settings it says nothing
    by = {(r["method"], r["match"], r["selection_seed"]): r for r in records}
    assert len(by) == 14
    assert {seed for method, _, seed in by if method == "loss_strata"} == {42}
    for seed in (42, 1):
        random = by["random", "examples", seed]
        assert random["loss"] == by["random", "tokens", seed]["loss"]
        assert random["examples"] == by["s2l", "examples", seed]["examples"] == 40
        assert by["s2l", "tokens", seed]["tokens"] <= random["tokens"]
        full = by[comparison.FULL_COMPUTE, "examples", seed]
        assert full["examples"] > 150
        assert full["trained_tokens"] == pytest.approx(random["trained_tokens"], rel=0.3)
    assert by["s2l", "examples", 42]["loss"] != by["s2l", "examples", 1]["loss"]
    losses = [r["loss"] for r in records if (r["method"], r["match"]) == ("s2l", "examples")]
    page = Path(comparison_page.write(run, records)).read_text()
    assert f"{np.mean(losses):.4f}" in page and MARK not in page
    # run.json tells of the run's own stages alone.
    assert json.loads((copy / "run.json").read_text())["config"]["seed"] == 42

    run.lease.release()
    again = start(config)
    assert comparison.compare(again, lambda so_far: None, corpus()) == records
    assert all(entry["reused"] for entry in again.times)
