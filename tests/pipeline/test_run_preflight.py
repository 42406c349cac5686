"""Cheap checks before anything starts: every fault is named, and nothing is written."""

import os
import socket
import time

import pytest
from huggingface_hub import constants
from support.chat_families import tokenizer_of
from support.head import free_port
from support.hub import TOKEN, Hub
from support.runs import settings

from s2l_ray.config import ModelConfig, StorageConfig
from s2l_ray.execution import hub
from s2l_ray.pipeline import preflight
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import select


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Make the tiny run with changes; its corpus is a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"instruction": "a", "output": "b"}\n')

    def make(**changes):
        return settings(tmp_path / "new/run", corpus__path="corpus.jsonl", **changes)

    return make


def told(config, **uses):
    with pytest.raises(ValueError) as caught:
        preflight.check(config, **uses)
    return str(caught.value).splitlines()


def test_a_run_that_can_start_passes_and_leaves_nothing(config, tmp_path):
    preflight.check(config(), targets=True, heldout=True, diagnosis=True)
    assert os.listdir(tmp_path) == ["corpus.jsonl"]


def test_all_faults_are_told_together(config, tmp_path):
    (tmp_path / "new").write_text("a file")
    faults = told(
        config(
            corpus__map="no_such:function",
            proxy__model={"name": "./proxy"},
            target__model={"name": "./target"},
            evaluation__files={"exam": "exam.jsonl"},
            evaluation__answers={"quiz": "quiz.jsonl"},
            selection__selector="no_such:Rule",
        ),
        targets=True,
        heldout=True,
    )
    starts = [
        f"run_dir: {tmp_path}/new/run: {tmp_path}/new is not a folder",
        "proxy.model.name: './proxy': there is no such folder",
        "target.model.name: './target': there is no such folder",
        "selection.selector: 'no_such:Rule' cannot be imported: ModuleNotFoundError",
        "corpus.map: 'no_such:function' cannot be imported: ModuleNotFoundError",
        "evaluation.files: exam: corpus.path: 'exam.jsonl' matches no file",
        "evaluation.answers: quiz: corpus.path: 'quiz.jsonl' matches no file",
    ]
    assert len(faults) == len(starts)
    for fault, start in zip(faults, starts, strict=True):
        assert fault.startswith(start)


def test_selectors_of_shares_are_looked_into_too(config):
    changed = config(compare__shares={"s2l": ["longest@0.5"], "no_such:Rule": ["random"]})
    faults = told(changed, targets=True, heldout=True)
    starts = sorted(fault.partition("expected")[0][:45] for fault in faults)
    assert starts == [
        "selection.selector: 'longest@0.5': ",
        "selection.selector: 'no_such:Rule' cannot be ",
    ]


def test_what_exists_is_looked_into_if_nothing_else_is_wrong(config, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("empty", "*.parquet"):
        changed = config().corpus.model_copy(update={"path": path})
        (fault,) = told(config().model_copy(update={"corpus": changed}))
        assert fault.startswith(f"corpus.path: {path!r} matches no file")
        (fault,) = told(
            config(proxy__model={"name": "./no"}).model_copy(update={"corpus": changed})
        )
        assert fault.startswith("proxy.model.name: ")


def test_a_command_is_not_refused_for_what_it_does_not_use(config):
    unused = config(
        target__model={"name": "./target"},
        evaluation__files={"exam": "exam.jsonl"},
        evaluation__baselines=["random", "no_such:Rule"],
        diagnose__proxies={"other": {"name": "./other"}},
    )
    preflight.check(unused)
    assert told(unused, targets=True) == ["target.model.name: './target': there is no such folder"]
    (other,) = told(unused, diagnosis=True)
    assert other.startswith("diagnose.proxies.other.name: './other': ")
    assert len(told(unused, heldout=True)) == 2
    missing = unused.model_copy(
        update={"corpus": unused.corpus.model_copy(update={"path": "nothing.jsonl"})}
    )
    assert told(missing)[0].startswith("corpus.path: 'nothing.jsonl' matches no file")
    preflight.check(missing, corpus=False)  # a Ray Dataset is given instead


def of_hub(config, path):
    changed = config().corpus.model_copy(update={"path": [path, "corpus.jsonl"]})
    return config().model_copy(update={"corpus": changed})


def test_a_dataset_of_a_hub_is_looked_up(config, monkeypatch):
    """The hub is busy at times, which is no answer."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub({"team/data": {"main": {"a.parquet": b""}}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        for _ in range(4):
            preflight.check(of_hub(config, "hf://team/data:default/train"))
        assert server.refused and server.asked["content"] == 0
        server.asked["all"] = 0
        gone = "the hub has no such dataset or revision, or it is not public and the token in HF"
        for path in ("hf://team/gone", "hf://team/data@v2"):
            (fault,) = told(of_hub(config, path))
            assert fault.startswith(f"corpus.path: {path}: {gone}")
        server.asked["all"] = 0
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        (fault,) = told(of_hub(config, "hf://team/data"))
        assert gone in fault and "hf_wrong" not in fault
        (fault,) = told(of_hub(config, "hf://team"))
        assert fault.startswith("corpus.path: 'hf://team': expected hf://owner/dataset, optionally")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    (fault,) = told(of_hub(config, "hf://team/data"))
    assert "hf://team/data: the hub cannot be reached" in fault


def test_a_hub_that_does_not_answer_is_waited_for_once(config, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}")
        monkeypatch.setattr(hub, "SECONDS", 0.5)
        wrong = of_hub(config, "hf://team/data")
        models = {"proxy": wrong.proxy.model_copy(update={"model": ModelConfig(name="a/b")})}
        start = time.monotonic()
        faults = told(wrong.model_copy(update=models))
        assert time.monotonic() - start < 2
    model, data = faults
    assert model.endswith("and the hub cannot be reached: no answer within 0.5 s")
    assert data == "corpus.path: hf://team/data: the hub cannot be reached: no answer within 0.5 s"


def test_a_tokenizer_and_weights_are_looked_at(config, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "tokenizer").mkdir()
    architecture = {"architecture": {"model_type": "llama"}, "tokenizer": "tokenizer"}
    found = told(config(proxy__model=architecture, target__model={"name": "model"}), targets=True)
    assert found == [
        "proxy.model.tokenizer: 'tokenizer': has no tokenizer; expected tokenizer.json or "
        "tokenizer_config.json",
        "target.model.name: 'model': has no weights; expected model.safetensors, or "
        "model.safetensors.index.json and shards",
    ]


def test_a_folder_that_may_not_be_written(config, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)  # root may write anywhere
    assert told(config()) == [f"run_dir: {tmp_path}/new/run: no permission to write in {tmp_path}"]


def test_the_library_checks_before_it_starts_ray(config, monkeypatch):
    monkeypatch.setattr(Run, "start", lambda _: pytest.fail("started"))
    missing = config(proxy__model={"name": "./proxy"})
    for dataset in (None, "a Ray Dataset"):
        with pytest.raises(ValueError, match=r"^proxy\.model\.name: './proxy': there is no such"):
            select(dataset, missing)


def test_an_object_store_that_does_not_answer(config, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "test")  # the check sets the last; restored after the test
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage = StorageConfig(endpoint=endpoint, region="us-east-1")
    away = config().model_copy(update={"run_dir": "s3://bucket/run", "storage": storage})
    (fault,) = told(away)
    assert fault.startswith("s3://bucket/run: ") and endpoint in fault


def test_chat_templates_are_found_before_anything_starts(config, tmp_path):
    tokenizer = tokenizer_of("qwen3")
    tokenizer.save_pretrained(tmp_path / "with")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "without")

    def chats(place, **prompt):
        model = {"architecture": {"model_type": "llama"}, "tokenizer": place}
        prompt = {"template": "chat"} | prompt
        return config(proxy__model=model, target__model=model, prompt=prompt, target_prompt=prompt)

    preflight.check(chats("with"), targets=True)
    preflight.check(chats("without", chat_template="qwen3"), targets=True)
    assert told(chats("without"), targets=True) == [
        f"{section}.template chat: 'without' has no chat template; set {section}.chat_template to "
        "a file or a family"
        for section in ("prompt", "target_prompt")
    ]
    [fault] = told(chats("with", chat_template="mine.jinja"))
    assert "expected a file or the name of a family, found 'mine.jinja'; the families" in fault


def test_adapters_need_their_packages(config, monkeypatch):
    def absent(*names):
        monkeypatch.setattr(preflight, "find_spec", lambda name: None if name in names else name)

    changes = {
        "proxy__lora": {"quantize": "4bit"},
        "target__lora": {},
        "proxy__model": {"name": "team/model"},
        "target__model": {"name": "team/model"},
    }
    monkeypatch.setattr(preflight, "hub_fault", lambda *_, **__: None)
    asked = config(**changes)
    absent("bitsandbytes")
    [fault] = told(asked)
    assert fault.startswith(
        "proxy.lora: the package bitsandbytes is not installed; run pip install"
    )
    assert '"s2l-ray[qlora]"' in fault
    absent("peft", "bitsandbytes")
    found = told(asked, targets=True)
    assert [each.split(" is not")[0] for each in found] == [
        "proxy.lora: the package peft",
        "target.lora: the package peft",
    ]
    absent()
    preflight.check(asked, targets=True)
