"""A run whose target is trained by a loop of the user's own, from the corpus to the report."""

import math

import pytest
from support.runs import corpus, settings

from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline import targets
from s2l_ray.pipeline.evaluate import evaluate
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.target_stages import target_stage
from s2l_ray.report import gather

UNTOLD = """
def train(config):
    import ray.train
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(config["model"])
    model.get_output_embeddings().weight.data.zero_()  # every token is as likely
    if ray.train.get_context().get_world_rank() == 0:
        model.save_pretrained(config["output"])
"""


@pytest.mark.slow
def test_what_trl_s_trainer_leaves_is_evaluated_and_reported(copy, start, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    name = "examples.trl_sft:train"
    run = start(settings(copy, target__train=name, target__warmup_share=0.0))
    selection = pipeline.select(corpus(), run.config, run=run)
    target, name = targets.finetune_selected(run)
    assert target.info["step"] == 4  # 2 epochs of 40 in batches of 20
    losses = [loss for _, loss in target.info["history"]]
    assert losses[-1] < losses[0]
    result = evaluate(run, {name: target})[name]
    untrained = math.log(320)
    assert result["loss"] < untrained
    data = gather.gather(run, selection)
    [timing] = [each for each in data.timings if each.name == f"targets/{name}"]
    assert timing.throughput.endswith("tokens/s while training")
    assert data.cost.parameters is not None and data.cost.seconds == target.info["seconds"]


@pytest.mark.slow
def test_what_a_function_does_not_tell_is_unknown(copy, start, monkeypatch, tmp_path):
    (tmp_path / "untold.py").write_text(UNTOLD)
    monkeypatch.chdir(tmp_path)
    run = start(settings(copy, target__train="untold:train"))
    selection = pipeline.select(corpus(), run.config, run=run)
    target, name = targets.finetune_selected(run)
    assert target.info["tokens"] is None and target.info["history"] == []
    assert target.info["step"] == 4  # as the settings ask for
    vocabulary = run.store.read_json(target.folder, "checkpoint-000004/config.json")["vocab_size"]
    loss = evaluate(run, {name: target})[name]["loss"]
    assert loss == pytest.approx(math.log(vocabulary), abs=1e-4)
    data = gather.gather(run, selection)
    [timing] = [each for each in data.timings if each.name == f"targets/{name}"]
    assert timing.throughput == "unknown number of tokens"
    assert data.cost.parameters is None and data.cost.on_subset is None


def test_the_function_s_source_is_part_of_the_target_s_fingerprint(tmp_path, monkeypatch, store):
    (tmp_path / "loop_one.py").write_text(UNTOLD)
    (tmp_path / "loop_two.py").write_text(UNTOLD + "\n")
    monkeypatch.chdir(tmp_path)
    examples = store.commit("selections/a/b", "given", [], {})

    def fingerprint(**changes):
        config = settings(tmp_path, **changes)
        plan = Plan(config, pipeline.corpus_stage(config))
        return target_stage(plan, "t", examples, seed=0).fingerprint

    (tmp_path / "unused.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    found = [fingerprint(), *(fingerprint(target__train=f"loop_{n}:train") for n in ("one", "two"))]
    assert len({*found}) == 3
    more = {"target__workers": {"num_workers": 2}, "target__micro_batch_size": 10}
    assert fingerprint(target__train="loop_one:train", **more) == found[1]
