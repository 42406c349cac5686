"""What a user sees of an error in a remote process: one sentence, whatever the stage."""

import json
import subprocess
import sys

import pytest
import yaml
from support.head import REPOSITORY, environment
from support.runs import architecture, rows, settings
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

# One process, and one Ray for all: a line of arguments is a command.
PROGRAM = """
import json
import sys
import time
from s2l_ray import cli
from s2l_ray.execution.connect import connect
from s2l_ray.execution.parts import fold_parts

def fail(part):
    time.sleep(part)
    raise ValueError(f"part {part} is wrong")

connect()
for line in sys.stdin:
    print("command", file=sys.stderr, flush=True)
    try:
        cli.main(json.loads(line))
    except SystemExit as ended:
        print("exit", ended.code, file=sys.stderr, flush=True)
print("command", file=sys.stderr, flush=True)
try:
    list(fold_parts(fail, [0.1, 0, 0, 0.2]))
except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
time.sleep(2)  # the other parts fail meanwhile
"""


@pytest.mark.slow
def test_an_error_in_any_stage_is_one_line(tmp_path, tmp_ray):
    good, bad, tokenizer = tmp_path / "good.jsonl", tmp_path / "bad.parquet", tmp_path / "tokenizer"
    good.write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    bad.write_bytes(b"PAR1 and no more")
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tokenizer)
    config = settings(tmp_path / "run", corpus__path=str(good), selection__budget=10)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    endless = {"architecture": architecture("gpt_neox"), "tokenizer": str(tokenizer)}
    commands = {  # what the sentence says -> what is wrong
        "bad.parquet": [f"corpus.path={bad}"],
        "no end-of-sequence token": [f"proxy.model={json.dumps(endless)}"],
        "the training loss is": ["proxy.learning_rate=1e30"],
    }
    given = [json.dumps(["select", str(file), *wrong]) for wrong in commands.values()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input="\n".join(given), cwd=REPOSITORY, text=True,
        env=environment(RAY_TMPDIR=str(tmp_ray)), capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    *told, last = [text.splitlines() for text in done.stderr.split("command\n")[1:]]
    assert len(told) == len(commands)
    for lines, sentence in zip(told, commands, strict=True):
        *before, error, end = lines
        assert all(line.startswith("[") for line in before), before  # progress
        assert error.startswith("error: ") and sentence in error
        assert end == "exit 1"
    assert last == ["error: part 0.1 is wrong"]
