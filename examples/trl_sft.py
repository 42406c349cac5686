"""The target trained by TRL's SFTTrainer: `target.train: examples.trl_sft:train`.

    s2l-ray finetune my.yaml target.train=examples.trl_sft:train

Run it from the folder that has examples/ in it. `config` and the datasets: docs/own-loop.md.
"""

from typing import Any

import ray.train


def train(config: dict[str, Any]) -> None:
    """Train on one Ray Train worker. SFTTrainer splits the examples over the workers itself."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings, world = config["training"], ray.train.get_context().get_world_size()
    share = settings["global_batch_size"] // world
    whole = ray.train.get_dataset_shard("whole")
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in whole.iter_rows()]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(config["model"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(config["tokenizer"]),
        train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=config["output"],
            max_steps=config["steps"],
            per_device_train_batch_size=settings["micro_batch_size"],
            gradient_accumulation_steps=share // settings["micro_batch_size"],
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=settings["warmup_share"],  # below 1 it is a share
            weight_decay=settings["weight_decay"],
            max_grad_norm=settings["max_grad_norm"],
            gradient_checkpointing=settings["gradient_checkpointing"],
            bf16=settings["model"]["dtype"] == "bfloat16",
            max_length=config["max_length"],
            seed=config["seed"],
            use_cpu=not torch.cuda.is_available(),
            logging_steps=max(1, config["steps"] // 100),
            save_steps=settings["resume_every"],
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
        ),
        callbacks=[reporter()],
    )
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        trainer.train()
    else:
        with checkpoint.as_directory() as folder:
            trainer.train(resume_from_checkpoint=folder)
    trainer.save_model(config["output"])


def reporter() -> Any:
    """Return a callback that reports the trainer's logs and checkpoints to Ray Train."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs, **more):
            if "loss" in logs:
                told = {"step": state.global_step, "loss": logs["loss"]}
                ray.train.report(told | {"tokens": logs.get("num_tokens")})

        def on_save(self, args, state, control, **more):
            folder = f"{args.output_dir}/checkpoint-{state.global_step}"
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": state.global_step}, checkpoint=checkpoint)

    return Reporter()
