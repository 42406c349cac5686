"""A run directory written by version 0.1.0 is found complete.

tests/run_0_1_0 was made by `s2l_ray.select(ray.data.from_items(ROWS), config)` of that version.
"""

import shutil
from pathlib import Path

import pytest
import ray
from support.runs import files_of, stages_run

from s2l_ray.config import validate
from s2l_ray.pipeline.run import Run
from s2l_ray.pipeline.subset import select
from s2l_ray.report import gather

WRITTEN = Path(__file__).resolve().parents[1] / "run_0_1_0"
ROWS = [
    {"instruction": f"add {n} and 2", "output": str(n + 2), "source": "ab"[n % 2]}
    for n in range(48)
]
SHAPE = {
    "model_type": "gpt_neox", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 32,
}  # fmt: skip
CONFIG = {
    "name": "old",
    "corpus": {"path": "corpus.jsonl", "num_parts": 2},
    "prompt": {"template": "plain", "max_length": 32},
    "proxy": {
        "model": {"architecture": SHAPE, "tokenizer_vocab": 300},
        "max_steps": 4,
        "num_checkpoints": 2,
        "global_batch_size": 16,
        "micro_batch_size": 16,
        "learning_rate": 0.01,
    },
    "clusters": {"n_clusters": 3},
    "selection": {"budget": 12, "seed": 0},
}


@pytest.fixture
def run_dir(tmp_path):
    return Path(shutil.copytree(WRITTEN, tmp_path / "run"))


def test_every_stage_is_reused_and_the_report_is_written(local_ray, run_dir):
    config = validate(CONFIG | {"run_dir": str(run_dir)})
    before = files_of(run_dir)
    dataset = ray.data.from_items(ROWS, override_num_blocks=3)
    with Run.start(config) as run:
        selection = run.finish(lambda run: select(dataset, config, run=run))
        page = gather.write(run, selection)
    made, found = stages_run(run_dir)
    assert made == []
    assert found == ["corpus", "tokens", "proxy", "losses", "trajectories", "clusters",
                     "selections/s2l-seed0"]  # fmt: skip
    after = files_of(run_dir)
    assert {path: after[path] for path in before} == before
    assert len(selection.dataset().take_all()) == 12 == selection.info["examples"]
    assert "<title>" in Path(page).read_text()
