"""Run in an environment with LLaMA-Factory: reads an export with its loader and tokenizes it.

llamafactory_reader.py SETTINGS EXPORT DATASET TOKENIZER OUT: writes input_ids and labels as JSON.
"""

import json
import sys

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

settings, folder, name, tokenizer, out = sys.argv[1:]
with open(settings) as file:
    given = yaml.safe_load(file)
model_args, data_args, training_args, _, _ = get_train_args(
    given
    | {
        "model_name_or_path": tokenizer,
        "dataset_dir": folder,
        "dataset": name,
        "output_dir": f"{out}.trained",
        "overwrite_cache": True,
        "use_cpu": True,
        "bf16": False,
    }
)
found = load_tokenizer(model_args)
template = get_template_and_fix_tokenizer(found["tokenizer"], data_args)
dataset = get_dataset(template, model_args, data_args, training_args, stage="sft", **found)
rows = [{key: row[key] for key in ("input_ids", "labels")} for row in dataset["train_dataset"]]
with open(out, "w") as file:
    json.dump(rows, file)
