"""Tokenizers trained on the corpus, or copied."""

import hashlib
import time
from pathlib import Path

import pytest
import ray
from support.corpora import example, write_corpus
from support.models import EXAMPLES, TINY, config_of, tiny_tokenizer

from s2l_ray.config import ModelConfig
from s2l_ray.corpus import tokenizer as tokenizer_module
from s2l_ray.corpus.tokenizer import (
    _with_short_words,
    load_tokenizer,
    prepare_tokenizer,
    train_tokenizer,
)
from s2l_ray.models.loading import initial_model
from s2l_ray.store import Store


@pytest.fixture
def tokenizer(store):
    return tiny_tokenizer(store)


def test_any_text_comes_back(tokenizer):
    assert len(tokenizer) == 320
    assert tokenizer.eos_token == "<|endoftext|>"
    texts = [
        "",
        "the candle  of the dragon",
        " leading, trailing \n\n\ttabs\r\n",
        "naïve Größe 東京 🦜👩‍👩‍👧 \u0000 \u200f עברית e\u0301",
        "don't . , ! he 's 1234567890",
        "".join(map(chr, range(1, 0x250))),
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids
    assert len(tokenizer("the candle of the dragon")["input_ids"]) < 15  # it learnt something
    assert len(tokenizer("2024")["input_ids"]) == 4  # a token a digit


def test_same_corpus_same_tokenizer(local_ray, store, tmp_path):
    """In this process and in another, byte for byte; another corpus has another."""

    def digests(root, examples):
        there = Store(root)
        corpus = write_corpus(there, examples)
        prepare_tokenizer(there, config_of(), corpus, folder="tokenizer")
        files = sorted(Path(there.address("tokenizer")).iterdir())
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    far = ray.remote(digests).remote(str(tmp_path / "far"), EXAMPLES)
    here = digests(store.uri, EXAMPLES)
    assert "tokenizer.json" in here
    assert here == ray.get(far)
    assert here["tokenizer.json"] != digests(tmp_path / "other", EXAMPLES[9:])["tokenizer.json"]


def test_a_tokenizer_that_is_there_is_not_made_again(store):
    first = write_corpus(store, EXAMPLES, folder="corpus/first")
    other = write_corpus(store, [example("ä" * 9, "ö" * 9)], folder="corpus/other")
    prepare_tokenizer(store, config_of(), first, folder="tokenizer")
    before = store.read_bytes("tokenizer", "tokenizer.json")
    prepare_tokenizer(store, config_of(), other, folder="tokenizer")
    assert store.read_bytes("tokenizer", "tokenizer.json") == before


def test_a_tokenizer_from_a_folder(store, tokenizer):
    corpus = store.manifest("corpus/test")
    config = ModelConfig(architecture=TINY, tokenizer=store.address("tokenizer"))
    prepare_tokenizer(store, config, corpus, folder="copied")
    text = "the anchor 3 ü"
    assert load_tokenizer(store, "copied")(text) == tokenizer(text)


def test_a_tokenizer_learns_from_all_text_of_an_example(store):
    call = '[{"type":"function","function":{"name":"zebra","arguments":{}}}]'
    turns = [
        {"role": "user", "text": "q", "name": "walrus"},
        {"role": "assistant", "text": "", "reasoning": "ocelot", "tool_calls": call},
        {"role": "tool", "text": "lemur", "tool_call_id": "heron"},
        {"role": "assistant", "text": "puffin"},
    ]
    row = {"source": "s", "turns": turns, "tools": '[{"name":"gecko"}]'}
    examples = write_corpus(store, [row], num_parts=1)
    model = ModelConfig(architecture=TINY, tokenizer_vocab=400)
    prepare_tokenizer(store, model, examples, folder="tokenizers/all")
    tokenizer = load_tokenizer(store, "tokenizers/all")
    for word in ("walrus", "ocelot", "zebra", "lemur", "heron", "puffin", "gecko"):
        assert len(tokenizer(word)["input_ids"]) < len(word), word


def test_a_chat_template_takes_the_place_of_the_tokenizers_own(store, tokenizer):
    corpus = store.manifest("corpus/test")
    config = ModelConfig(architecture=TINY, tokenizer=store.address("tokenizer"))
    prepare_tokenizer(store, config, corpus, folder="own")
    prepare_tokenizer(store, config, corpus, folder="chats", chat_template="{{ messages }}")
    assert load_tokenizer(store, "own").chat_template is None
    assert load_tokenizer(store, "chats").chat_template == "{{ messages }}"


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(store, tokenizer):
    corpus = store.manifest("corpus/test")
    initial_model(config_of(), tokenizer, seed=0).save_pretrained(store.address("model"))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save_pretrained(store.address("model"))
    told = "has 322 tokens, but the model has embeddings for 320: use the tokenizer that"
    with pytest.raises(ValueError, match=told):
        prepare_tokenizer(store, ModelConfig(name=store.address("model")), corpus, folder="other")
    small = ModelConfig(architecture={**TINY, "vocab_size": 320}, tokenizer=store.address("model"))
    with pytest.raises(ValueError, match=told):
        prepare_tokenizer(store, small, corpus, folder="other")
    enough = ModelConfig(architecture={**TINY, "vocab_size": 322}, tokenizer=store.address("model"))
    prepare_tokenizer(store, enough, corpus, folder="other")
    assert len(load_tokenizer(store, "other")) == 322


def test_words_of_any_length_take_linear_time():
    """A megabyte of letters took 11 minutes."""
    texts = [f"a short text, number {n}" for n in range(200)]
    for junk in ("abcdefghij" * 100_000, " " * 10**6, "=-" * 500_000, "字" * 10**6):
        began = time.process_time()
        found = train_tokenizer([*texts, junk], 400)
        assert time.process_time() - began < 15
        assert found.decode(found("number " + junk[:50])["input_ids"]) == "number " + junk[:50]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 256 + " " + "b" * 256, "a" * 256 + " " + "b" * 256),
        ("a" * 257, "a" * 256 + " a"),
        ("x " + "é" * 600 + "1" + "b" * 300,
         "x " + " ".join(["é" * 256, "é" * 256, "é" * 88]) + "1" + "b" * 256 + " " + "b" * 44),
        ("_" * 300, "_" * 256 + " " + "_" * 44),
        ("1" * 1000, "1" * 1000),  # each digit is a word
        (" " * 256 + "x", " " * 256 + "x"),
        ("y" + "\n\t" * 150 + "x\n", "y" + "\n\t" * 128 + "x\n"),
        ("def f(x):\n            return x\n" * 500, "def f(x):\n            return x\n" * 500),
        ("", ""),
    ],
)  # fmt: skip
def test_long_words_are_divided_for_the_training_of_a_tokenizer(text, expected):
    assert _with_short_words(text) == expected


def test_a_tokenizer_is_trained_on_so_much_text(store, monkeypatch):
    corpus = write_corpus(store, [example(f"w{n}x", "answer") for n in range(100)])
    every = list(tokenizer_module._texts(store, corpus))
    assert len(every) == 100
    monkeypatch.setattr(tokenizer_module, "TOKENIZER_CHARACTERS", sum(map(len, every[:40])))
    assert list(tokenizer_module._texts(store, corpus)) == every[:40]
