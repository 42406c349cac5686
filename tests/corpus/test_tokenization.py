"""Templates against hand-written text, label masks, truncation, chat templates."""

import pyarrow as pa
import pytest
from support.corpora import example, random_examples, write_corpus
from support.runs import settings as settings_of_run
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from s2l_ray.config import PromptConfig
from s2l_ray.corpus import tokenization
from s2l_ray.corpus.prompts import end_tokens, prompts_of
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import TemplateRefuses
from s2l_ray.corpus.tokenization import (
    encode,
    encode_table,
    examples_of,
    tokenize,
)
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.told import check_tokens
from s2l_ray.store import Manifest, Part
from s2l_ray.store.schemas import EXAMPLES, TOKENS
from s2l_ray.store.views import TokensView

SPECIAL = ["</s>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_tokenizer(*, bos=False, chat=None):
    """One token a byte: what is tokenised can be read back and counted by hand."""
    symbols = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(SPECIAL)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="</s>", bos_token="<s>" if bos else None
    )
    tokenizer.chat_template = chat
    return tokenizer


def turns(*pairs):
    return Example([{"role": role, "text": text} for role, text in pairs])


def one(example, prompt, tokenizer):
    """Whole text, the label texts (maximal runs of label tokens), ids, mask."""
    ((ids, mask, labels, truncated),) = encode([example], prompt, tokenizer)
    assert labels == sum(mask)
    assert len(ids) == len(mask)
    runs, last = [], False
    for token, is_label in zip(ids, mask, strict=True):
        if is_label:
            runs = [*runs[:-1], [*runs[-1], token]] if last else [*runs, [token]]
        last = is_label
    return tokenizer.decode(ids), [tokenizer.decode(run) for run in runs], truncated


ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."  # noqa: E501
ALPACA_INPUT = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request."  # noqa: E501
RADIOLOGY = "Below are the findings in a radiology report. Write an impression that diagnostically summarizes the findings."  # noqa: E501
CUSTOM = {"template": "custom"}
ASK = turns(("user", "Add 2 and 3."), ("assistant", "5"))
ASK_INPUT = turns(("user", "Add."), ("input", "2 and 3"), ("assistant", "5"))


@pytest.mark.parametrize(
    ("prompt", "example", "text"),
    [
        (
            {"template": "alpaca"},
            ASK,
            ALPACA + "\n\n### Instruction:\nAdd 2 and 3.\n\n### Response:5</s>",
        ),
        (
            {"template": "alpaca"},
            ASK_INPUT,
            ALPACA_INPUT
            + "\n\n### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:5</s>",
        ),
        (
            {"template": "radiology"},
            ASK,
            RADIOLOGY + "\n\n ### Findings:\nAdd 2 and 3.\n\n### Inpression:5</s>",
        ),
        ({"template": "plain"}, ASK, "Add 2 and 3.\n5</s>"),
        ({"template": "plain"}, ASK_INPUT, "Add.\n2 and 3\n5</s>"),
        (CUSTOM | {"prompt": "Q: {instruction} {x} A: "}, ASK, "Q: Add 2 and 3. {x} A: 5</s>"),
        (CUSTOM | {"prompt": "Q: {instruction}|"}, ASK_INPUT, "Q: Add.\n2 and 3|5</s>"),
        (
            {
                "template": "custom",
                "prompt": "{instruction}",
                "prompt_with_input": "[{input}] {instruction}, {input}: ",
            },
            ASK_INPUT,
            "[2 and 3] Add., 2 and 3: 5</s>",
        ),
        (
            {"template": "plain"},
            turns(
                ("system", "Be brief."),
                ("user", "one"),
                ("assistant", "1"),
                ("user", "two"),
                ("assistant", "2"),
            ),
            "Be brief.\n\none\n1</s>two\n2</s>",
        ),
    ],
)  # fmt: skip
def test_templates_and_labels(prompt, example, text):
    for bos in (False, True):
        tokenizer = byte_tokenizer(bos=bos)
        whole, labels, truncated = one(example, PromptConfig(**prompt), tokenizer)
        assert whole == ("<s>" if bos else "") + text
        assert labels == [
            turn["text"] + "</s>" for turn in example.turns if turn["role"] == "assistant"
        ]
        assert not truncated


def test_braces_and_names_of_fields_in_the_texts_are_text():
    for template in ("alpaca", "plain"):
        example = turns(("user", "{input} {0} {instruction}"), ("input", "{instruction} {{}} {a}"),
                        ("assistant", "{output}"))  # fmt: skip
        whole, labels, _ = one(example, PromptConfig(template=template), byte_tokenizer())
        assert whole.count("{input} {0} {instruction}\n") == 1
        assert whole.count("\n{instruction} {{}} {a}\n") == 1
        assert labels == ["{output}</s>"]


def test_tokens_are_those_of_the_pieces():
    """A BPE with a merge across prompt and response: it must not be used."""
    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    bpe = Tokenizer(models.BPE(vocab, [("a", "b")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    prompt = PromptConfig(template="custom", prompt="{instruction}")
    example = turns(("user", "aba"), ("assistant", "bab"))
    ((ids, mask, labels, _),) = encode([example], prompt, tokenizer)
    a, b, ab, end = (vocab[s] for s in ("a", "b", "ab", "</s>"))
    assert ids == [ab, a, b, ab, end]
    assert mask == [False, False, True, True, True]
    assert labels == 3


def test_truncation():
    tokenizer, plain = byte_tokenizer(), "plain"  # "Add 2 and 3.\n5</s>" has 15 tokens
    assert one(ASK, PromptConfig(template=plain, max_length=15), tokenizer)[1:] == (
        ["5</s>"],
        False,
    )
    cut = PromptConfig(template=plain, max_length=14)
    assert one(ASK, cut, tokenizer) == ("Add 2 and 3.\n5", ["5"], True)
    none = encode([ASK], PromptConfig(template=plain, max_length=13), tokenizer)[0]
    assert none[1] == [False] * 13
    assert none[2:] == (0, True)


def test_the_first_token_is_never_a_label():
    opening = turns(("assistant", "hi"), ("user", "yes"), ("assistant", "no"))
    prompt = PromptConfig(template="plain")
    assert one(opening, prompt, byte_tokenizer())[1] == ["i</s>", "no</s>"]
    assert one(opening, prompt, byte_tokenizer(bos=True))[1] == ["hi</s>", "no</s>"]


def test_an_example_without_a_token_has_no_mask():
    tokenizer = byte_tokenizer(chat=CHAT)
    assert encode([turns(("user", "x"))], PromptConfig(template="chat"), tokenizer) == [
        ([], [], 0, False)
    ]
    assert encode([], PromptConfig(), tokenizer) == []


def test_chat_labels_are_the_assistant_texts_and_end_markers():
    example = turns(
        ("system", "S"),
        ("user", "one"),
        ("assistant", " 1 "),
        ("user", "two"),
        ("input", "more"),
        ("assistant", "2"),
    )
    tokenizer = byte_tokenizer(chat=CHAT)
    whole, labels, _ = one(example, PromptConfig(template="chat"), tokenizer)
    assert whole == (
        "<|system|>\nS<|end|>\n<|user|>\none<|end|>\n<|assistant|>\n1<|end|>\n"
        "<|user|>\ntwo\n\nmore<|end|>\n<|assistant|>\n2<|end|>\n"
    )
    assert labels == ["1<|end|>\n", "2<|end|>\n"]
    ids = encode([example], PromptConfig(template="chat"), tokenizer)[0][0]
    assert ids == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_a_chat_that_the_assistant_opens_has_labels_where_it_answers():
    example = turns(("assistant", "hi"), ("user", "one"), ("assistant", "1"))
    tokenizer = byte_tokenizer(chat=CHAT)
    whole, labels, _ = one(example, PromptConfig(template="chat"), tokenizer)
    assert whole.startswith("<|assistant|>\nhi<|end|>\n<|user|>")
    assert labels == ["1<|end|>\n"]


def test_chat_templates_that_cannot_be_used():
    example = turns(
        ("user", "ask 1"), ("assistant", "say 1"), ("user", "ask 2"), ("assistant", "say 2")
    )
    forgets = "{% for m in messages[-2:] %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    for template, reason in {
        forgets: r"leaves out the text of turn 1 \(user\)",
        CHAT.replace("{{ m['content'] | trim }}", "{{ m.content if m.role == 'user' }}"): (
            r"leaves out the text of turn 2 \(assistant\)"
        ),
        CHAT + "{{ messages | length }}": "rewrites earlier turns",
        CHAT.replace("{% endif %}", "{{ 'Well,' }}{% endif %}"): (
            "begins a new answer differently from a given one"
        ),
        "{{ raise_exception('roles must alternate') }}": (
            "refuses the turns user, assistant, user, assistant: roles must alternate"
        ),
    }.items():
        with pytest.raises(TemplateRefuses, match=reason):
            encode([example], PromptConfig(template="chat"), byte_tokenizer(chat=template))


def test_a_tokenizer_that_puts_a_space_before_a_text():
    """SentencePiece's, as of Llama 2 and Mistral: a later piece has none, as in the whole text."""
    symbols = [*SPECIAL, "<unk>", "\u2581", "\n", *"abcdefghijklmnopqrstuvwxyz0123456789.?:QT"]
    bpe = Tokenizer(models.BPE({s: i for i, s in enumerate(symbols)}, [], unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    bpe.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    example = turns(("user", "Q one?"), ("assistant", "a b"), ("user", "two"), ("assistant", "c."))
    [(ids, mask, *_)] = encode([example], PromptConfig(template="plain"), tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert "".join(tokens) == "\u2581Q\u2581one?\na\u2581b</s>two\nc.</s>"
    labels = [token for token, is_label in zip(tokens, mask, strict=True) if is_label]
    assert "".join(labels) == "a\u2581b</s>c.</s>"
    marked = turns(("user", "Q"), ("assistant", "so: 12"))
    [(ids, mask, *_)] = encode([marked], PromptConfig(template="plain"), tokenizer, "so:")
    found = [i for i, is_label in zip(ids, mask, strict=True) if is_label]
    assert "".join(tokenizer.convert_ids_to_tokens(found)) == "\u258112</s>"


def test_a_template_that_closes_the_text_after_each_turn():
    """Phi's: without a generation prompt it ends with the end-of-sequence token."""
    closes = CHAT.replace("{% endif %}", "{% else %}</s>{% endif %}")
    example = turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    whole, labels, _ = one(example, PromptConfig(template="chat"), byte_tokenizer(chat=closes))
    assert labels == ["b<|end|>\n", "d<|end|>\n</s>"]
    assert whole.count("</s>") == 1


@pytest.mark.parametrize(
    "dated",
    [
        "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}\n",
        "{{ strftime_now('%d %b %Y') }}\n",
    ],
)
def test_the_date_in_a_template_is_always_the_same(dated):
    tokenizer = byte_tokenizer(chat=dated + CHAT)
    whole, _, _ = one(ASK, PromptConfig(template="chat"), tokenizer)
    assert whole.startswith("26 Jul 2024\n")


def test_the_tokens_that_end_a_response_come_after_it():
    """gpt-oss's template has special tokens before the text too."""
    before = CHAT.replace("{{ m['content'] | trim }}", "<s>{{ m['content'] | trim }}")
    tokenizer = byte_tokenizer(chat=before)
    ends = end_tokens(PromptConfig(template="chat"), tokenizer)
    assert tokenizer.convert_ids_to_tokens(ends) == ["</s>", "<|end|>"]


def test_examples_that_the_template_refuses_are_left_out_and_named(local_ray, store, monkeypatch):
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    byte_tokenizer(chat=no_system + CHAT).save_pretrained(store.address("tokenizer"))
    examples = [example(f"p{n}", "r") for n in range(20)]
    examples[3]["turns"].insert(0, {"role": "system", "text": "be kind"})
    corpus = write_corpus(store, examples, num_parts=1)
    given = store.read_part(corpus.folder, corpus.parts[0]).to_pylist()
    [bad] = [number for number, row in enumerate(given) if len(row["turns"]) == 3]
    monkeypatch.setattr(tokenization, "ROWS_AT_ONCE", 3)
    work = tokenization._Tokenize(
        store, corpus.folder, "tokenizer", PromptConfig(template="chat"), None
    )
    table, stats = work({"part": corpus.parts[0]})
    assert table["example_id"].to_pylist() == [row["example_id"] for row in given]
    assert [n for n, ids in enumerate(table["input_ids"].to_pylist()) if not ids] == [bad]
    assert (stats["trainable"], stats["refused"]) == (19, 1)
    reason = "the chat template refuses the turns system, user, assistant: no system"
    assert stats["refused_first"] == ["test.jsonl", 4, reason]

    def tokens_of(most):
        run = Run(settings_of_run("run", corpus__max_rejected_share=most), store, None)
        check_tokens("tokens", run, Manifest("t", "t", [Part("p", "f", 20, 1, "c", stats)], {}))

    tokens_of(0.05)
    told = r"tokens: 1 of 20 examples \(test\.jsonl:4 for one\): the chat template .*share 4"
    with pytest.raises(ValueError, match=told):
        tokens_of(0.04)


def test_a_tokenizer_without_end_token():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        encode([ASK], PromptConfig(), tokenizer)


MARKED = {  # response -> what follows the last marker, the end token apart
    "It is 4. The answer is 4": " 4",
    "The answer is 3.\nNo: The answer is:\n- 4.": ":\n- 4.",
    "The answer is": "",
    "the answer is 4": None,
    "The answer isn't 4, The answeris 4": "n't 4, The answeris 4",
    "Größe: The answer is ½ 🦜.": " ½ 🦜.",
}


def test_labels_after_a_marker():
    """A token that begins inside the marker is none of them."""
    symbols = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "sĠ"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    bpe = Tokenizer(models.BPE(vocab, [("s", "Ġ")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    spanning = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")
    prompt = PromptConfig(template="plain")
    for tokenizer in (byte_tokenizer(), byte_tokenizer(bos=True), spanning):
        for response, after in MARKED.items():
            example = turns(("user", "The answer is 7?"), ("assistant", response))
            [(ids, mask, labels, _)] = encode([example], prompt, tokenizer, "The answer is")
            assert ids == encode([example], prompt, tokenizer)[0][0]
            assert labels == sum(mask)
            kept = tokenizer.decode([i for i, label in zip(ids, mask, strict=True) if label])
            if tokenizer is spanning and after and after.startswith(" "):
                after = after[1:]
            assert kept == ("" if after is None else after + "</s>")
    cut = PromptConfig(template="plain", max_length=20)
    assert encode([example], cut, byte_tokenizer(), "The answer is")[0][2:] == (0, True)


def test_labels_after_a_marker_are_of_the_last_response():
    tokenizer, chat = byte_tokenizer(chat=CHAT), PromptConfig(template="chat")
    for last, kept in (("so: 2", " 2<|end|>\n"), ("two", "")):
        example = turns(("user", "a"), ("assistant", "so: 1"), ("user", "b"), ("assistant", last))
        [(ids, mask, *_)] = encode([example], chat, tokenizer, "so:")
        found = [i for i, label in zip(ids, mask, strict=True) if label]
        assert tokenizer.decode(found) == kept


def test_prompts_are_what_precedes_the_first_response_uncut():
    for settings, text in (({"template": "plain"}, "Add.\n2 and 3\n"),
                           ({"template": "chat"}, "<|user|>\nAdd.\n\n2 and 3<|end|>\n<|assistant|>\n")):  # fmt: skip  # noqa: E501
        tokenizer = byte_tokenizer(bos=settings["template"] == "plain", chat=CHAT)
        prompt = PromptConfig(**settings, max_length=5)
        [ids] = prompts_of([ASK_INPUT], prompt, tokenizer)
        assert tokenizer.decode(ids) == ("<s>" if tokenizer.bos_token else "") + text
        marks = ["</s>"] if settings["template"] == "plain" else ["</s>", "<|end|>"]
        assert tokenizer.convert_ids_to_tokens(end_tokens(prompt, tokenizer)) == marks


def test_a_table_without_rows():
    assert encode_table(EXAMPLES.empty_table(), PromptConfig(), byte_tokenizer()).schema == TOKENS


def test_the_stage(local_ray, store):
    """Each part on Ray as `encode` has it, in the corpus's parts, with counts."""
    corpus = write_corpus(store, random_examples(40), num_parts=3)
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.save_pretrained(store.address("tokenizer"))
    prompt = PromptConfig(template="plain", max_length=30)
    tokens = tokenize(
        store, corpus, tokenizer_folder="tokenizer", prompt=prompt, folder="tokens", fingerprint="t"
    )
    assert [part.unit for part in tokens.parts] == [part.unit for part in corpus.parts]
    assert tokens.info == {"tokenizer": "tokenizer", "max_length": 30}
    for part, source in zip(tokens.parts, corpus.parts, strict=True):
        table = store.read_part("tokens", part)
        examples = store.read_part(corpus.folder, source)
        assert table.schema.equals(TOKENS)
        assert table["example_id"].to_pylist() == examples["example_id"].to_pylist()
        expected = encode(examples_of(examples), prompt, tokenizer)
        rows = table.to_pylist()
        assert [(r["input_ids"], r["loss_mask"]) for r in rows] == [e[:2] for e in expected]
        assert part.stats == {
            "trainable": sum(r["num_label_tokens"] > 0 for r in rows),
            "truncated": sum(r["truncated"] for r in rows),
            "response_lost": sum(r["truncated"] and not r["num_label_tokens"] for r in rows),
            "trainable_tokens": sum(len(r["input_ids"]) for r in rows if any(r["loss_mask"])),
            "label_tokens": sum(sum(r["loss_mask"]) for r in rows),
            "refused": 0,
            "refused_first": [],
            "differs_first": [],
        }
    assert 0 < sum(part.stats["trainable"] for part in tokens.parts) < 40
    assert isinstance(store.read_part("tokens", tokens.parts[0]), pa.Table)


def test_tokens_are_counted_of_examples_with_a_label_token(local_ray, store):
    """By hand, one token a byte; the template adds a line's end, the response an end token."""
    examples = [
        example("abc", "xy"),  # 4 + 3 tokens
        example("p" * 25, "response"),  # 26, and 4 of 9 are left
        example("p" * 28, "r"),  # 29, and one is left
        example("p" * 29, "response"),  # 30: no label token is left
        example("p" * 99, "response"),
    ]
    byte_tokenizer().save_pretrained(store.address("tokenizer"))
    prompt = PromptConfig(template="plain", max_length=30)
    tokens = tokenize(
        store, write_corpus(store, examples), tokenizer_folder="tokenizer", prompt=prompt,
        folder="tokens", fingerprint="t",
    )  # fmt: skip
    assert TokensView(tokens).trainable_tokens == 7 + 30 + 30
    assert sum(part.stats["trainable"] for part in tokens.parts) == 3
