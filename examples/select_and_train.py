"""Select a subset and train on it with Ray Train, in one script.

    python examples/select_and_train.py my.yaml Qwen/Qwen2.5-0.5B-Instruct trained/

my.yaml is a configuration as for `s2l-ray select`. The loop is a small one of its own; it learns
the last answer of each chat. docs/own-loop.md runs a loop as a stage of the run instead.
"""

import sys
from pathlib import Path
from typing import Any

import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import s2l_ray


def main(config_path: str, model: str, output: str) -> None:
    config = s2l_ray.load(config_path)
    s2l_ray.connect(config.storage)
    selection = s2l_ray.select(None, config)
    print(selection)
    train_on(selection, model, output)


def train_on(selection: s2l_ray.Selection, model: str, output: str, workers: int = 2) -> Any:
    """Train a model on the chosen examples; the first worker saves it in a folder that all see."""
    return TorchTrainer(
        train,
        train_loop_config={"model": model, "output": str(Path(output).absolute())},
        datasets={"train": selection.dataset()},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) > 0
        ),
        run_config=RunConfig(storage_path=str(Path(output).absolute() / "ray")),
    ).fit()


def train(config: dict[str, Any]) -> None:
    """Train on one worker, which gets an equal share of the examples."""
    import torch
    from ray.train.torch import get_device, prepare_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(config["model"])
    model = AutoModelForCausalLM.from_pretrained(config["model"], dtype=torch.float32)
    model = prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    shard = ray.train.get_dataset_shard("train")
    for step, batch in enumerate(shard.iter_batches(batch_size=4, local_shuffle_buffer_size=1000)):
        rows = [
            labelled(chat, tools, tokenizer)
            for chat, tools in zip(batch["messages"], batch["tools"], strict=True)
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([torch.tensor(ids) for ids, _ in rows], True, 0).to(get_device())
        labels = pad([torch.tensor(labels) for _, labels in rows], True, -100).to(get_device())
        # Padding is on the right, where no token with a label sees it.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ray.train.report({"step": step + 1, "loss": loss.item()})
    if ray.train.get_context().get_world_rank() == 0:
        getattr(model, "module", model).save_pretrained(config["output"])
        tokenizer.save_pretrained(config["output"])


def labelled(chat: list[dict[str, Any]], tools: Any, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids of a chat, and labels for its last answer."""

    def encode(messages: list[dict[str, Any]], prompt: bool) -> list[int]:
        return tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=prompt, return_dict=False
        )

    whole, before = encode(chat, False), encode(chat[:-1], True)
    return whole, [-100] * len(before) + whole[len(before) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
