"""DeepSpeed against DDP, from the first step and from a resume point of another size."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.train
import torch
from support.training import BASE, assert_close, config_of
from transformers import AutoModelForCausalLM

from s2l_ray.models.loss import LabelLoss
from s2l_ray.scoring.scorer import score_table


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3, 1, 0])
def test_deepspeed_trains_like_ddp_and_resumes(job, undisturbed, stage):
    # With what the shipped configurations of large models have beside ZeRO-3.
    how = {"zero_stage": stage, "gradient_checkpointing": stage == 3}
    folder, config = f"zero{stage}", config_of(**how)
    if stage >= 2:  # stopped while a resume point is half written; goes on at another size
        one = config_of(**how, workers={"num_workers": 1})
        before, config = (config, one) if stage == 2 else (one, config)
        with pytest.raises(ray.train.TrainingFailedError):
            job.run(folder, before, deadly=("step-000004",))
    manifest = job.run(folder, config)
    if stage >= 2:
        assert job.notes(folder) == ["from step-000003", "kill step-000004"]
    assert manifest.info["checkpoints"] == [3, 6]
    np.testing.assert_allclose(manifest.info["history"], undisturbed.info["history"], atol=1e-5)
    assert_close(job.weights(folder, 3), job.weights("undisturbed", 3), atol=1e-5)
    assert_close(job.weights(folder), job.weights("undisturbed"), atol=1e-5)
    # The folder loads, and what it loads has the losses of DDP's.
    table = job.store.read_part("tokens", job.tokens.parts[0])
    found, expected = (
        score_table(table, LabelLoss(AutoModelForCausalLM.from_pretrained(job.store.address(path))))
        for path in (f"{folder}/checkpoint-000006", "undisturbed/checkpoint-000006")
    )
    np.testing.assert_allclose(found["loss"], expected["loss"], atol=1e-4)


@pytest.mark.slow
def test_deepspeed_keeps_to_the_device_that_it_is_given(tmp_path):
    """As on a machine whose GPU DeepSpeed sees, and Ray gave to nobody."""
    code = f"""
import torch
import torch.distributed as dist
from support.training import config_of
from s2l_ray.training.engines import make_engine
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
dist.init_process_group("gloo", init_method="file://{tmp_path}/group", rank=0, world_size=1)
class Tokenizer:
    bos_token_id = eos_token_id = pad_token_id = 0
    def __len__(self):
        return 320
config = config_of(zero_stage=2)
loss = LabelLoss(initial_model(config.model, Tokenizer(), seed=0))
engine = make_engine(loss, config, torch.device("cpu"), 1)
print(*{{weights.device.type for weights in loss.parameters()}})
"""
    environment = os.environ | {"DS_ACCELERATOR": "cuda", "LOCAL_RANK": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip
    assert found.stdout.split()[-1:] == ["cpu"], found.stderr[-3000:]


@pytest.mark.slow
def test_bf16_step_keeps_fp32_master_weights(job, undisturbed):
    """DeepSpeed ZeRO-2; one step, since bf16 is slow on many a CPU."""
    model = BASE["model"] | {"dtype": "bfloat16"}
    manifest = job.run(
        "bf16",
        config_of(
            model=model,
            zero_stage=2,
            max_steps=1,
            checkpoint_every=1,
            warmup_share=0,
            workers={"num_workers": 1},
        ),
    )
    (_, loss), (_, expected) = manifest.info["history"][0], undisturbed.info["history"][0]
    assert 0 < abs(loss - expected) < 0.05
    weights = job.weights("bf16", 1)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    loaded = AutoModelForCausalLM.from_pretrained(job.store.address("bf16/checkpoint-000001"))
    assert loaded.dtype == torch.bfloat16
