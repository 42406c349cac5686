"""Run in an environment with Axolotl: trains on an export, with the plugin of examples/axolotl.

axolotl_recorder.py DATASET_YAML MODEL OUT: writes each step's logged loss. OUT.trained/losses is
the recording.
"""

import json
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples/axolotl"))


def main(block, model, out):
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import do_train

    given = yaml.safe_load(Path(block).read_text()) | {
        "base_model": model,
        "plugins": ["recorder.Recorder"],
        "sequence_len": 2048,
        "micro_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_epochs": 2,
        "learning_rate": 1e-3,
        "optimizer": "adamw_torch",
        "output_dir": f"{out}.trained",
        "dataset_prepared_path": f"{out}.prepared",
        "val_set_size": 0.0,
        "dataset_processes": 1,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "bf16": False,
        "attn_implementation": "eager",
    }
    config = Path(f"{out}.yaml")
    config.write_text(yaml.safe_dump(given))
    do_train(load_cfg(str(config)), TrainerCliArgs())
    state = json.loads(Path(f"{out}.trained/checkpoint-2/trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    Path(out).write_text(json.dumps(losses))


if __name__ == "__main__":  # its workers import this file
    main(*sys.argv[1:])
