"""A hub that cannot be reached, and a model that its cache has."""

import logging
import time

from huggingface_hub import constants
from support.chat_families import tokenizer_of
from support.head import free_port
from transformers import AutoTokenizer, GPTNeoXConfig

from s2l_ray.config import ModelConfig
from s2l_ray.corpus.tokenizer import prepare_tokenizer
from s2l_ray.execution import hub
from s2l_ray.execution.hub import only_cached
from s2l_ray.store import Store


def test_a_cached_model_without_a_network_is_loaded_at_once(monkeypatch, tmp_path, caplog):
    """The hub's client would ask for each of a tokenizer's files five times: 140 s in all."""
    commit = "0123456789" * 4
    repository = tmp_path / "cache/models--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    tokenizer = tokenizer_of("qwen3")
    tokenizer.save_pretrained(snapshot)
    GPTNeoXConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1,
                  num_attention_heads=1, intermediate_size=8).save_pretrained(snapshot)  # fmt: skip
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    store, start = Store(str(tmp_path / "run")), time.monotonic()
    with caplog.at_level(logging.WARNING):
        prepare_tokenizer(store, ModelConfig(name="a/b"), None, folder="tokenizer")
    assert time.monotonic() - start < 5
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and told[0].startswith("the hub cannot be reached (")
    assert told[0].endswith("); a/b is taken from its cache")
    copied = AutoTokenizer.from_pretrained(store.download("tokenizer"))
    assert copied.get_vocab() == tokenizer.get_vocab()


def test_a_folder_and_offline_mode_need_no_answer(monkeypatch, tmp_path):
    def asked(*_):
        raise AssertionError

    monkeypatch.setattr("huggingface_hub.utils.get_session", asked)
    assert not only_cached(None) and not only_cached(str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.silence("https://hub/a") is None
