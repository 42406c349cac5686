"""The part of a tokenizer for text gives the ids and offsets that the whole gives."""

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chat_families import SHAPES, tokenizer_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizer, PreTrainedTokenizerFast

from s2l_ray.config import PromptConfig
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.text_tokenizer import TextTokenizer, text_tokenizer
from s2l_ray.corpus.tokenization import encode

LETTERS = [chr(code) for code in range(32, 127)] + ["é", "▁", "\n", "\ufffd"]


def byte_level() -> PreTrainedTokenizerFast:
    vocabulary = {letter: n for n, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    vocabulary |= {"ab": 300, "abc": 301}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("ab", "c")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<pad>")
    found.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True), AddedToken("and")])
    return found


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2 has it: a space before a text, a begin token, unknown letters as bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *LETTERS, "▁a"]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    bpe = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.ByteFallback()
    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def limited() -> PreTrainedTokenizerFast:
    """Its definition cuts and pads; its special tokens are split like other text."""
    found = byte_level()
    found.backend_tokenizer.enable_truncation(3)
    found.backend_tokenizer.enable_padding(length=9)
    found.split_special_tokens = True
    return found


WHOLE = {"byte level": byte_level(), "sentence piece": sentence_piece(), "limited": limited()}
PIECES = [*LETTERS, "abc", "<tool>", " <tool>", "<|end|>", "</s>", "and", "🙂"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@pytest.mark.parametrize("kind", WHOLE)
@given(texts=st.lists(TEXT, min_size=1, max_size=4), special=st.booleans())
def test_ids_and_offsets_are_those_of_the_whole(kind, texts, special):
    whole = WHOLE[kind]
    part = pickle.loads(pickle.dumps(text_tokenizer(whole)))
    assert isinstance(part, TextTokenizer)
    for asked in (texts, texts[0]):
        expected = whole(asked, add_special_tokens=special, return_offsets_mapping=True)
        found = part(asked, add_special_tokens=special, return_offsets_mapping=True)
        assert list(found["input_ids"]) == list(expected["input_ids"])
        assert list(found["offset_mapping"]) == list(expected["offset_mapping"])
        fast = part(asked, add_special_tokens=special)
        assert fast == {"input_ids": list(expected["input_ids"])}


def test_what_cannot_be_parted_stays_whole(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\n")
    fast = BertTokenizer(str(tmp_path / "vocab.txt"))
    assert text_tokenizer(fast)("a")["input_ids"] == fast("a")["input_ids"] == [1, 3, 2]

    class Own(PreTrainedTokenizerFast):
        def __call__(self, text, **options):
            return super().__call__(text.lower(), **options)

    own = Own(tokenizer_object=byte_level().backend_tokenizer)
    assert text_tokenizer(own) is own
    part = text_tokenizer(byte_level())
    assert text_tokenizer(part) is part


def test_a_worker_imports_no_torch(tmp_path):
    """It unpickles the part and tokenizes examples as the driver does with the whole."""
    whole, prompt = sentence_piece(), PromptConfig(template="alpaca", max_length=400)
    turns = [{"role": "user", "text": "a abc"}, {"role": "assistant", "text": " and\n<s>"}]
    tokenized_apart(tmp_path, [Example(turns)], prompt, whole, imported=[])
    [(ids, *_)] = encode([Example(turns)], prompt, whole)
    assert ids[0] == whole.bos_token_id and ids[-1] == whole.eos_token_id


def test_a_worker_renders_chats_without_torch(tmp_path):
    examples = [Example(*SHAPES[shape]) for shape in ("single", "masked", "tools")]
    prompt = PromptConfig(template="chat", max_length=400)
    tokenized_apart(tmp_path, examples, prompt, tokenizer_of("qwen3"), imported=["transformers"])


def tokenized_apart(tmp_path, examples, prompt, whole, *, imported):
    """See that another process makes the same tokens with the part, and what it imports."""
    part = text_tokenizer(whole)
    (tmp_path / "given").write_bytes(pickle.dumps((examples, prompt, part)))
    script = """
import pickle, sys
from s2l_ray.corpus.tokenization import encode
with open(sys.argv[1], "rb") as file:
    examples, prompt, part = pickle.load(file)
print(encode(examples, prompt, part))
print([name for name in ("torch", "transformers", "sklearn") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "given")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{encode(examples, prompt, whole)}\n{imported}\n"
