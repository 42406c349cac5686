"""The examples, as a user runs them."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support.chat_families import template, tokenizer_of
from support.exports import ROWS, exported
from support.head import REPOSITORY
from transformers import AutoConfig, AutoModelForCausalLM

from examples import select_and_train, trl_export


@pytest.fixture
def model(tmp_path):
    """The folder of a tiny model that has a chat template."""
    tokenizer = tokenizer_of("qwen2_5", template("qwen2_5_training"))
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def moved(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.slow
def test_ray_train_trains_on_a_selection(finished, model, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    _, selection = finished
    result = select_and_train.train_on(selection, model, str(tmp_path / "out"))
    assert result.error is None
    # Five steps of two workers with 20 examples each, at a learning rate of 2e-5.
    assert 0 < moved(weights(model), weights(tmp_path / "out")) < 1e-2


@pytest.mark.slow
def test_the_last_answer_alone_is_learned():
    tokenizer = tokenizer_of("qwen2_5")
    ids, labels = select_and_train.labelled(ROWS["system"]["messages"], None, tokenizer)
    assert len(ids) == len(labels)
    kept = [token for token, label in zip(ids, labels, strict=True) if label != -100]
    assert tokenizer.decode(kept).strip() == "b<|im_end|>"


@pytest.mark.slow
def test_trl_trains_on_an_export(store, model, tmp_path):
    rows = [ROWS[name] for name in ("pair", "system", "tools", "input")]
    folder = store.address(exported(store, "trl_messages", rows).folder)
    settings = {"use_cpu": True, "report_to": "none", "max_steps": 2, "learning_rate": 0.01}
    trainer = trl_export.main(folder, model, str(tmp_path / "out"), **settings)
    assert trainer.state.global_step == 2
    assert moved(weights(model), weights(tmp_path / "out")) > 0


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    path = Path(REPOSITORY, "examples/first_selection.ipynb")
    text = path.read_text()
    assert all(not cell.get("outputs") for cell in json.loads(text)["cells"])  # kept without
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [
        output["data"]["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "execute_result"
    ]
    assert shown[0].startswith("Selection(s2l: ")
    [folder] = (tmp_path / "runs/notebook/exports/s2l-seed0/trl_messages").iterdir()
    assert list((folder / "data").glob("*.parquet"))
