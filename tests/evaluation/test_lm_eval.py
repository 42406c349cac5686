"""lm-evaluation-harness on a model of ours, with a task of ours."""

import json
import math
import subprocess

import pytest
from support.environments import environment
from support.evaluation import lines_of
from support.head import REPOSITORY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from s2l_ray.config import TrajectoriesConfig
from s2l_ray.evaluation import lm_eval as module
from s2l_ray.evaluation.lm_eval import check_lm_eval, lm_eval

LM_EVAL = (
    "lm-eval==0.4.13", "evaluate==0.4.6", "pytablewriter==1.2.1", "DataProperty==1.1.1",
    "mbstrdecoder==1.1.5", "pathvalidate==3.3.1", "tabledata==1.3.5", "tcolorpy==0.1.7",
    "typepy==1.3.5", "sqlitedict==2.1.0", "word2number==1.1", "more-itertools", "chardet", "pytz",
)  # fmt: skip
TASK = {
    "task": "letters",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="lm-eval is not installed; install the extra 'lm-eval'"):
        check_lm_eval()


@pytest.fixture
def model(tmp_path):
    """A folder with a model that is sure of the letter after each letter: a, b, a, b, …"""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = {"<unk>": 0, "<eos>": 1, "a": 2, "b": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=4, num_attention_heads=1, **sizes))
    with torch.no_grad():
        for weights in made.parameters():
            weights.zero_()
        made.model.norm.weight.fill_(1)
        made.model.embed_tokens.weight.copy_(torch.eye(4))
        made.lm_head.weight[3, 2] = made.lm_head.weight[2, 3] = 9
    made.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.slow
def test_a_task_of_a_local_file(tmp_path):
    """The extra is not among the pinned packages: it gets an environment of its own, in which the
    function below is the test."""
    python, _ = environment(tmp_path / "env", *LM_EVAL)
    test = f"{__file__}::{with_the_harness.__name__}"
    found = ["-o", f"python_functions={with_the_harness.__name__}", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [python, "-m", "pytest", test, *found], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert "1 passed" in done.stdout, done.stdout[-4000:] + done.stderr[-1000:]


def with_the_harness(local_ray, store, model, tmp_path):
    rows = [{"question": "a b a", "answer": 1}, {"question": "b a b", "answer": 0}]
    rows += [{"question": "a", "answer": 1}, {"question": "b", "answer": 1}]  # the last is wrong
    data = lines_of(tmp_path / "letters.jsonl", rows)
    task = TASK | {"dataset_kwargs": {"data_files": {"test": data}}}
    file = tmp_path / "letters.yaml"
    file.write_text(json.dumps(task))  # JSON is YAML
    found = lm_eval(store, model, str(file), TrajectoriesConfig())
    error = math.sqrt(0.75 * 0.25 / 3)  # of the mean of four answers
    assert found == {"letters": {"acc": 0.75, "acc_stderr": pytest.approx(error)}}
    with pytest.raises(ValueError, match=r"--lm-eval nothing: the harness failed: .*nothing"):
        lm_eval(store, model, "nothing", TrajectoriesConfig())
