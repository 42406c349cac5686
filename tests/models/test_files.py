"""What is told of a model's folder, or of its name, without loading it."""

import json
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from s2l_ray.execution import hub as execution_hub
from s2l_ray.models.files import folder_fault, hub_fault


@pytest.fixture
def folder(tmp_path):
    """A model as `save_pretrained` leaves it, in two shards."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    weights = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        tensors = {f"layer.{number}": torch.ones(3, number)}
        save_file(tensors, tmp_path / name, metadata={"format": "pt"})
        weights |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 36}, "weight_map": weights}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


LAST = "model-00002-of-00002.safetensors"


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def empty(file):
    file.write_bytes(b"")


def page(file):
    file.write_text("<!DOCTYPE html><title>Sign in</title>")


def remove(file):
    file.unlink()


def test_a_whole_folder_has_no_fault(folder):
    assert folder_fault(folder, weights=True) is None
    for file in folder.glob("model*"):
        file.unlink()
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    assert folder_fault(folder, weights=True) is None
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin)" in folder_fault(folder, weights=True)


@pytest.mark.parametrize(
    "name, harm, expected",
    [
        ("config.json", remove, "has no config.json; expected a model in Hugging Face format"),
        ("config.json", page, "config.json is damaged: Expecting value"),
        ("tokenizer.json", remove, "has no tokenizer; expected tokenizer.json or"),
        (LAST, remove, f"lacks {LAST}, which model.safetensors.index.json lists"),
        (LAST, pointer, f"{LAST} is a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (LAST, empty, f"{LAST} is damaged: it has no header of safetensors"),
        (LAST, page, f"{LAST} is damaged: it has no header of safetensors"),
        ("model.safetensors.index.json", remove, "has no weights; expected model.safetensors, or"),
        ("model.safetensors.index.json", empty, "model.safetensors.index.json is damaged: Expect"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder, name, harm, expected):
    harm(folder / name)
    assert folder_fault(folder, weights=True).startswith(expected)


def test_weights_that_are_cut_short_are_told_by_their_sizes(folder):
    size = (folder / LAST).stat().st_size
    cut(folder / LAST)
    told = f"{LAST} is damaged: {size - 1:,} bytes, but its header says {size:,}"
    assert folder_fault(folder, weights=True) == told


def test_a_tokenizer_needs_no_weights(folder):
    for file in [*folder.glob("model*"), folder / "config.json"]:
        file.unlink()
    assert folder_fault(folder, weights=False) is None
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in folder_fault(folder, weights=False)


@pytest.mark.parametrize("name", ["/no/model", "./model", "../model", "~/model", "a/b/c"])
def test_a_name_that_is_a_path_must_be_a_folder(name):
    assert hub_fault(name, None, weights=True) == "there is no such folder"


# path -> status, X-Error-Code
ANSWERS = {
    "/a/model/resolve/main/config.json": (200, None),
    "/a/tokenizer/resolve/main/config.json": (404, "EntryNotFound"),
    "/a/tokenizer/resolve/main/tokenizer_config.json": (404, "EntryNotFound"),
    "/a/model/resolve/v9/config.json": (404, "RevisionNotFound"),
    "/a/gated/resolve/main/config.json": (403, "GatedRepo"),
    "/a/busy/resolve/main/config.json": (503, None),
}


class Answering(BaseHTTPRequestHandler):
    def do_HEAD(self):
        if "slow" in self.path:
            time.sleep(5)
        status, code = ANSWERS.get(self.path, (404, "RepoNotFound"))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    template = (
        f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(execution_hub, "SECONDS", 1.0)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "name, revision, expected",
    [
        ("a/model", None, None),
        ("a/modle", None, "there is no such folder and no such model on the hub; if it is private"),
        ("a/model", "v9", "the hub has no revision 'v9' of it"),
        ("a/gated", None, "access on the hub is restricted; accept its terms there, and set HF"),
        ("a/tokenizer", None, "on the hub it has no config.json"),
        ("no good/name", None, "there is no such folder, and no name on the hub looks like this"),
        ("a/busy", None, None),
        (
            "a/slow",
            None,
            "there is no such folder, the hub's cache lacks it, and the hub cannot be",
        ),
    ],
)
def test_a_name_is_looked_up_on_the_hub(hub, name, revision, expected):
    start = time.monotonic()
    found = hub_fault(name, revision, weights=True)
    assert found == expected or found.startswith(expected)
    assert time.monotonic() - start < 4  # a slow hub would take 5
    if name == "a/slow":
        assert found.endswith("reached: no answer within 1 s")
        start = time.monotonic()
        assert hub_fault("a/other", None, weights=True).endswith("no answer within 1 s")
        assert time.monotonic() - start < 0.5  # it is not asked for each name


def test_a_tokenizer_may_have_any_files(hub):
    assert hub_fault("a/tokenizer", None, weights=False) is None
    assert hub_fault("a/nothing", None, weights=False).startswith("there is no such folder and no")


def test_what_the_cache_has_needs_no_hub(monkeypatch, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{closed.getsockname()[1]}/{{repo_id}}/{{revision}}/{{filename}}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        assert "cache lacks it, and the hub cannot be" in hub_fault("a/b", None, weights=True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "lacks it; HF_HUB_OFFLINE is set" in hub_fault("a/b", None, weights=True)
        repository = tmp_path / "models--a--b"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("0123")
        (repository / "snapshots/0123").mkdir(parents=True)
        (repository / "snapshots/0123/config.json").write_text("{}")
        assert hub_fault("a/b", None, weights=True) is None
        assert "lacks it at revision 'v2'" in hub_fault("a/b", "v2", weights=True)
