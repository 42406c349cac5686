"""What a run says about its corpus and its budget before it trains anything."""

import random
import string

import pytest
from support.runs import corpus, rows, settings

from s2l_ray.config import CorpusConfig
from s2l_ray.pipeline import subset as pipeline
from s2l_ray.pipeline.told import budget_told, corpus_told, tokens_told
from s2l_ray.store import Manifest, Part
from s2l_ray.store.views import CorpusView, TokensView

REASONS = [
    ["empty response", 700, "a.jsonl:12"],
    ["not JSON", 80, "a.jsonl:3"],
    ["unknown role", 9, "b.jsonl:1"],
    ["no prompt", 1, "b.jsonl:7"],
]


def corpus_of(**changes):
    info = {
        "rows_read": 10_000, "examples": 9000, "heldout": 150, "duplicates": 0, "rejected": 0,
        "rejected_reasons": [], "by_source": {"a": 4000, "b": 5000},
        "files": ["a.jsonl", "b.jsonl"],
    }  # fmt: skip
    return CorpusView(Manifest("corpus/c", "c", [], info | changes))


def tokens_of(*parts, **info):
    names = ("rows", "trainable", "trainable_tokens", "label_tokens", "truncated", "response_lost")
    made = []
    for number, values in enumerate(parts):
        stats = dict(zip(names, values, strict=True))
        made.append(Part(f"part-{number:05d}", "f", stats.pop("rows"), 1, "c", stats))
    return TokensView(Manifest("tokens/t", "t", made, {"max_length": 160} | info))


def test_a_corpus_without_losses_takes_one_line():
    assert corpus_told(CorpusConfig(path="a"), corpus_of(), "run/rejected") == [
        "corpus: 9,000 examples from 2 sources and 150 held out, of 10,000 rows in 2 files"
    ]


def test_duplicates_and_the_three_most_common_reasons():
    seen = corpus_of(heldout=0, duplicates=60, rejected=790, rejected_reasons=REASONS)
    told = corpus_told(CorpusConfig(path="a"), seen, "run/rejected")
    assert told == [
        "corpus: 9,000 examples from 2 sources, of 10,000 rows in 2 files",
        "corpus: 60 exact duplicates dropped",
        "corpus: 790 rows (7.9%) rejected: empty response (700; first at a.jsonl:12); not JSON "
        "(80; first at a.jsonl:3); unknown role (9; first at b.jsonl:1); and 1 more reason; kept "
        "in run/rejected",
    ]
    kept = corpus_told(CorpusConfig(path="a", duplicates="number"), seen, "run/rejected")
    assert kept[1] == "corpus: 60 exact duplicates kept (corpus.duplicates: number)"


def test_truncated_examples_and_what_to_do():
    tokens = tokens_of((600, 555, 50_000, 20_000, 400, 45), (400, 350, 30_000, 12_000, 297, 50))
    assert tokens_told(tokens) == [
        "tokens: 80,000 tokens in 905 examples, 40.0% of them labels",
        "tokens: 697 of 1,000 examples truncated at 160 tokens, 95 have no response left; raise "
        "prompt.max_length",
    ]
    assert tokens_told(tokens_of((3, 3, 30, 20, 1, 0)))[1:] == [
        "tokens: 1 of 3 examples truncated at 160 tokens; raise prompt.max_length"
    ]
    assert tokens_told(tokens_of((3, 2, 30, 20, 0, 0)))[1:] == [
        "tokens: 1 example without a label token"
    ]


@pytest.mark.parametrize(
    "budget, told",
    [
        (0.11, "11% of the 905 examples with a label token: 100 examples"),
        ("0.05%", "0.05% of the 905 examples with a label token: 1 example"),
        ("2k tokens", "2,000 of 80,000 tokens (2.5%)"),
        (30, None),
    ],
)
def test_a_share_is_a_share_of_something(budget, told):
    tokens = tokens_of((1000, 905, 80_000, 32_000, 697, 95))
    expected = [f"selection.budget: {told}"] if told else []
    assert budget_told(settings("run", selection__budget=budget), tokens) == expected


def test_a_run_tells_it_right_after_tokenizing(local_ray, tmp_path, start, said):
    letters = random.Random(4)
    long = "".join(letters.choices(string.ascii_letters, k=400))  # far more than 48 tokens
    items = [row | {"source": "s"} for row in rows(40)]
    items += [{"instruction": f"{n}{long}", "output": "y", "source": "s"} for n in range(3)]
    items += [{"instruction": f"a{n}", "output": f"{n}{long}", "source": "s"} for n in range(2)]
    items += [items[0], {"instruction": "a", "output": "", "source": "s"}]
    run = start(
        settings(
            tmp_path / "run",
            corpus__heldout_share=0,
            corpus__max_rejected_share=0.5,
            selection__budget=0.5,
        )
    )
    pipeline.prepare(run, corpus(items))
    lines = said().splitlines()
    at = lines.index("corpus: 45 examples from 1 source, of 47 rows in 1 file")
    assert lines[at + 1] == "corpus: 1 exact duplicate dropped"
    assert lines[at + 2].startswith("corpus: 1 row (2.1%) rejected: ")
    assert lines[at + 2].endswith(
        f"; kept in {tmp_path}/run/{run.get(run.plan.corpus).folder}/rejected"
    )
    assert lines[at + 3].startswith("tokens: ") and lines[at + 3].endswith("of them labels")
    assert lines[at + 4] == (
        "tokens: 5 of 45 examples truncated at 48 tokens, 3 have no response left; raise "
        "prompt.max_length"
    )
    assert lines[at + 5 :] == [
        "selection.budget: 50% of the 42 examples with a label token: 21 examples"
    ]
    assert not (tmp_path / "run/proxy").exists()
