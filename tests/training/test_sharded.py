"""ZeRO on two workers against DDP and against the files of the model, with each worker's share."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.ranks import on_ranks
from support.training import BASE, config_of

from s2l_ray.models import chunked
from s2l_ray.models import loss as loss_module
from s2l_ray.models.loading import initial_model
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import make_engine, placing_of
from s2l_ray.training.step import share_of, train_step

_pass = chunked._pass
CPU = torch.device("cpu")
# Otherwise weights as small as these are never gathered and released.
ALL_GATHERED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
ZERO_3 = {"zero_stage": 3, "deepspeed": ALL_GATHERED}


class Tokenizer:
    bos_token_id = eos_token_id = pad_token_id = 0

    def __len__(self):
        return 320


def examples(step, longest=24):
    random = np.random.default_rng(step)
    found = []
    for _ in range(8):
        length = int(random.integers(4, longest))
        mask = random.random(length) < 0.5
        mask[-1] = True
        found.append((random.integers(0, 320, length), mask))
    return found


def begin(config, freeze=""):
    """The loss of a worker's model, and what it holds after loading: whole elements, shares."""
    import torch.distributed as dist

    placing = placing_of(config, CPU, dist.get_world_size())
    model = initial_model(config.model, Tokenizer(), seed=5, placing=placing)
    for name, weights in model.named_parameters():
        weights.requires_grad_(not freeze or freeze not in name)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    held = {
        name: (weights.numel(), getattr(weights, "ds_tensor", weights).numel())
        for name, weights in model.named_parameters()
    }
    return LabelLoss(model), held


def masters_of(loss):
    from deepspeed.utils import safe_get_full_fp32_param

    return {
        name: safe_get_full_fp32_param(weights).clone()
        for name, weights in loss.model.named_parameters()
        if weights.requires_grad
    }


def train(changes, steps=3, freeze="", rows=None):
    """What two workers get from a short training. rows: of a chunk of logits."""
    import torch.distributed as dist

    loss_module.LOGITS_AT_ONCE = 320 * rows if rows else 1 << 26
    passes = []
    chunked._pass = lambda *given: passes.append(len(given)) or _pass(*given)
    config = config_of(**changes)
    loss, held = begin(config, freeze)
    engine = make_engine(loss, config, CPU, dist.get_world_size())
    masters = masters_of(loss) if config.zero_stage else {}
    curve, released = [], []
    for step in range(steps):
        batch = share_of(examples(step), micro_batch_size=2, rank=dist.get_rank(), world=2)
        result = train_step(engine, batch, 1e-3, device=CPU)
        curve.append((float(result.loss), float(result.norm)))
        released.append(sum(weights.numel() for weights in loss.parameters()))
    whole = masters_of(loss) if config.zero_stage else dict(loss.model.named_parameters())
    whole = {name: weights.detach().clone() for name, weights in whole.items()}
    return {"curve": curve, "held": held, "masters": masters, "weights": whole,
            "released": released, "apart": loss.head_apart, "passes": passes}  # fmt: skip


def train_all(cases):
    return {name: train(*case) for name, case in cases.items()}


def pretrained(root, dtype):
    """A folder with a pretrained model of weights that bf16 and fp16 round."""
    model = initial_model(config_of().model, Tokenizer(), seed=9).to(dtype)
    folder = root / str(dtype)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two workers got from each case."""
    root = tmp_path_factory.mktemp("pretrained")
    cases = {
        "ddp": ({},),
        "ddp checkpointing": ({"gradient_checkpointing": True},),
        "ddp frozen": ({}, 3, "layers.0."),
        "zero 3": (ZERO_3,),
        "zero 3 checkpointing": (ZERO_3 | {"gradient_checkpointing": True},),
        "zero 3 frozen": (ZERO_3, 3, "layers.0."),
        "zero 3 chunks": (ZERO_3, 3, "", 12),
    }
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = {"name": pretrained(root, dtype), "dtype": "bfloat16"}
        for stage in (1, 2, 3):
            how = ZERO_3 if stage == 3 else {"zero_stage": stage}
            changes = how | {"model": model, "micro_batch_size": 4}
            cases[f"{dtype} zero {stage}"] = (changes, 1)
    return root, on_ranks(train_all, cases)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", " checkpointing", " frozen"])
def test_zero_3_that_gathers_everything_trains_like_ddp(found, how):
    for worker in found[1]:
        zero, ddp = worker[f"zero 3{how}"], worker[f"ddp{how}"]
        assert zero["apart"] and ddp["apart"]
        np.testing.assert_allclose(zero["curve"], ddp["curve"], rtol=1e-5)
        assert len(zero["weights"]) == len(ddp["weights"]) - (9 if how == " frozen" else 0)
        for name, weights in zero["weights"].items():
            torch.testing.assert_close(weights, ddp["weights"][name], rtol=0, atol=1e-5)
        assert zero["released"] == [0, 0, 0]  # no weight is left whole after a step


@pytest.mark.slow
def test_workers_with_more_and_fewer_label_tokens_gather_the_head_equally_often(found):
    """Otherwise they would wait for one another. Each chunk of logits is made once."""
    for worker in found[1]:
        zero, ddp = worker["zero 3 chunks"], worker["ddp"]
        np.testing.assert_allclose(zero["curve"], ddp["curve"], rtol=1e-5)
        for name, weights in zero["weights"].items():
            torch.testing.assert_close(weights, ddp["weights"][name], rtol=0, atol=1e-5)
    first, second = (worker["zero 3 chunks"]["passes"] for worker in found[1])
    assert set(first + second) == {6} and 0 < len(first) != len(second) > 0


@pytest.mark.slow
def test_no_worker_of_zero_3_holds_the_whole_model_and_all_start_as_an_unsharded_run(found):
    start = dict(initial_model(config_of().model, Tokenizer(), seed=5).named_parameters())
    for worker in found[1]:
        zero = worker["zero 3"]
        for name, weights in start.items():
            assert zero["held"][name] == (0, weights.numel() // 2)
            assert torch.equal(zero["masters"][name], weights)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_fp32_masters_are_the_unrounded_weights_of_the_file(found, dtype, stage):
    root, workers = found
    stored = load_file(root / f"torch.{dtype}" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}"}
    for worker in workers:
        masters = worker[f"torch.{dtype} zero {stage}"]["masters"]
        assert masters.keys() == stored.keys()
        for name, tensor in stored.items():
            assert torch.equal(masters[name], tensor.float()), name
    assert BASE["model"]["architecture"]["tie_word_embeddings"]  # one weight of two names
