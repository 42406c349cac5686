"""LLaMA-Factory and Axolotl, each in an environment of its own, read our exports by their own
loaders, and train with a LossRecorder."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from support.chat_families import tokenizer_of
from support.environments import environment
from support.exports import ROWS, exported, labels_of
from transformers import AutoConfig, AutoModelForCausalLM

SETTINGS = Path(__file__).parents[2] / "examples/llamafactory/sft.yaml"
READERS = Path(__file__).parents[1] / "support/readers"
# Their own pins where ours are newer, and what their loaders import beside ours; all without
# dependencies, so that nothing large is fetched twice.
LLAMA_FACTORY = (
    "llamafactory==0.9.5", "transformers==5.6.0", "datasets==4.0.0", "peft==0.18.1",
    "accelerate==1.11.0", "trl==0.24.0", "tokenizers==0.22.2", "huggingface_hub==1.9.0",
    "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3", "fire", "termcolor", "einops", "av",
    "torchdata==0.11.0", "sentencepiece",
)  # fmt: skip
AXOLOTL = (
    "axolotl==0.19.0", "transformers==5.16.1", "datasets==4.8.4", "peft==0.20.0",
    "accelerate==1.13.0", "trl==1.9.0", "huggingface_hub==1.17.0", "axolotl-contribs-lgpl==0.0.7",
    "axolotl-contribs-mit==0.0.6", "addict", "colorama", "posthog==6.7.11", "backoff", "distro",
    "numba", "llvmlite", "fire", "termcolor", "fastcore", "evaluate", "triton",
)  # fmt: skip


def run(python, script, *arguments, out, home):
    given = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1",
                          "AXOLOTL_DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    done = subprocess.run(
        [python, READERS / script, *arguments, out],
        env=given, cwd=home, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return json.loads(Path(out).read_text())


def check_recorded(folder, logged, rows):
    """Of two epochs of one step each: a loss of every row in each, whose mean over label tokens is
    what the trainer logged."""
    losses, numbered = (
        pa.concat_tables(pa.ipc.open_file(path).read_all() for path in (folder / name).iterdir())
        for name in ("losses", "rows")
    )
    assert sorted(numbered["row"].to_pylist()) == list(range(rows))
    assert len(logged) == 2
    for point, of_step in losses.to_pandas().groupby("point"):
        assert sorted(of_step["key"]) == sorted(numbered["key"].to_pylist())
        labels = of_step["num_label_tokens"]
        mean = (of_step["loss"] * labels).sum() / labels.sum()
        assert logged[point] == pytest.approx(mean, abs=1e-3)


@pytest.fixture
def model(tmp_path):
    """A folder with a small model and its tokenizer, and the tokenizer."""
    tokenizer = tokenizer_of("qwen3")
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    for part in (tokenizer, AutoModelForCausalLM.from_config(config)):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model", tokenizer


@pytest.mark.slow
def test_llama_factory_reads_its_exports_and_records_losses(store, tmp_path, model):
    folder, tokenizer = model
    python, site = environment(tmp_path / "environment", *LLAMA_FACTORY)
    # Its loader imports torchaudio, whose wheel needs CUDA. No audio is read here.
    (site / "torchaudio.py").touch()
    kinds = {
        "llamafactory_alpaca": ["pair", "input", "pair"],
        "llamafactory_sharegpt": ["pair", "pair", "system", "tools", "input"],
    }
    labels, prompts = {}, {}
    for name, rows in kinds.items():
        written = exported(store, name, [ROWS[row] for row in rows])
        found = run(
            python, "llamafactory_reader.py", SETTINGS, store.address(written.folder),
            name.replace("llamafactory", "s2l"), folder,
            out=str(tmp_path / f"{name}.json"), home=tmp_path,
        )  # fmt: skip
        # It reads the files of a folder in any order.
        labels[name] = sorted(
            [text.strip() for text in labels_of(row["input_ids"], row["labels"], tokenizer)]
            for row in found
        )
        prompts[name] = [tokenizer.decode(row["input_ids"]) for row in found]
    answer, call = (
        ["a<|im_end|>"],
        '<tool_call>\n{"name": "f", "arguments": {"b": 2}}\n</tool_call>',
    )
    assert labels["llamafactory_alpaca"] == [answer] * 3
    assert sum("user\nq\ni<|im_end|>" in text for text in prompts["llamafactory_alpaca"]) == 1
    assert labels["llamafactory_sharegpt"] == [
        [f"{call}<|im_end|>", *answer], answer, answer, answer, [*answer, "b<|im_end|>"],
    ]  # fmt: skip
    shown = prompts["llamafactory_sharegpt"]
    assert sum("system\ns<|im_end|>" in text for text in shown) == 1
    assert sum("<tool_response>\n3\n</tool_response>" in text for text in shown) == 1
    assert sum('"description": "d"' in text for text in shown) == 1

    logged = run(
        python, "llamafactory_recorder.py", SETTINGS, store.address(written.folder),
        "s2l_sharegpt", folder, tmp_path / "losses",
        out=str(tmp_path / "logged.json"), home=tmp_path,
    )  # fmt: skip
    check_recorded(tmp_path / "losses", logged, rows=5)


@pytest.mark.slow
def test_axolotl_reads_its_export_and_records_losses(store, tmp_path, model):
    folder, tokenizer = model
    python, _ = environment(tmp_path / "environment", *AXOLOTL)
    rows = ["pair", "system", "masked", "tools", "reasoning", "first masked"]
    written = exported(store, "axolotl", [ROWS[row] for row in rows])
    block = store.address(written.folder, "dataset.yaml")
    found = run(
        python, "axolotl_reader.py", block, folder,
        out=str(tmp_path / "rows.json"), home=tmp_path,
    )  # fmt: skip
    labels = [labels_of(row["input_ids"], row["labels"], tokenizer) for row in found]
    call = '<tool_call>\n{"name": "f", "arguments": {"b": 2}}\n</tool_call>'
    assert sorted(labels) == sorted([
        ["a<|im_end|>"], ["a<|im_end|>", "b<|im_end|>"], ["right<|im_end|>"],
        [f"{call}<|im_end|>", "a<|im_end|>"], ["r\n</think>\n\na<|im_end|>"],
        ["right<|im_end|>", "last<|im_end|>"],
    ])  # fmt: skip
    shown = [tokenizer.decode(row["input_ids"]) for row in found]
    assert sum('"description": "d"' in text for text in shown) == 1
    assert sum("<tool_response>\n3\n</tool_response>" in text for text in shown) == 1

    logged = run(
        python, "axolotl_recorder.py", store.address(written.folder, "dataset.yaml"), folder,
        out=str(tmp_path / "logged.json"), home=tmp_path,
    )  # fmt: skip
    check_recorded(tmp_path / "logged.json.trained" / "losses", logged, rows=6)
