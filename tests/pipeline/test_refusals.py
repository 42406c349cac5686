"""What cannot work is refused before anything is trained."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.runs import architecture, corpus, settings

import s2l_ray
from s2l_ray.pipeline import comparison, targets
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.store import Manifest, Part, Store


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"selection__budget": 1000}, "selection.budget: 1,000 examples, but only 2.. can be"),
        ({"selection__budget": "1M tokens"}, "selection.budget: '1M tokens', but only"),
        ({"clusters__n_clusters": 500}, "clusters.n_clusters: 500, but there are only 2.. exam"),
        (
            {"proxy__num_checkpoints": None, "proxy__checkpoint_every": 500},
            "needs at least 2 checkpoints, but a training of 7 steps keeps one: lower proxy.check",
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
        comparison.baselines(run)

    # So is what has nothing left to be scored once it is cut.
    exam = tmp_path / "exam.jsonl"
    for row, marker, why in (
        ({"instruction": "x " * 99, "output": "4"}, None, "no held-out example has a response"),
        (
            {"instruction": "x", "output": "y " * 99 + "so: 4"},
            "so:",
            "none of 1 .* has tokens after 'so:'",
        ),
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


def test_prompts_that_fill_the_length_leave_nothing_to_learn(tmp_path):
    config, stats = settings(tmp_path / "run"), {"trainable": 0, "trainable_tokens": 0}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", 3, 1, "c", stats)])
    with pytest.raises(ValueError, match=r"prompt\.max_length: none of 3 examples"):
        pipeline.check_reachable(config, Store(tmp_path / "run"), tokens)


@pytest.mark.parametrize(
    ("selector", "have", "changes", "message"),
    [
        # 64 examples are 2 steps, but half of them are one.
        ("cross_fitted", 64, {}, "a training of 1 step keeps one"),
        ("loss_kmeans", 99, {"clusters__n_clusters": 100}, "100, but there are only 99 examples"),
        ("cross_fitted_by_cluster", 99, {"clusters__n_clusters": 100}, "only 99 examples"),
    ],
)
def test_what_a_selector_cannot_do_with_so_few_is_refused_before_training(
    tmp_path, selector, have, changes, message
):
    config = settings(tmp_path / "run", selection__selector=selector, proxy__num_checkpoints=2,
                      selection__budget=5, **changes)  # fmt: skip
    stats = {"trainable": have, "trainable_tokens": 9 * have}
    tokens = Manifest("tokens/t", "t", [Part("part-00000", "f", have, 1, "c", stats)])
    with pytest.raises(ValueError, match=message):
        pipeline.check_reachable(config, Store(tmp_path / "run"), tokens)
    fine = settings(tmp_path / "run", selection__selector="s2l", proxy__num_checkpoints=2,
                    selection__budget=5)  # fmt: skip
    pipeline.check_reachable(fine, Store(tmp_path / "run"), tokens)


def test_corpus_of_rejected_rows(local_ray, tmp_path):
    bad = [{"instruction": "", "output": "", "source": "a"}] * 5
    with pytest.raises(ValueError, match=r"5 of 5 rows .* rejected, more than corpus"):
        s2l_ray.select(corpus(bad), settings(tmp_path / "run"))
    with pytest.raises(ValueError, match="no examples in 5 rows"):
        s2l_ray.select(corpus(bad), settings(tmp_path / "run", corpus__max_rejected_share=1))


def test_an_export_that_a_chat_has_no_shape_for_is_refused_before_the_proxy(
    local_ray, tmp_path, start
):
    """Whatever its place: of 1,501 rows only one has a system turn, in the last part."""
    pairs = [{"prompt": f"a{n}", "response": "b"} for n in range(1500)]
    chat = {"system": "Be kind 3.", "prompt": "Repeat: red", "response": "red"}
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*pairs[:50], chat, *pairs[50:]]))
    config = settings(
        tmp_path / "run",
        corpus={"path": str(file), "num_parts": 2},
        selection__export=["messages", "alpaca"],
    )
    told = (
        rf"^selection\.export: {file}:51: a chat with turns system, .* does not fit alpaca; use "
        rf"messages \(1 of 1,501 examples cannot be written as alpaca\)$"
    )
    with pytest.raises(ValueError, match=told):
        s2l_ray.select(None, config)
    [manifest] = (tmp_path / "run/corpus").glob("*/manifest.json")
    last = json.loads(manifest.read_text())["parts"][-1]
    assert 51 in pq.read_table(manifest.parent / last["file"])["row"].to_pylist()
    assert not (tmp_path / "run/proxy").exists()


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
        ({"target__model": plain, "target_prompt": {"template": "chat"}}, "no chat template"),
    ):
        run = start(settings(copy, **changes))
        with pytest.raises(ValueError, match=why):
            targets.finetune_selected(run)
        run.lease.release()


def test_a_comparison_that_cannot_be_is_refused_before_it_trains(finished, copy, start):
    config = settings(copy, compare={"selectors": ["random"], "budgets": [9999]})
    with pytest.raises(ValueError, match="9,999 examples, but only"):
        comparison.compare(start(config), print, corpus())
