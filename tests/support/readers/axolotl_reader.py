"""Run in an environment with Axolotl: reads an export with its loader and tokenizes it.

axolotl_reader.py DATASET_YAML TOKENIZER OUT: writes input_ids and labels as JSON.
"""

import json
import sys

import yaml
from axolotl.utils.config import normalize_config, validate_config
from axolotl.utils.data.sft import prepare_datasets
from axolotl.utils.dict import DictDefault
from transformers import AutoTokenizer


def main(block, folder, out):
    with open(block) as file:
        given = yaml.safe_load(file)
    given |= {
        "base_model": folder,
        "sequence_len": 2048,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-3,
        "output_dir": f"{out}.trained",
        "dataset_prepared_path": f"{out}.prepared",
        "val_set_size": 0.0,
        "dataset_processes": 1,
    }
    config = validate_config(DictDefault(given))
    normalize_config(config)
    dataset, *_ = prepare_datasets(config, AutoTokenizer.from_pretrained(folder))
    rows = [{key: row[key] for key in ("input_ids", "labels")} for row in dataset]
    with open(out, "w") as file:
        json.dump(rows, file)


if __name__ == "__main__":  # its workers import this file
    main(*sys.argv[1:])
