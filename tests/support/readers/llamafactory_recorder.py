"""Run in an environment with LLaMA-Factory: trains on an export, with a LossRecorder.

llamafactory_recorder.py SETTINGS EXPORT DATASET MODEL LOSSES OUT: writes each step's logged loss.
"""

import json
import sys

import yaml
from llamafactory.train.tuner import run_exp

from s2l_ray.record import LossRecorder

settings, folder, name, model, losses, out = sys.argv[1:]
with open(settings) as file:
    given = yaml.safe_load(file)
changes = {
    "model_name_or_path": model,
    "dataset_dir": folder,
    "dataset": name,
    "output_dir": f"{out}.trained",
    "overwrite_cache": True,
    "use_cpu": True,
    "bf16": False,
    "finetuning_type": "full",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 2.0,
    "logging_steps": 1,
    "save_strategy": "no",
}
del given["lora_target"]
run_exp(given | changes, callbacks=[LossRecorder(losses)])
with open(f"{out}.trained/trainer_log.jsonl") as file:
    logged = [json.loads(line) for line in file]
with open(out, "w") as file:
    json.dump([row["loss"] for row in logged if "loss" in row], file)
