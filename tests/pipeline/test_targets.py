"""Training targets on subsets and evaluating them."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.runs import MARK, contents_of, corpus, files_of, ids_of, rows_of, settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray.analysis.examples import variance
from s2l_ray.evaluation.answers import extract
from s2l_ray.execution import stopping
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline import targets
from s2l_ray.pipeline.evaluate import evaluate
from s2l_ray.pipeline.side_by_side import side_by_side
from s2l_ray.selection import histogram
from s2l_ray.training.checkpoints import checkpoints_of


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
    result = evaluate(run, {"one": target})["one"]
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
    for row in rows_of(run.store, heldout):
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
    for row in rows_of(run.store, questions):
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
    workers = {"num_workers": 2}  # do not count in what is reused
    changed = settings_of | {"evaluation__answers_at_most": 9, "evaluation__workers": workers}
    run = start(settings(copy, **changed))
    pipeline.select(corpus(), run.config, run=run)
    target = targets.finetune(run, selection.manifest, "one", seed=0)
    second = evaluate(run, {"one": target})["one"]
    found = second["exact_match"]["exam"]
    assert found["correct"] + found["no_answer"] == found["questions"] == 9 and found["of"] == 13
    assert found["correct"] > 0
    assert [entry["stage"] for entry in run.times if not entry["reused"]] == [
        "evaluations/one/exam"
    ]
    share = found["correct"] / 9
    of_questions = second["influences"].pop("exact_match/exam")
    assert variance(of_questions) == pytest.approx(share * (1 - share) / 8, rel=1e-3)  # a share's
    assert len(result["influences"].pop("exact_match/exam")) == 13
    assert second | {"exact_match": 0} == result | {"exact_match": 0}

    # A pretrained target that is not trained: what the training of these weights gave.
    tokens = run.done["evaluations/tokens/heldout"]
    whole = shutil.copytree(targets.model_path(run, target), tmp_path / "whole")
    shutil.copytree(
        run.store.address(tokens.info["tokenizer"]), whole, dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("manifest.json"),
    )  # fmt: skip
    given = {"name": str(whole)}
    view = run.view(settings(copy, **changed, target__model=given))
    untuned = view.get(targets.untuned_stage(view.plan, "untuned", seed=3))
    assert untuned.info["folders"] == [given["name"]] and untuned.info["step"] == 0
    third = evaluate(view, {"untuned": untuned})["untuned"]
    assert third["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert third["exact_match"] == second["exact_match"]


@pytest.mark.slow
def test_a_target_is_trained_on_a_subset_of_several_parts(finished, copy, start, monkeypatch):
    monkeypatch.setattr(histogram, "SUBSET_ROWS", 15)
    config = settings(
        copy,
        selection__budget=45,
        selection__export=[],
        target__global_batch_size=15,
        target__micro_batch_size=15,
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


def test_ctrl_c_does_not_wait_for_targets_under_way(said):
    begun, over = [], threading.Event()

    def tune(name):
        begun.append(name)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        assert over.wait(60)
        raise ValueError("Ray has stopped")

    # A process that a shell has started in the background ignores the signal by default.
    with pytest.raises(KeyboardInterrupt), stopping.stoppable():
        side_by_side(tune, "abcdef", 2)
    over.set()
    time.sleep(0.2)
    assert begun == ["a", "b"] and not said()


def test_after_a_target_that_fails_no_other_begins(said):
    for error in (ValueError("a loss is nan"), KeyboardInterrupt()):
        begun = []

        def tune(name, error=error, begun=begun):
            begun.append(name)
            if name == "b":
                raise error
            return name.upper()

        with pytest.raises(type(error)):
            side_by_side(tune, "abcdefgh", 1)
        assert begun == ["a", "b"]
    told = said()
    assert "target b: a loss is nan; no other one begins" in told
    assert "target b: KeyboardInterrupt; no other one begins" in told
    assert side_by_side(str.upper, "abc", 2) == {"a": "A", "b": "B", "c": "C"}
