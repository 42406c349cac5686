"""Random examples with their label tokens marked: in the terminal and in the report."""

import dataclasses
import json
import re

from support.chat_families import tokenizer_of
from support.reports import report_data

from s2l_ray.commands import COMMANDS
from s2l_ray.config import validate
from s2l_ray.report.data import Labelled
from s2l_ray.report.labelled import as_text
from s2l_ray.report.page import render

FOUR = Labelled(
    "a.jsonl:7",
    "sums",
    [("<|im_start|>", False), ("user", False), ("\n", False), ("<b>", False), ("Fo", True),
     ("ur", True), ("<|im_end|>", True)],
)  # fmt: skip


def test_labels_in_a_terminal():
    assert as_text([FOUR, FOUR]).splitlines() == [
        "1 of 2: a.jsonl:7, source sums, 7 tokens, 3 labels",
        "        <|im_start|>|user|⏎|<b>|",
        " LABEL  Fo|ur|<|im_end|>|",
        "",
        "2 of 2: a.jsonl:7, source sums, 7 tokens, 3 labels",
        "        <|im_start|>|user|⏎|<b>|",
        " LABEL  Fo|ur|<|im_end|>|",
    ]
    wide = as_text([Labelled("a:1", "b", [("word ", True)] * 40 + [("\x1b", True)])])
    assert max(map(len, wide.splitlines())) <= 100
    assert wide.count("word |") == 40 and wide.count(" LABEL ") == 3
    assert "\x1b" not in wide


def test_labels_in_the_report():
    data = dataclasses.replace(
        report_data(K=2, T=2),
        labelled=[FOUR],
        labels_told=["text and labels follow qwen3_training"],
    )
    page = render(data)
    section = re.search("<summary>Label tokens, one by one</summary>(.*?)<dl", page, re.DOTALL)[1]
    assert "<p>Text and labels follow qwen3_training.</p>" in section
    assert "7 tokens, 3 labels" in section
    assert (
        "<span>&lt;b&gt;</span><mark>Fo</mark><mark>ur</mark><mark>&lt;|im_end|&gt;</mark>"
        in section
    )
    long = Labelled("a:1", "b", [("x", False)] * 2500)
    assert "[500 more tokens]" in render(dataclasses.replace(data, labelled=[long]))
    assert "Label tokens" not in render(report_data(K=2, T=2))


def test_the_command_shows_random_examples(local_ray, tmp_path, capsys):
    answer = {"role": "assistant", "content": "Done."}
    rows = [{"messages": [{"role": "user", "content": f"Add {n}."}, answer]} for n in range(20)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = validate(
        {
            "name": "tiny",
            "run_dir": str(tmp_path / "run"),
            "corpus": {"path": str(tmp_path / "corpus.jsonl"), "num_parts": 2},
            "prompt": {"template": "chat", "chat_template": "qwen3"},
            "proxy": {
                "model": {
                    "architecture": {"model_type": "llama"},
                    "tokenizer": str(tmp_path / "tokenizer"),
                },
                "num_checkpoints": 2,
            },
        }
    )
    shown = []
    for _ in range(2):
        COMMANDS["inspect"].work(config, 3)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert len(re.findall(r"^\d of 3: \S*corpus\.jsonl:\d+, source default", shown[0], re.M)) == 3
    labels = re.findall(r"^ LABEL  (.*)$", shown[0], re.M)
    assert [line.replace("|", "") for line in labels] == ["Done.<im_end>⏎"] * 3
    assert len(set(re.findall(r"corpus\.jsonl:\d+", shown[0]))) == 3
