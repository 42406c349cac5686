"""target.train: a training function of the user's own, on a real Ray Train."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.corpora import example, write_corpus
from support.own import own_config, train_with, write_module
from support.training import SEED, STEPS, assert_close, config_of
from transformers import get_cosine_schedule_with_warmup

from s2l_ray.config import PromptConfig, TrainingConfig, validate
from s2l_ray.corpus.tokenization import encode_table
from s2l_ray.errors import ConfigError, Damaged
from s2l_ray.models.adapters import load_with_adapter
from s2l_ray.models.files import base_of, result_fault
from s2l_ray.models.loading import initial_model
from s2l_ray.selection.dataset import _rows
from s2l_ray.store import Store
from s2l_ray.training.own import own_loop
from s2l_ray.training.reports import HISTORY_POINTS, Reports


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder alone, by a name that no other test has imported."""
    name = f"own_{uuid.uuid4().hex}"
    write_module(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


# -- settings


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"zero_stage": 2}, "zero_stage"),
        ({"num_checkpoints": 2}, "num_checkpoints"),
        ({"checkpoint_every": 2}, "checkpoint_every"),
        ({"max_workers": 4}, "max_workers"),
        ({"lora": {}}, "lora"),
        ({"packing": True}, "packing"),
    ],
)
def test_what_only_the_built_in_loop_can_follow_is_refused(changes, field):
    with pytest.raises(ValueError, match=f"{field} is a setting of the built-in loop: leave it"):
        TrainingConfig.model_validate(
            {"model": {"name": "m"}, "train": "loops:mine", "global_batch_size": 8} | changes
        )


def test_only_the_target_can_have_a_loop_of_its_own():
    data = {"run_dir": "r", "corpus": {"path": "a"},
            "proxy": {"model": {"name": "m"}, "num_checkpoints": 2}}  # fmt: skip
    target = {"model": {"name": "m"}, "train": "loops:mine"}
    assert validate(data | {"target": target}).target.train == "loops:mine"
    for proxy in ({"num_checkpoints": 2}, {}):
        with pytest.raises(ConfigError, match=r"proxy: train: found .* only the target can have"):
            validate(data | {"proxy": {"model": {"name": "m"}, "train": "loops:mine"} | proxy})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_to_be_found:f", "cannot be imported: ModuleNotFoundError"),
        ("MODULE:trian", "expected a function of one argument .*, got None"),
        ("MODULE:NUMBER", "expected a function of one argument .*, got 3"),
        ("MODULE:of_two", "expected a function of one argument .*, got <function of_two"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused(module, name, message):
    name = name.replace("MODULE", module)
    with pytest.raises(ValueError, match=f"target.train: {name!r}:? {message}"):
        own_loop(name)


# -- what the function gets


def test_rows_have_the_tokens_and_labels_that_the_target_is_evaluated_with(job):
    tools = [{"name": "add", "parameters": {"a": 1}}]
    call = [{"name": "add", "arguments": {"a": 1, "b": 2}}]
    rows = [
        example("w1 w2", "w3"),
        example("long " * 60, "w4"),  # no label is left
        example("w5", "") | {"tools": json.dumps(tools)},
    ]
    rows[2]["turns"][1]["tool_calls"] = json.dumps(call)
    store = Store(job.root / "rows")
    corpus = write_corpus(store, rows, num_parts=1)
    table = store.read_part(corpus.folder, corpus.parts[0])
    plain = table.set_column(
        table.schema.get_field_index("tools"), "tools", pa.nulls(3, pa.string())
    )
    without = plain["turns"].to_pylist()
    for turns in without:
        turns[1]["tool_calls"] = None  # the plain template has no place for them
    plain = plain.set_column(
        plain.schema.get_field_index("turns"), "turns",
        pa.array(without, table.schema.field("turns").type),
    )  # fmt: skip
    prompt = PromptConfig(template="plain", max_length=24)
    tokens = encode_table(plain, prompt, job.tokenizer)
    found = {row["messages"][0]["content"]: row for row in _rows(table, tokens).to_pylist()}
    assert found.keys() == {"w1 w2", "w5"}
    row = found["w1 w2"]
    before = job.tokenizer("w1 w2\n")["input_ids"]
    after = [*job.tokenizer("w3")["input_ids"], job.tokenizer.eos_token_id]
    assert row["input_ids"] == before + after
    assert row["labels"] == [-100] * len(before) + after
    assert row["messages"][1] == {"role": "assistant", "content": "w3"}
    assert row["tools"] is None
    assert found["w5"]["tools"] == tools  # no other tool's parameters
    assert found["w5"]["messages"][1]["tool_calls"] == call


@pytest.mark.slow
def test_a_function_that_leaves_no_model_is_refused_and_told_what_it_got(job, module, tmp_path):
    config = own_config(f"{module}:leave_nothing", workers={"num_workers": 1})
    with pytest.raises(ValueError, match=r"left no model in .* has no config.json.*notes.txt"):
        train_with(job, config, "targets/nothing")
    notes = tmp_path / "notes"
    given = eval((notes / "config").read_text())
    assert given["steps"] == STEPS and given["seed"] == SEED and given["max_length"] == 96
    assert given["training"] == config.model_dump(mode="json")
    tables = [job.store.read_part("tokens", part) for part in job.tokens.parts]
    table = pa.concat_tables(tables)
    wanted = table.filter(pa.compute.greater(table["num_label_tokens"], 0))["example_id"]
    assert eval((notes / "train").read_text()) == wanted.to_pylist()
    assert eval((notes / "whole").read_text()) == wanted.to_pylist()


# -- errors, deaths, and what is left


@pytest.mark.slow
def test_it_goes_on_from_its_checkpoint_in_a_later_command_and_after_a_death(job, module, tmp_path):
    config = own_config(f"{module}:train", max_failures=1)
    with pytest.raises(ValueError) as error:
        train_with(job, config, "targets/own")
    told = str(error.value)
    assert told.startswith(f"target.train: '{module}:train' failed:\nTraceback")
    assert told.endswith("KeyError: 'no such column'")
    assert ", in train" in told and "own_worker" not in told

    made = train_with(job, config, "targets/own")
    assert sorted(os.listdir(tmp_path / "notes")) == [
        "killed",
        *(f"rank 0 {what}" for what in ("from 0", "from 2", "from 4", "raised")),
        *(f"rank 1 {what}" for what in ("from 0", "from 2", "from 4", "raised")),
    ]
    info = made.info
    assert info["history"] == [[step, 10 - step] for step in range(1, 7)]
    assert (info["step"], info["checkpoints"], info["workers"]) == (6, [6], 2)
    assert info["tokens"] is info["padded_tokens"] is None and info["seconds"] > 0
    assert job.store.names("targets/own") == ["checkpoint-000006", "manifest.json"]
    initial = initial_model(config.model, job.tokenizer, seed=SEED).state_dict()
    assert_close(load_file(job.store.address("targets/own", made.parts[2].file)), initial, atol=0)


@pytest.mark.slow
def test_its_checkpoints_are_in_s3_if_the_run_directory_is(s3_uri, tmp_path):
    write_module(tmp_path, "mine")
    done = subprocess.run(
        [sys.executable, "-m", "support.own", str(tmp_path), s3_uri],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["told"]) == 1 and found["told"][0].endswith("KeyError: 'no such column'")
    assert {f"rank 1 from {step}" for step in (0, 2, 4)} <= {*os.listdir(tmp_path / "notes")}
    assert [step for step, _ in found["info"]["history"]] == list(range(1, STEPS + 1))
    assert found["names"] == ["checkpoint-000006", "manifest.json"] and found["fault"] is None


def test_the_curve_is_thinned_and_goes_back_to_the_checkpoint(store):
    class Board:
        class write:
            remote = staticmethod(lambda *_: None)

    reports = Reports.__ray_metadata__.modified_class(store, "t", Board)
    reports.begin(2)
    for step in range(1, 4 * HISTORY_POINTS + 1):
        reports.add({"step": step, "loss": 1.0 / step}, kept=step == 600)
    history = reports.read()["history"]
    assert HISTORY_POINTS <= len(history) <= 2 * HISTORY_POINTS
    assert history[-1] == [4 * HISTORY_POINTS, round(0.25 / HISTORY_POINTS, 6)]
    reports.begin(1)
    assert reports.read()["step"] == 600 and reports.read()["history"][-1][0] == 600
    reports.add({"step": 601, "loss": 2.0, "tokens": 77}, kept=False)
    reports.add({"step": 601}, kept=True)
    assert reports.read()["history"][-1] == [601, 2.0]
    assert reports.read()["tokens"] == 77


def test_what_is_no_model_is_told(tmp_path):
    assert result_fault(tmp_path) == "has no config.json; expected a model in Hugging Face format"
    (tmp_path / "config.json").write_text("{}")
    assert "has no weights" in result_fault(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert "only pickled weights (pytorch_model.bin)" in result_fault(tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert result_fault(tmp_path) is None
    (tmp_path / "adapter_config.json").write_text("{}")
    assert result_fault(tmp_path) == "has no adapter_model.safetensors"
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    assert "damaged" in result_fault(tmp_path)


@pytest.mark.slow
def test_an_adapter_names_its_base_as_the_configuration_does(job, module, tmp_path):
    base = tmp_path / "base"
    initial_model(config_of().model, job.tokenizer, seed=SEED).save_pretrained(base)
    changes = {"model": {"name": str(base)}, "workers": {"num_workers": 1}}
    made = train_with(job, own_config(f"{module}:leave_adapter", **changes), "targets/adapter")
    folder = job.store.address("targets/adapter", "checkpoint-000006")
    model = load_with_adapter(job.store, folder, dtype="float32")
    assert base_of(folder).name == str(base)
    lora = {name: w for name, w in model.state_dict().items() if "lora_B" in name}
    assert lora and all((weights == 0.5).all() for weights in lora.values())
    assert {part.file.rpartition("/")[2] for part in made.parts} >= {"base_config.json"}

    manifest = Path(job.store.address("targets/adapter", "manifest.json"))
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(Damaged):
        job.store.manifest("targets/adapter")
    job.store.set_aside("targets/adapter")  # what a run does then
    again = train_with(job, own_config(f"{module}:leave_adapter", **changes), "targets/adapter")
    assert [part.unit for part in again.parts] == [part.unit for part in made.parts]
    assert job.store.fault(again) is None
    assert len(list(manifest.parent.glob("manifest-damaged-*.json"))) == 1


# -- the examples


@pytest.fixture(scope="module")
def plain(job):
    """Every example in each step, in plain torch: the losses, with Hugging Face's schedule."""
    config = config_of()
    model = initial_model(config.model, job.tokenizer, seed=SEED).train()
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, STEPS)  # 0.3 of 6 steps
    table = pa.concat_tables([job.store.read_part("tokens", part) for part in job.tokens.parts])
    rows = [row for row in table.to_pylist() if any(row["loss_mask"])]
    losses = []
    for _ in range(STEPS):
        total, labels = 0.0, 0
        for row in rows:
            ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["loss_mask"])
            logits = model(input_ids=ids[None]).logits[0, :-1]
            found = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            total, labels = total + found[mask[1:]].sum(), labels + int(mask.sum())
        (total / labels).backward()
        losses.append(total.item() / labels)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    tokens = sum(len(row["input_ids"]) for row in rows)
    return len(rows), losses, tokens


@pytest.mark.slow
@pytest.mark.parametrize("example", ["accelerate_loop", "trl_sft"])
def test_the_examples_train_as_plain_torch_does(job, plain, example, monkeypatch, request):
    count, losses, tokens = plain
    assert count % 2 == 0  # so that two workers' equal shares are all examples
    monkeypatch.chdir(request.config.rootpath)
    batch = {"global_batch_size": count, "micro_batch_size": count // 2, "resume_every": 4}
    config = own_config(f"examples.{example}:train", **batch)
    made = train_with(job, config, f"targets/{example}")
    assert [step for step, _ in made.info["history"]] == list(range(1, STEPS + 1))
    assert [loss for _, loss in made.info["history"]] == pytest.approx(losses, abs=2e-4)
    assert made.info["tokens"] == tokens * STEPS
