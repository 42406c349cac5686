"""Trainings of adapters by several processes without Ray, and the same by peft in plain torch."""

import json
import os
from functools import partial
from pathlib import Path

import peft
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from s2l_ray.config import TrainingConfig
from s2l_ray.models.adapters import model_with_adapters
from s2l_ray.models.loss import LabelLoss
from s2l_ray.training.engines import make_engine, placing_of
from s2l_ray.training.pieces import SavedPieces, copied, file_of, write
from support.models import SHAPES, SMALL, VOCAB

SEED = 5
STEPS = 4
RATE = 1e-2
LORA = {"r": 4, "alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]}


def base_in(folder, kind="llama", **shape):
    """A pretrained model in a folder, whose name is returned."""
    torch.manual_seed(0)
    shape = SHAPES.get(kind, SMALL) | {"initializer_range": 0.1} | shape
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    return str(folder)


def config_of(base, lora=LORA, *, dtype="float32", quantize=None, **changes):
    settings = {
        "model": {"name": base, "dtype": dtype},
        "lora": lora | {"quantize": quantize},
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "workers": {"num_workers": 1},
    }
    return TrainingConfig.model_validate(settings | changes)


def batches():
    """input_ids [8, 20] and loss_mask [8, 20] of each step."""
    random = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        mask_BL = torch.rand(8, 20, generator=random) < 0.5
        mask_BL[:, 0], mask_BL[:, -1] = False, True
        yield torch.randint(0, VOCAB, (8, 20), generator=random), mask_BL


def by_peft(config, four_bits=False):
    """Losses of the steps, and the final weights as peft would save them, from a plain loop."""
    settings = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 12}
    settings["target_modules"] = ["q_proj", "v_proj", "down_proj"]
    settings["use_dora"] = config.lora.use_dora
    how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    base = AutoModelForCausalLM.from_pretrained(
        config.model.name,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(**how) if four_bits else None,
    )
    torch.manual_seed(SEED)
    model = peft.get_peft_model(base, peft.LoraConfig(**settings)).train()
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.1)
    losses, norms = [], []
    for ids_BL, mask_BL in batches():
        labels_BL = torch.where(mask_BL, ids_BL, -100)[:, 1:]
        logits_BLV = model(input_ids=ids_BL).logits[:, :-1]
        loss = F.cross_entropy(logits_BLV.flatten(0, 1), labels_BL.flatten())
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 0.5).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert max(norms) > 0.5  # the clipping is at work
    return losses, peft.get_peft_model_state_dict(model, save_embedding_layers=False)


def train(config, out, *, steps=(0, STEPS), resume=None, merge_into=None):
    """Train in this process, one of a group if there is one; save; return each step's loss."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    sharding = placing_of(config, torch.device("cpu"), world).sharding
    model = model_with_adapters(config, config.model, seed=SEED, sharding=sharding)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss = LabelLoss(model)
    engine = make_engine(loss, config, torch.device("cpu"), world)
    if resume:
        names = sorted(file.name for file in Path(resume).glob("optimizer-*"))
        engine.restore(SavedPieces(lambda _: str(resume), names, ""), steps[0])
    losses = []
    for ids_BL, mask_BL in list(batches())[slice(*steps)]:
        labels, total = int(mask_BL.sum()), torch.zeros(())
        mine = list(range(rank, 8, world))
        micro_batches = [mine[i : i + 2] for i in range(0, len(mine), 2)]
        for rows in micro_batches:
            with engine.micro_batch(rows is micro_batches[-1]):
                losses_M = engine.forward(ids_BL[rows], mask_BL[rows])
                engine.backward(losses_M.sum() * (world / labels))
            total += losses_M.detach().float().sum()
        engine.step(RATE)
        if world > 1:
            dist.all_reduce(total)
        losses.append(float(total) / labels)
    Path(out).mkdir(parents=True, exist_ok=True)
    if save := engine.copy_model():
        save(str(out))
    write(map(copied, engine.pieces()), Path(out, file_of(rank)))
    if merge_into:
        Path(merge_into).mkdir(parents=True, exist_ok=True)
        if save := engine.copy_model(merge=True):
            save(str(merge_into))
    if world > 1:
        dist.barrier()
    return losses


def _member(rank, configs, root, world):
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=world)
    for name, config in configs.items():
        place = f"{root}/{name}"
        merged = None if config.lora.quantize else f"{place}/merged"
        losses = train(config, f"{place}/whole", merge_into=merged)
        train(config, f"{place}/half", steps=(0, 2))
        train(config, f"{place}/resumed", steps=(2, STEPS), resume=f"{place}/half")
        if rank == 0:
            Path(place, "losses.json").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


def by_group(configs, root, world=2):
    """Train by several processes, one configuration after the other.

    root/NAME has the adapter in whole/, merged in merged/, and in resumed/ after a stop at two
    steps, in half/; and losses.json, of the steps.
    """
    work = partial(_member, configs=configs, root=str(root), world=world)
    torch.multiprocessing.spawn(_call, args=(work,), nprocs=world)


def _call(rank, work):
    work(rank)
