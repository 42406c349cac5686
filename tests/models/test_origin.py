"""A hub model goes into the run once, from a loopback hub that needs a token and is often busy."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from huggingface_hub import constants
from support.hub import COMMIT, TOKEN, Hub
from support.models import SMALL, small_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenizer import load_tokenizer, prepare_tokenizer
from s2l_ray.models.loading import load_model
from s2l_ray.models.origin import commit_of, keep_model, on_this_node, origin_of
from s2l_ray.store import Manifest, Store


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_model("llama").save_pretrained(folder, max_shard_size="20KB")
    found = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sum(name.startswith("model-") for name in found) > 1
    return found


@pytest.fixture
def hub(files, monkeypatch, tmp_path):
    others = {"README.md": b"# A model", "tf_model.h5": b"large", "original/model.pth": b"large"}
    repositories = {
        "team/model": {"main": files | others},
        "team/empty": {"main": {"config.json": b"{}"}},
    }
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Hub(repositories) as hub:
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


MODEL = ModelConfig(name="team/model")


def test_a_hub_model_is_copied_into_the_run_once_with_its_commit(hub, files, store, monkeypatch):
    origin = keep_model(store, MODEL)
    assert origin == origin_of(MODEL)
    assert store.names(*origin.split("/")) == sorted([*files, "manifest.json"])
    known = {"name": "team/model", "revision": None, "commit": COMMIT["main"]}
    assert commit_of(store, origin) == known
    assert hub.asked["content"] == len(files)
    asked = hub.asked["all"]
    monkeypatch.delenv("HF_TOKEN")  # nothing more is asked
    assert keep_model(store, MODEL) == origin
    found = load_model(on_this_node(store, MODEL, origin).name).state_dict()
    expected = small_model("llama").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert hub.asked["all"] == asked


def test_a_pinned_revision_is_another_folder(hub, store):
    pinned = ModelConfig(name="team/model", revision=COMMIT["main"])
    assert keep_model(store, pinned) != origin_of(MODEL)
    assert commit_of(store, origin_of(pinned))["commit"] == COMMIT["main"]


def test_tokenizer_and_weights_are_of_one_commit_though_the_branch_moves(hub, files, store):
    """The branch moves between the two, as when a run goes on after days."""
    with_tokenizer = [files | tokenizer_files(words) for words in (["a", "b"], ["b", "a"])]
    hub.repositories["team/model"] = {"main": with_tokenizer[0]}
    prepare_tokenizer(store, MODEL, Manifest("corpus", "c", []), folder="tokenizer")
    moved = {"main": with_tokenizer[1], "v1": with_tokenizer[0]}
    hub.repositories["team/model"] = moved
    asked = {COMMIT["main"]: "v1"}  # the first commit is no branch's any more
    hub.files = lambda name, revision: (
        (revision, moved[asked[revision]]) if revision in asked else ("b" * 40, moved["main"])
    )
    origin = keep_model(store, MODEL)
    assert commit_of(store, origin)["commit"] == COMMIT["main"]
    later = ModelConfig(name="team/model", revision="main")  # resolved again
    assert commit_of(store, keep_model(store, later))["commit"] == "b" * 40
    prepare_tokenizer(store, later, Manifest("corpus", "c", []), folder="later")
    found = [load_tokenizer(store, folder).get_vocab() for folder in ("tokenizer", "later")]
    assert found == [{"a": 0, "b": 1}, {"b": 0, "a": 1}]


def tokenizer_files(words):
    vocabulary = {word: number for number, word in enumerate(words)}
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, words[0])))
    with TemporaryDirectory() as folder:
        fast.save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def test_a_model_in_a_local_folder_is_read_in_place(store, tmp_path):
    (tmp_path / "model").mkdir()
    here = ModelConfig(name=str(tmp_path / "model"))
    assert keep_model(store, here) == str(tmp_path / "model")
    assert on_this_node(store, here, origin_of(here)).name == str(tmp_path / "model")
    assert commit_of(store, origin_of(here)) is None
    assert not store.exists("models")


def test_a_model_from_scratch_has_no_origin(store):
    scratch = ModelConfig(architecture=SMALL | {"model_type": "llama"}, tokenizer_vocab=300)
    assert keep_model(store, scratch) is None
    assert on_this_node(store, scratch, None) is scratch


@pytest.mark.parametrize(
    "name, token, expected",
    [
        ("team/empty", TOKEN, "has no safetensors on the hub; expected model.safetensors"),
        ("team/none", TOKEN, "no such model on the hub; if it is private, set HF_TOKEN"),
        ("team/model", "hf_other", "no such model on the hub; if it is private, set HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_give_is_refused(hub, store, monkeypatch, name, token, expected):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match=expected):
        keep_model(store, ModelConfig(name=name))
    assert store.manifest(origin_of(ModelConfig(name=name))) is None


def test_a_model_of_an_interrupted_copy_is_copied_again(hub, files, tmp_path):
    class Breaks(Store):
        def commit(self, *_):
            raise OSError("the connection broke")

    with pytest.raises(OSError, match="the connection broke"):
        keep_model(Breaks(tmp_path / "run"), MODEL)
    store = Store(tmp_path / "run")
    assert json.loads(store.read_bytes(keep_model(store, MODEL), "config.json"))
    assert hub.asked["content"] == len(files)  # the hub's cache had them
