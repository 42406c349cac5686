"""A whole run whose proxy and target train adapters, by the commands."""

import json

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.corpora import write_corpus
from support.lora import base_in
from support.models import EXAMPLES
from support.runs import MARK, rows, settings, stages_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray import cli
from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenizer import prepare_tokenizer
from s2l_ray.store import Store


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained model with its tokenizer, in a folder."""
    store = Store(tmp_path_factory.mktemp("base"))
    scratch = ModelConfig(architecture={"model_type": "llama"}, tokenizer_vocab=320)
    corpus = write_corpus(store, EXAMPLES)
    prepare_tokenizer(store, scratch, corpus, folder="model")
    base_in(store.address("model"), vocab_size=320)
    return store.address("model")


@pytest.fixture
def config(base, tmp_path):
    """Write a configuration with changes; return its file."""
    corpus, exam = tmp_path / "corpus.jsonl", tmp_path / "exam.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows(150)))
    asked = [{"question": f"{MARK}{900 + n} say it", "answer": str(n)} for n in range(3)]
    exam.write_text("".join(json.dumps(row) + "\n" for row in asked))

    def write(**changes):
        adapted = {"model": {"name": base}, "lora": {"target_modules": "all-linear"}}
        sizes = {"epochs": 1, "global_batch_size": 20, "micro_batch_size": 20}
        made = settings(
            tmp_path / "run",
            corpus__path=str(corpus),
            evaluation__answers={"exam": str(exam)},
            evaluation__max_new_tokens=4,
            proxy={**adapted, **sizes, "num_checkpoints": 3, "learning_rate": 0.01},
            target={**adapted, **sizes, "learning_rate": 0.01},
            **changes,
        )
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(made.model_dump(mode="json", exclude_unset=True)))
        return str(file)

    return write


@pytest.mark.slow
def test_adapters_are_scored_evaluated_and_merged(local_ray, base, config, tmp_path, capsys):
    cli.main(["evaluate", config()])
    assert "exam: " in capsys.readouterr().out
    made, _ = stages_run(tmp_path / "run")
    assert {"proxy", "losses", "trajectories", "targets/s2l-seed0"} <= set(made)
    [trajectories] = (tmp_path / "run/trajectories").iterdir()
    assert json.loads((trajectories / "manifest.json").read_bytes())["parts"]
    for stage, checkpoints in (("proxy", 3), ("targets/s2l-seed0", 1)):
        folders = sorted((tmp_path / "run" / stage).glob("*/checkpoint-*"))
        assert len(folders) == checkpoints
        for folder in folders:
            names = {file.name for file in folder.iterdir()}
            assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
            assert not {"model.safetensors", "config.json"} & names
            assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 60_000
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(folders[-1])
    AutoTokenizer.from_pretrained(folders[-1])

    # The same target, merged: whole weights, which are those that peft merges.
    cli.main(["finetune", config(), "target.lora.merge=true"])
    folder = capsys.readouterr().out.strip().splitlines()[-1].removeprefix("model: ")
    assert stages_run(tmp_path / "run")[0] == ["targets/s2l-seed0"]
    merged = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    expected = loaded.merge_and_unload().state_dict()
    for name, weights in load_file(f"{base}/model.safetensors").items():
        torch.testing.assert_close(merged[name], expected[name], rtol=0, atol=1e-6)
        assert torch.equal(weights, merged[name]) != name.endswith("_proj.weight")


@pytest.mark.slow
def test_a_target_s_layers_are_checked_before_the_proxy_is_trained(
    local_ray, config, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        cli.main(["finetune", config(), "target.lora.target_modules=[q_proj, w1]"])
    assert "this llama has no module named 'w1'" in capsys.readouterr().err
    assert not (tmp_path / "run/proxy").exists()
