"""Adapters trained by several processes, against peft in plain torch."""

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from support.lora import LORA, base_in, batches, by_group, by_peft, config_of, train
from support.training import config_of as job_config
from transformers import AutoModelForCausalLM

from s2l_ray.models.loss import LabelLoss

BF16, FOUR_BITS = {"dtype": "bfloat16"}, {"quantize": "4bit"}
# Otherwise weights as small as these are never gathered and released.
ZERO_3 = {
    "zero_stage": 3,
    "deepspeed": {"zero_optimization": {"stage3_param_persistence_threshold": 0}},
}

ENGINES = {
    "ddp": {},
    "ddp, checkpointing": {"gradient_checkpointing": True},
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": ZERO_3,
    "zero3, checkpointing": ZERO_3 | {"gradient_checkpointing": True},
    "zero3, dora": ZERO_3 | {"lora": LORA | {"use_dora": True}},
    "ddp, bf16": BF16,
    "zero2, bf16": BF16 | {"zero_stage": 2},
    "zero3, bf16": BF16 | ZERO_3,
    "ddp, 4 bits": FOUR_BITS,
    "zero2, 4 bits": FOUR_BITS | {"zero_stage": 2},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_in(tmp_path_factory.mktemp("base") / "model")


def adapter(folder):
    found = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): tensor for name, tensor in found.items()}


def assert_near(found, expected, atol=2e-6):
    expected = {name.removeprefix("base_model.model."): each for name, each in expected.items()}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol, msg=name)


def losses_of(model):
    ids_BL, mask_BL = next(iter(batches()))
    return LabelLoss(model).eval()(ids_BL, mask_BL).detach()


def test_one_process_trains_like_peft(base, tmp_path):
    losses = train(config_of(base), tmp_path / "whole", merge_into=tmp_path / "merged")
    expected, weights = by_peft(config_of(base))
    np.testing.assert_allclose(losses, expected, atol=1e-6)
    assert_near(adapter(tmp_path / "whole"), weights)
    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "whole")
    own = losses_of(loaded.get_base_model())
    merged = losses_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(own, merged, rtol=0, atol=2e-5)
    assert (own - losses_of(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.1


@pytest.fixture(scope="module")
def by_two(base, tmp_path_factory):
    """All engines, trained in one group of processes."""
    root = tmp_path_factory.mktemp("engines")
    two = {"workers": {"num_workers": 2}}
    by_group({name: config_of(base, **two, **how) for name, how in ENGINES.items()}, root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_like_peft_and_resume_to_the_same_bits(base, by_two, engine):
    place, how = by_two / engine, ENGINES[engine]
    config = config_of(base, **how)
    bf16, four_bits = config.model.dtype == "bfloat16", config.lora.quantize is not None
    expected, weights = by_peft(config, four_bits=four_bits)
    losses = json.loads((place / "losses.json").read_text())
    np.testing.assert_allclose(losses, expected, atol=0.05 if bf16 else 1e-6)
    whole, resumed = (adapter(place / name) for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    if bf16:
        saved = torch.bfloat16 if config.zero_stage else torch.float32
        assert {tensor.dtype for tensor in whole.values()} == {saved}
    else:
        assert_near(whole, weights)
    if not four_bits:
        # By peft: transformers alone does not find the magnitudes of DoRA.
        own = losses_of(
            peft.AutoPeftModelForCausalLM.from_pretrained(place / "whole").get_base_model()
        )
        merged = losses_of(AutoModelForCausalLM.from_pretrained(place / "merged"))
        torch.testing.assert_close(own, merged, rtol=0, atol=0.05 if bf16 else 2e-5)
    # A resume point is small: adapters, their moments, and no pretrained weight.
    names = {name for file in (place / "half").glob("optimizer*") for name in load_file(file)}
    assert all("lora_" in name or name == "step" for name in names)
    assert not (place / "half/model.safetensors").exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(job, base):
    """By Ray Train. Resume points hold no pretrained weight."""
    config = job_config(
        model={"name": base}, lora=LORA | {"dropout": 0.1}, max_failures=1, resume_every=2
    )
    manifest = job.run("lora", config)
    job.run("lora-killed", config, ("step-000004",))
    assert job.notes("lora-killed")[-1] == "kill step-000004"
    for step in manifest.info["checkpoints"]:
        found, expected = (
            adapter(Path(job.store.address(name, f"checkpoint-{step:06d}")))
            for name in ("lora-killed", "lora")
        )
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
